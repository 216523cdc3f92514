"""The iterations of one replica: what `start` schedules, how far it leaps, and what `complete` delivers at the end.

KV blocks are allocated in `start` (for a prompt) and freed in `end_prefill`, where a decoding sequence gets them back
through `requests.join_decode`.
"""
# ruff: noqa: PLR1730 - plain Python compares faster than it calls min() and max()

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import BLOCK_TOKENS, DEPTHS, FP
from llmserve_sim.engine.kernel.costs import decode_piece, mixed_ps, prefill_units, steps_within
from llmserve_sim.engine.kernel.histograms import add_gap, add_gaps, bin_of, hist_add
from llmserve_sim.engine.kernel.layout import (
    ENDS,
    G_BIN,
    G_CLOCK,
    G_COUNT,
    G_HEAP,
    G_HIGH,
    G_LOW,
    G_RATE,
    GROUP_SIZE,
    H_DECODERS,
    H_HANDOVER,
    H_LINK,
    H_PATIENCE,
    H_REPLICAS_END,
    H_TABLE,
    HIST_ITL,
    HIST_TTFT,
    NEVER,
    PIECE_EDGE,
    PIECE_SIZE,
    PIECE_SLOPE,
    PIECE_VALUE,
    PLAN_BATCH_CAP,
    PLAN_DEPTH,
    PLAN_HIT_HALF_BLOCKS,
    PLAN_HIT_Q10,
    PLAN_TOKENS_PER_STEP,
    R_ACTIVE,
    R_BLOCKS,
    R_CACHED,
    R_CONTEXT,
    R_DECODING,
    R_DEPTH,
    R_FIRST,
    R_GIVE_UP,
    R_GROUPS,
    R_GROUPS_END,
    R_GROWTH,
    R_HANDOVERS,
    R_JOINERS,
    R_LAST_END,
    R_LINK_FREE,
    R_NOW,
    R_PIECE,
    R_POOL,
    R_PREFILLS,
    R_RATED,
    R_READY,
    R_RISE,
    R_RUNNING,
    R_SPARE,
    R_START,
    R_STEPS,
    R_UNTIL,
    R_WAITING,
    S_ARRIVAL,
    S_CHAIN,
    S_CHUNK,
    S_CLASS,
    S_COMPUTED,
    S_FIRST,
    S_LAST,
    S_NEXT,
    S_OUTPUT,
    S_PRODUCED,
    S_PROMPT,
    S_READY,
    S_SCHEDULED,
    S_STORED,
    S_TARGET,
    S_TENANT,
    SLOT_BITS,
    TB_BUDGET,
    TB_CPU_SEQ,
    TB_DEC_T0,
    TB_DRAFT_STEP,
    TB_GEMM,
    TB_HEAD,
    TB_SPEC_SEQ,
    W_ACCEPTED_FP,
    W_BUSY_PS,
    W_DELIVERED_TOKENS,
    W_DRAFT_FP,
    W_FIRST_TOKENS,
    W_HANDOVERS,
    W_ITERATIONS,
    W_PREEMPTIONS,
    W_TTFT_SUM_PS,
)
from llmserve_sim.engine.kernel.linked import queue_clear, queue_pop, queue_push, ring_drop, ring_push
from llmserve_sim.engine.kernel.requests import (
    abandon_expired,
    blocks_of,
    finish,
    finish_due,
    join_decode,
    next_queue,
    num_used_blocks,
    preempt,
    victim,
)

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def sample_itl(a: Row, r: int, g: int, gap: int, steps: int, weight: int) -> None:
    """Count the gaps of sequences at the rate of group `g`: `gap`, then those of the iterations after the first."""
    first = a[r + R_FIRST]
    rise = a[r + R_RISE]
    if gap != first:
        add_gap(a, a[g + G_RATE], gap, weight)
        steps -= 1
        first += rise
    if a[g + G_LOW] <= first and first + (steps - 1) * rise < a[g + G_HIGH]:
        a[a[g + G_BIN]] += steps * weight
    elif steps > 0:
        add_gaps(a, g, first, rise, steps, weight)


def count_joiners(a: Row, r: int, gap: int, now: int) -> None:
    """Correct the gaps of slots that joined in the iteration ending now: theirs began at the hand-over."""
    s = a[r + R_JOINERS]
    while s != 0:
        rate = a[a[r + R_GROUPS] + a[s + S_TENANT] * GROUP_SIZE + G_RATE]
        hist_add(a, HIST_ITL, bin_of((now - a[s + S_LAST]) * FP // rate), rate)
        hist_add(a, HIST_ITL, bin_of(gap * FP // rate), -rate)
        a[s + S_STORED] = 0
        s = a[s + S_CHAIN]
    queue_clear(a, r + R_JOINERS, S_CHAIN)


def prefilled(a: Row, s: int, now: int) -> None:
    """Deliver the token that a finished prefill of slot `s` yields: its first, or the next one after a preemption."""
    a[s + S_PRODUCED] += 1
    a[W_DELIVERED_TOKENS] += 1
    if a[s + S_FIRST] < 0:
        a[s + S_FIRST] = now
        ttft = now - a[s + S_ARRIVAL]
        a[W_FIRST_TOKENS] += 1
        a[W_TTFT_SUM_PS] += ttft
        hist_add(a, HIST_TTFT, bin_of(ttft), 1)
    else:
        hist_add(a, HIST_ITL, bin_of(now - a[s + S_LAST]), FP)
    a[s + S_LAST] = now


def hand_over(a: Row, r: int, s: int, now: int) -> None:
    """Send slot `s`, prefilled here, to a decode replica. Its token is delivered when its KV has arrived there."""
    ring_drop(a, s)
    a[r + R_RUNNING] -= 1
    sent = max(now, a[r + R_LINK_FREE]) + a[H_LINK] * (a[s + S_PROMPT] + a[s + S_PRODUCED])
    a[r + R_LINK_FREE] = sent
    a[s + S_READY] = sent + a[H_HANDOVER]
    a[s + S_STORED] = 1
    queue_push(a, r + R_HANDOVERS, S_NEXT, s)
    a[W_HANDOVERS] += 1


def end_prefill(a: Row, rec: Row, r: int, s: int, now: int) -> None:
    """End the prefill of slot `s`: free its blocks, then hand it over, or deliver a token and decode or finish."""
    blocks = a[s + S_TARGET] + 15 >> 4
    a[s + S_TARGET] = 0
    a[r + R_BLOCKS] -= blocks
    last = a[s + S_PRODUCED] + 1 == a[s + S_OUTPUT]
    if r < a[H_DECODERS] < a[H_REPLICAS_END] and not last:
        a[r + R_CACHED] += blocks
        hand_over(a, r, s, now)
        return
    prefilled(a, s, now)
    if last:
        a[r + R_CACHED] += blocks
        finish(a, rec, r, s, now)
    else:
        join_decode(a, r, s)


def complete(a: Row, rec: Row, r: int, steps: int, now: int) -> None:
    """Complete the first `steps` iterations of the leap in flight, which end at `now`; drop the rest of the leap."""
    begun = a[r + R_START]
    n = a[r + R_DECODING]
    if n > 0:
        # the first gap also contains the time without iterations since the last token; the others are iteration times
        depth = a[r + R_DEPTH]
        first = a[r + R_FIRST]
        rise = a[r + R_RISE]
        gap = begun - a[r + R_LAST_END] + first
        longest = first + (steps - 1) * rise
        if longest < gap:
            longest = gap
        growth = a[r + R_GROWTH]
        a[r + R_CONTEXT] += steps * growth
        groups = a[r + R_GROUPS]
        # without speculation all groups have rate FP, so one sample covers all sequences
        if depth == 0 and steps == 1:
            add_gap(a, FP, gap, n * FP)
        elif depth == 0:
            sample_itl(a, r, groups, gap, steps, n * FP)
        else:
            a[W_DRAFT_FP] += steps * n * depth
            a[W_ACCEPTED_FP] += steps * (growth - n * FP)
        if a[r + R_JOINERS] != 0:
            count_joiners(a, r, gap, now)
        for g in range(groups, a[r + R_GROUPS_END], GROUP_SIZE):
            count = a[g + G_COUNT]
            if count > 0:
                rate = a[g + G_RATE]
                if depth > 0:
                    # most gaps fall into the bin used last, which needs no search
                    if a[g + G_LOW] <= first and longest < a[g + G_HIGH]:
                        a[a[g + G_BIN]] += count * steps * rate
                    elif steps == 1:
                        add_gap(a, rate, gap, count * rate)
                    elif gap == first:
                        add_gaps(a, g, first, rise, steps, count * rate)
                    else:
                        sample_itl(a, r, g, gap, steps, count * rate)
                clock = a[g + G_CLOCK] + steps * rate
                a[g + G_CLOCK] = clock
                if a[a[g + G_HEAP] + 1] >> SLOT_BITS <= clock >> 8:
                    finish_due(a, rec, r, g, now)
    a[r + R_UNTIL] = -1
    a[r + R_NOW] = now
    a[r + R_LAST_END] = now
    a[W_ITERATIONS] += steps
    a[W_BUSY_PS] += now - begun
    s = a[r + R_PREFILLS]
    if s != 0:
        queue_clear(a, r + R_PREFILLS, S_CHAIN)
        while s != 0:
            following = a[s + S_CHAIN]
            computed = a[s + S_COMPUTED] + a[s + S_CHUNK]
            if computed == a[s + S_TARGET]:
                end_prefill(a, rec, r, s, now)
            else:
                a[s + S_COMPUTED] = computed
                queue_push(a, r + R_PREFILLS, S_CHAIN, s)
            s = following


def set_depth(a: Row, r: int, budget: int) -> int:
    """Set the speculation depth, at most the planned one, to what fits the token budget, and the rates that follow."""
    n = a[r + R_DECODING]
    depth = a[PLAN_DEPTH]
    if n * (depth + 1) > budget:
        depth = budget // n - 1
    a[r + R_DEPTH] = depth
    if depth != a[r + R_RATED]:
        a[r + R_RATED] = depth
        growth = 0
        # another rate spreads a gap over other tokens, so the bin used last no longer holds (G_HIGH = 0)
        rates = PLAN_TOKENS_PER_STEP + depth
        for g in range(a[r + R_GROUPS], a[r + R_GROUPS_END], GROUP_SIZE):
            a[g + G_RATE] = a[rates]
            a[g + G_HIGH] = 0
            growth += a[g + G_COUNT] * a[rates]
            rates += DEPTHS
        a[r + R_GROWTH] = growth
    return depth


def leap_steps(a: Row, r: int, n: int, left: int, growth: int, span: int, free: int) -> int:
    """Return how many pure decode iterations of n sequences pass until the next event.

    The events are: a finish; a bend of the cost table, after `left` more context, of which an iteration adds `growth`;
    blocks running out, of which `free` are left after the first iteration; and the end of `span`, the time (ps) after
    which the request at the head of the waiting queue gives up (NEVER if it does not wait for blocks).
    """
    steps = (left - 1) // growth + 1
    for g in range(a[r + R_GROUPS], a[r + R_GROUPS_END], GROUP_SIZE):
        if a[g + G_COUNT] > 0:
            rate = a[g + G_RATE]
            coming = ((a[a[g + G_HEAP] + 1] >> SLOT_BITS) * FP - a[g + G_CLOCK] + rate - 1) // rate
            if coming < steps:
                steps = coming
    if span != NEVER:  # the last iteration of the leap is the last one that starts before the deadline
        steps = min(steps, steps_within(a[r + R_FIRST], a[r + R_RISE], span - 1, steps) + 1)
    if steps > 1:
        # an upper bound: a sequence takes a block for every 16 tokens, and perhaps one more at either end
        spare = free - (steps * growth // (BLOCK_TOKENS * FP) + 2 * n)
        if spare < 0:
            spare = a[r + R_POOL] - num_used_blocks(a, r, steps)
            if spare < 0:
                low = 1
                while steps - low > 1:
                    mid = (low + steps) >> 1
                    if num_used_blocks(a, r, mid) <= a[r + R_POOL]:
                        low = mid
                    else:
                        steps = mid
                steps = low
                spare = 0
        a[r + R_SPARE] = spare
    return steps


def cut_leap(a: Row, r: int, now: int) -> None:
    """Shorten the leap in flight: its last iteration is the one that runs, or ends, at `now`."""
    first = a[r + R_FIRST]
    rise = a[r + R_RISE]
    begun = a[r + R_START]
    steps = steps_within(first, rise, now - begun, a[r + R_STEPS])
    end = begun + steps * first + rise * (steps * (steps - 1) >> 1)
    if end < now:
        end += first + steps * rise
        steps += 1
    a[r + R_STEPS] = steps
    a[r + R_UNTIL] = end


def settle_leap(a: Row, rec: Row, r: int, now: int) -> None:
    """Complete the iterations of the leap in flight that ended by `now`; keep the running one and drop the rest."""
    begun = a[r + R_START]
    first = a[r + R_FIRST]
    rise = a[r + R_RISE]
    done = steps_within(first, rise, now - begun, a[r + R_STEPS])
    if done > 0:
        begun += done * first + rise * (done * (done - 1) >> 1)
        complete(a, rec, r, done, begun)
        if begun == now:
            return
    a[r + R_START] = begun
    a[r + R_FIRST] = first + done * rise
    a[r + R_RISE] = 0
    a[r + R_STEPS] = 1
    a[r + R_UNTIL] = begun + first + done * rise


def start(a: Row, tb: Row, rec: Row, r: int, now: int) -> int:
    """Schedule what starts at `now`: one iteration with prefill chunks, or a leap of pure decode iterations.

    As in vLLM V1: the decoding sequences first, preempting the newest request while blocks are missing; then the prompt
    that is being prefilled; then the waiting requests, in order, until one does not fit.

    Returns the time at which it ends; −1 if nothing runs.
    """
    if a[r + R_GIVE_UP] <= now:
        abandon_expired(a, rec, r, now)
    t0 = a[H_TABLE]
    budget = tb[t0 + TB_BUDGET]
    n = a[r + R_DECODING]
    depth = a[PLAN_DEPTH]
    tokens = n * (depth + 1)
    if depth != a[r + R_RATED] or tokens > budget:
        depth = set_depth(a, r, budget)
        tokens = n * (depth + 1)
    waiting = a[r + R_WAITING] + a[r + R_WAITING + 1]
    room = 0
    if waiting > 0:
        room = a[PLAN_BATCH_CAP] - a[r + R_RUNNING]
    free = a[r + R_SPARE] - n  # in one step a sequence takes at most one more block
    single = 0
    # decoding sequences first: the exact count of blocks is needed only if the bound is exceeded or requests may join
    if free < 0 or room > 0:
        free = a[r + R_POOL] - num_used_blocks(a, r, 1)
        while free < 0:
            preempt(a, r, victim(a, r))
            a[W_PREEMPTIONS] += 1
            single = 1
            depth = set_depth(a, r, budget)
            free = a[r + R_POOL] - num_used_blocks(a, r, 1)
        if single != 0:
            waiting = 0  # after a preemption no request is admitted in this iteration
            n = a[r + R_DECODING]
            tokens = n * (depth + 1)
    left = budget - tokens
    units = 0
    longest = 0
    chunks = 0
    ends = 0
    s = a[r + R_PREFILLS]
    if s != 0:  # at most one prompt is partly computed: chunks are cut only where the budget ends
        c = a[s + S_COMPUTED]
        q = min(a[s + S_TARGET] - c, left)
        a[s + S_CHUNK] = q
        if q > 0:
            left -= q
            units = prefill_units(tb, t0, q, c)
            longest = c + q
            chunks = 1
            if c + q == a[s + S_TARGET]:
                ends = 1
    span = NEVER
    # then the waiting requests, strictly in order: one that does not fit blocks those behind it
    while waiting > 0 and left > 0 and room > 0:
        queue = next_queue(a, r)
        s = a[queue]
        if a[s + S_STORED] != 0:
            g = a[r + R_GROUPS] + a[s + S_TENANT] * GROUP_SIZE
            clock = a[g + G_CLOCK]
            if a[g + G_COUNT] == 0:
                clock = 0
            rate = a[g + G_RATE]
            stored = a[s + S_PROMPT] + a[s + S_PRODUCED] - 1
            # ask for the most blocks that a step can need: then a request that does not fit now cannot fit by waiting
            if depth + 1 > left or blocks_of(stored + (rate + FP - 1 >> 8)) > free:
                break
            blocks = blocks_of(stored + (clock + rate >> 8) - (clock >> 8))
            single = 1
            left -= depth + 1
            queue_pop(a, queue, S_NEXT)
            queue_push(a, r + R_JOINERS, S_CHAIN, s)
            join_decode(a, r, s)
            n += 1
        else:
            target = a[s + S_PROMPT] + a[s + S_PRODUCED]
            blocks = target + 15 >> 4
            if blocks > free:
                if a[s + S_FIRST] < 0 and a[H_PATIENCE] > 0:
                    span = a[s + S_ARRIVAL] + a[H_PATIENCE] - now
                break
            c = 0
            if a[PLAN_HIT_Q10] > 0:
                cached = a[r + R_CACHED]
                if cached > free:
                    cached = free
                c = a[s + S_PROMPT] * a[PLAN_HIT_Q10] * cached // (1024 * (cached + a[PLAN_HIT_HALF_BLOCKS]))
                if c >= target:
                    c = target - 1
            q = target - c
            if q > left:
                q = left
            left -= q
            a[s + S_COMPUTED] = c
            a[s + S_TARGET] = target
            a[s + S_CHUNK] = q
            units += prefill_units(tb, t0, q, c)
            if c + q > longest:
                longest = c + q
            chunks += 1
            if c + q == target:
                ends += 1
            queue_pop(a, queue, S_NEXT)
            queue_push(a, r + R_PREFILLS, S_CHAIN, s)
            a[r + R_BLOCKS] += blocks
            if a[s + S_SCHEDULED] < 0:
                a[s + S_SCHEDULED] = now
        free -= blocks
        room -= 1
        waiting -= 1
        c = a[s + S_CLASS]
        a[r + R_WAITING + c] -= 1
        a[r + R_RUNNING] += 1
        ring_push(a, r + R_ACTIVE + c * ENDS, s)
    if chunks == 0 and n == 0:
        return -1
    # the time of the iteration; the formula is in `TierTables`
    a[r + R_SPARE] = free
    a[r + R_START] = now
    steps = 1
    rise = 0
    growth = 0
    slope = 0
    bend = 0
    x = 0
    attention = 0
    tokens = n * (depth + 1)
    time = tb[t0 + TB_CPU_SEQ] * (n + chunks)
    if n > 0:
        x = a[r + R_CONTEXT]
        piece = a[r + R_PIECE]
        above = x - n * tb[piece + PIECE_EDGE]
        bend = n * tb[piece + PIECE_SIZE] - x
        if above < 0 or bend <= 0:
            piece = decode_piece(tb, n, x, piece)
            a[r + R_PIECE] = piece
            above = x - n * tb[piece + PIECE_EDGE]
            bend = n * tb[piece + PIECE_SIZE] - x
        slope = tb[piece + PIECE_SLOPE]
        attention = n * tb[piece + PIECE_VALUE] + slope * above
        growth = a[r + R_GROWTH]
        if depth > 0:
            time += depth * tb[t0 + TB_DRAFT_STEP] + n * tb[t0 + TB_SPEC_SEQ]
    if chunks == 0:
        rise = slope * growth
        time += tb[tb[t0 + TB_GEMM] + tokens] + tb[tb[t0 + TB_HEAD] + tokens] + tb[t0 + TB_DEC_T0] + attention
    else:
        time += tb[tb[t0 + TB_GEMM] + budget - left] + tb[tb[t0 + TB_HEAD] + tokens + ends]
        time += mixed_ps(tb, t0, units, longest, n, x, attention)
    a[r + R_RISE] = rise
    a[r + R_FIRST] = time
    until = now + time
    # after a preemption or a join, the next iteration schedules anew
    if chunks == 0 and single == 0:
        steps = leap_steps(a, r, n, bend, growth, span, free)
        until = now + steps * time + rise * (steps * (steps - 1) >> 1)
    a[r + R_STEPS] = steps
    a[r + R_UNTIL] = until
    return until


def advance_replica(a: Row, tb: Row, rec: Row, r: int, te: int) -> None:
    """Run one replica up to `te`, the next event outside it. A leap that ends after `te` stays in flight."""
    until = a[r + R_UNTIL]
    while until <= te:
        if until >= 0:
            complete(a, rec, r, a[r + R_STEPS], until)
        if a[r + R_RUNNING] == 0 and a[r + R_WAITING] == 0 and a[r + R_WAITING + 1] == 0:
            return
        now = a[r + R_NOW]
        if now < a[r + R_READY]:
            now = a[r + R_READY]
        if now >= te:
            return
        until = start(a, tb, rec, r, now)
        if until < 0:
            return
