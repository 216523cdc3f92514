"""One replica's iterations: what starts at a scheduling point, how far it can leap, and what its end brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import BLOCK_TOKENS, DEPTHS, FP
from llmserve_sim.engine.kernel.costs import base_ps, decode_piece, decode_ps, mixed_ps, prefill_ps, steps_within
from llmserve_sim.engine.kernel.histograms import bin_of, hist_add, hist_add_gaps
from llmserve_sim.engine.kernel.linked import list_append, list_remove
from llmserve_sim.engine.kernel.requests import (
    blocks_for,
    finish,
    finish_due,
    head_of_line,
    join_decode,
    preempt,
    purge,
    release,
    victim,
)
from llmserve_sim.engine.layout import (
    BY_BATCH,
    BY_LINE,
    H_HANDOVER,
    H_LINK,
    H_PATIENCE,
    H_PLAN,
    H_TENANTS,
    HEAP_SIZE,
    HIST_ITL,
    HIST_TTFT,
    L_ACTIVE,
    L_CACHED,
    L_CLOCK,
    L_CONTEXT,
    L_COUNT,
    L_DECODING,
    L_DEPTH,
    L_FIRST,
    L_FRESH,
    L_GIVE_UP,
    L_GROWTH,
    L_HANDOVERS,
    L_HEAPS,
    L_JOINED,
    L_JOINERS,
    L_LAST_END,
    L_LINK_FREE,
    L_LOAD,
    L_NOW,
    L_PHASE,
    L_PIECE,
    L_PLAN,
    L_POOL,
    L_PREFILLS,
    L_RATE,
    L_READY,
    L_RESUMED,
    L_RISE,
    L_ROLE,
    L_RUNNING,
    L_START,
    L_STEPS,
    L_TAKEN,
    L_UNTIL,
    L_USED,
    LIST,
    NEVER,
    P_CAP,
    P_DEPTH,
    P_END,
    P_HALF,
    P_HIT,
    P_RATES,
    P_TIER,
    PREFILL,
    S_ARRIVAL,
    S_CHUNK,
    S_CLASS,
    S_COMPUTED,
    S_FIRST,
    S_LAST,
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
    TB_DEC_S,
    TB_DEC_T0,
    TB_DEC_X,
    TB_PF_OFF,
    TB_PF_TILE,
    TB_PIECES,
    W_ACCEPTED,
    W_BUSY,
    W_DELIVERED,
    W_DRAFT,
    W_FIRST_TOKENS,
    W_HANDOVERS,
    W_ITERATIONS,
    W_PREEMPTIONS,
    W_TTFT_COUNT,
    W_TTFT_SUM,
)

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def demand(a: Row, ln: int, steps: int) -> int:
    """New blocks that the decoding sequences need for `steps` iterations at the rates of the leap in flight."""
    need = 0
    for t in range(a[H_TENANTS]):
        count = a[ln + L_COUNT + t]
        if count > 0:
            clock = a[ln + L_CLOCK + t]
            gain = (clock + steps * a[ln + L_RATE + t] >> 8) - (clock >> 8)
            need += count * (gain >> 4)
            rest = gain & 15
            if rest > 0:
                # a sequence crosses a block's edge if its stored tokens are 0 or above 16 − rest (mod 16)
                clock >>= 8
                phase = ln + L_PHASE + t * BLOCK_TOKENS
                need += a[phase + (-clock & 15)]
                if rest > 1:
                    for r in range(17 - rest, 16):
                        need += a[phase + (r - clock & 15)]
    return need


def demand_at_most(a: Row, ln: int, steps: int) -> int:
    """An upper bound of `demand`, cheaply."""
    need = 0
    for t in range(a[H_TENANTS]):
        need += a[ln + L_COUNT + t] * ((steps * a[ln + L_RATE + t] >> 12) + 2)
    return need


def deliver(a: Row, rec: Row, ln: int, depth: int, steps: int, now: int) -> None:
    """Advance the clocks of the decoding tenants by `steps` iterations, count the tokens, finish who is done at `now`."""
    growth = a[ln + L_GROWTH]
    a[ln + L_CONTEXT] += steps * growth
    if depth > 0:
        count = a[ln + L_DECODING]
        a[W_DRAFT] += steps * count * depth * FP
        a[W_ACCEPTED] += steps * (growth - count * FP)
    for t in range(a[H_TENANTS]):
        count = a[ln + L_COUNT + t]
        if count > 0:
            clock = a[ln + L_CLOCK + t]
            after = clock + steps * a[ln + L_RATE + t]
            a[ln + L_CLOCK + t] = after
            after >>= 8
            a[W_DELIVERED] += count * (after - (clock >> 8))
            hp = a[ln + L_HEAPS] + t * HEAP_SIZE
            if a[hp + 1] >> SLOT_BITS <= after:
                finish_due(a, rec, ln, t, hp, now)


def sample_itl(a: Row, ln: int, depth: int, first: int, rise: int, steps: int) -> None:
    """Record the gaps of the continuing sequences over `steps` iterations that last `first + i·rise`."""
    if depth == 0:
        count = a[ln + L_DECODING]
        for t in range(a[H_TENANTS]):
            count -= a[ln + L_JOINED + t]
        if count > 0:
            hist_add_gaps(a, first, rise, steps, FP, count * FP)
        return
    for t in range(a[H_TENANTS]):
        count = a[ln + L_COUNT + t] - a[ln + L_JOINED + t]
        if count > 0:
            rate = a[ln + L_RATE + t]
            hist_add_gaps(a, first, rise, steps, rate, count * rate)


def stream(a: Row, s: int, now: int) -> None:
    """Slot `s` delivers the token that a finished prefill yields: its first, or the next one after a preemption."""
    a[s + S_PRODUCED] += 1
    a[W_DELIVERED] += 1
    if a[s + S_FIRST] < 0:
        a[s + S_FIRST] = now
        ttft = now - a[s + S_ARRIVAL]
        a[W_FIRST_TOKENS] += 1
        a[W_TTFT_SUM] += ttft
        a[W_TTFT_COUNT] += 1
        hist_add(a, HIST_TTFT, bin_of(ttft), 1)
    else:
        hist_add(a, HIST_ITL, bin_of(now - a[s + S_LAST]), FP)
    a[s + S_LAST] = now


def hand_over(a: Row, ln: int, s: int, now: int) -> None:
    """Send slot `s`, prefilled here, to a decode replica; its client hears nothing until it is there."""
    stored = a[s + S_PROMPT] + a[s + S_PRODUCED]
    release(a, ln, blocks_for(stored), 1)
    list_remove(a, ln + L_ACTIVE + a[s + S_CLASS] * LIST, BY_LINE, s)
    a[ln + L_RUNNING] -= 1
    a[ln + L_LOAD] -= 1
    sent = max(now, a[ln + L_LINK_FREE]) + a[H_LINK] * stored
    a[ln + L_LINK_FREE] = sent
    a[s + S_READY] = sent + a[H_HANDOVER]
    a[s + S_STORED] = 1
    list_append(a, ln + L_HANDOVERS, BY_LINE, s)
    a[W_HANDOVERS] += 1


def end_prefill(a: Row, rec: Row, ln: int, s: int, now: int) -> None:
    """Slot `s` has its whole context computed: hand it over, or deliver a token and then decode or finish."""
    target = a[s + S_TARGET]
    a[s + S_TARGET] = 0
    last = a[s + S_PRODUCED] + 1 == a[s + S_OUTPUT]
    if a[ln + L_ROLE] == PREFILL and not last:
        hand_over(a, ln, s, now)
        return
    stream(a, s, now)
    if last:
        finish(a, rec, ln, s, now, blocks_for(target))
    else:
        join_decode(a, ln, s)


def welcome_joiners(a: Row, ln: int, now: int) -> None:
    """The requests that were handed over into the iteration ending now have their first gap behind them."""
    s = a[ln + L_JOINERS]
    while s != 0:
        t = a[s + S_TENANT]
        rate = a[ln + L_RATE + t]
        hist_add(a, HIST_ITL, bin_of((now - a[s + S_LAST]) * FP // rate), rate)
        a[ln + L_JOINED + t] -= 1
        a[s + S_STORED] = 0
        list_remove(a, ln + L_JOINERS, BY_BATCH, s)
        s = a[ln + L_JOINERS]


def complete(a: Row, rec: Row, ln: int, steps: int) -> None:
    """End the first `steps` iterations of the leap in flight; the rest of it, if any, is forgotten."""
    begun = a[ln + L_START]
    first = a[ln + L_FIRST]
    rise = a[ln + L_RISE]
    now = begun + steps * first + rise * (steps * (steps - 1) >> 1)
    if a[ln + L_DECODING] > 0:
        depth = a[ln + L_DEPTH]
        if a[ln + L_TAKEN] == 0:
            a[ln + L_USED] += demand(a, ln, steps)
        elif steps > 1:
            a[ln + L_USED] += demand(a, ln, steps) - demand(a, ln, 1)
        gap = begun - a[ln + L_LAST_END]
        if gap == 0:
            sample_itl(a, ln, depth, first, rise, steps)
        else:
            sample_itl(a, ln, depth, gap + first, 0, 1)
            if steps > 1:
                sample_itl(a, ln, depth, first + rise, rise, steps - 1)
        if a[ln + L_JOINERS] != 0:
            welcome_joiners(a, ln, now)
        deliver(a, rec, ln, depth, steps, now)
    a[ln + L_UNTIL] = -1
    a[ln + L_NOW] = now
    a[ln + L_LAST_END] = now
    a[W_ITERATIONS] += steps
    a[W_BUSY] += now - begun
    s = a[ln + L_PREFILLS]
    while s != 0:
        following = a[s + BY_BATCH]
        a[s + S_COMPUTED] += a[s + S_CHUNK]
        if a[s + S_COMPUTED] == a[s + S_TARGET]:
            list_remove(a, ln + L_PREFILLS, BY_BATCH, s)
            end_prefill(a, rec, ln, s, now)
        s = following


def set_depth(a: Row, ln: int, budget: int) -> int:
    """Fix the depth of the coming iterations, the largest planned one that fits the budget, and the rates that follow."""
    n = a[ln + L_DECODING]
    depth = a[H_PLAN + P_DEPTH]
    if depth > 0 and n > 0:
        depth = min(depth, budget // n - 1)
    if depth != a[ln + L_DEPTH] or a[ln + L_PLAN] != a[H_PLAN + P_END]:
        a[ln + L_DEPTH] = depth
        a[ln + L_PLAN] = a[H_PLAN + P_END]
        growth = 0
        for t in range(a[H_TENANTS]):
            rate = a[H_PLAN + P_RATES + t * DEPTHS + depth]
            a[ln + L_RATE + t] = rate
            growth += a[ln + L_COUNT + t] * rate
        a[ln + L_GROWTH] = growth
    return depth


def take_blocks(a: Row, ln: int) -> None:
    """Take the blocks of the first iteration in flight, if it has not taken them yet."""
    if a[ln + L_TAKEN] == 0:
        a[ln + L_USED] += demand(a, ln, 1)
        a[ln + L_TAKEN] = 1


def leap(a: Row, tb: Row, ln: int, t0: int, depth: int, now: int, deadline: int) -> None:
    """Put in flight all the pure decode iterations from `now` until something must be decided.

    That is a finish, a bend of the cost table, blocks running out, or `deadline`: the time at which the head of the
    line, which waits for blocks, gives up (NEVER if nothing changes by waiting).
    """
    n = a[ln + L_DECODING]
    x = a[ln + L_CONTEXT]
    piece = decode_piece(tb, t0, n, x, a[ln + L_PIECE])
    a[ln + L_PIECE] = piece
    first = base_ps(tb, t0, n, depth, 0, 0, 0) + tb[t0 + TB_DEC_T0] + decode_ps(tb, t0, n, x, piece)
    growth = a[ln + L_GROWTH]
    steps = NEVER
    hp = a[ln + L_HEAPS] + 1
    for t in range(a[H_TENANTS]):
        if a[ln + L_COUNT + t] > 0:
            rate = a[ln + L_RATE + t]
            left = ((a[hp] >> SLOT_BITS) * FP - a[ln + L_CLOCK + t] + rate - 1) // rate
            steps = min(steps, left)
        hp += HEAP_SIZE
    if piece + 1 < tb[t0 + TB_PIECES]:
        steps = min(steps, (n * tb[tb[t0 + TB_DEC_X] + piece + 1] - 1 - x) // growth + 1)
    rise = tb[tb[t0 + TB_DEC_S] + piece] * growth
    if deadline != NEVER:  # the last iteration is the last to start before the deadline
        steps = min(steps, steps_within(first, rise, deadline - 1 - now, steps) + 1)
    free = a[ln + L_POOL] - a[ln + L_USED]
    if steps > 1 and demand_at_most(a, ln, steps) > free:
        if a[ln + L_TAKEN] != 0:
            free += demand(a, ln, 1)
        if demand(a, ln, steps) > free:
            low = 1
            while steps - low > 1:
                mid = (low + steps) >> 1
                if demand(a, ln, mid) <= free:
                    low = mid
                else:
                    steps = mid
            steps = low
    a[ln + L_FIRST] = first
    a[ln + L_RISE] = rise
    a[ln + L_STEPS] = steps
    a[ln + L_UNTIL] = now + steps * first + rise * (steps * (steps - 1) >> 1)


def settle(a: Row, rec: Row, ln: int, now: int) -> None:
    """Cut a leap in flight at `now`: what has ended is done, what has started stays in flight, the rest is forgotten."""
    begun = a[ln + L_START]
    first = a[ln + L_FIRST]
    rise = a[ln + L_RISE]
    done = steps_within(first, rise, now - begun, a[ln + L_STEPS])
    if done > 0:
        complete(a, rec, ln, done)
        begun = a[ln + L_NOW]
        if begun == now:
            return
        a[ln + L_TAKEN] = 0
    a[ln + L_START] = begun
    a[ln + L_FIRST] = first + done * rise
    a[ln + L_RISE] = 0
    a[ln + L_STEPS] = 1
    a[ln + L_UNTIL] = begun + first + done * rise


def start(a: Row, tb: Row, rec: Row, ln: int, now: int) -> None:
    """Schedule what starts at `now`: one iteration with prefill chunks, a leap of pure decodes, or nothing."""
    if a[ln + L_GIVE_UP] <= now:
        purge(a, rec, ln, now)
    t0 = tb[a[H_PLAN + P_TIER]]
    budget = tb[t0 + TB_BUDGET]
    n = a[ln + L_DECODING]
    depth = set_depth(a, ln, budget)
    preempted = 0
    if n == 0:
        a[ln + L_TAKEN] = 1
    elif a[ln + L_LOAD] == a[ln + L_RUNNING] and demand_at_most(a, ln, 1) <= a[ln + L_POOL] - a[ln + L_USED]:
        a[ln + L_TAKEN] = 0  # nobody asks what is free: to be settled when the iteration ends
    else:
        need = demand(a, ln, 1)
        while need > a[ln + L_POOL] - a[ln + L_USED]:
            preempt(a, ln, victim(a, ln))
            a[W_PREEMPTIONS] += 1
            preempted = 1
            depth = set_depth(a, ln, budget)
            need = demand(a, ln, 1)
        n = a[ln + L_DECODING]
        a[ln + L_USED] += need
        a[ln + L_TAKEN] = 1
    left = budget - n * (depth + 1)
    new = 0
    units = 0
    longest = 0
    chunks = 0
    ends = 0
    tile = tb[t0 + TB_PF_TILE]
    off = tb[t0 + TB_PF_OFF]
    s = a[ln + L_PREFILLS]
    while s != 0:  # at most one is left over from the iteration before
        c = a[s + S_COMPUTED]
        q = min(a[s + S_TARGET] - c, left)
        a[s + S_CHUNK] = q
        left -= q
        if q > 0:
            new += q
            units += (q + tile - 1) // tile * (2 * c + q + off)
            longest = max(longest, c + q)
            chunks += 1
            if c + q == a[s + S_TARGET]:
                ends += 1
        s = a[s + BY_BATCH]
    deadline = NEVER
    joined = 0
    cap = a[H_PLAN + P_CAP]
    while preempted == 0 and left > 0 and a[ln + L_RUNNING] < cap and a[ln + L_LOAD] > a[ln + L_RUNNING]:
        s = head_of_line(a, ln)
        free = a[ln + L_POOL] - a[ln + L_USED]
        if a[s + S_STORED] != 0:
            t = a[s + S_TENANT]
            clock = a[ln + L_CLOCK + t]
            if a[ln + L_COUNT + t] == 0:
                clock = 0
            rate = a[ln + L_RATE + t]
            stored = a[s + S_PROMPT] + a[s + S_PRODUCED] - 1
            # room for the most that a step can bring, so that whoever does not fit now will not fit by waiting
            if depth + 1 > left or blocks_for(stored + (rate + FP - 1 >> 8)) > free:
                break
            blocks = blocks_for(stored + (clock + rate >> 8) - (clock >> 8))
            left -= depth + 1
            list_remove(a, ln + L_RESUMED + a[s + S_CLASS] * LIST, BY_LINE, s)
            list_append(a, ln + L_JOINERS, BY_BATCH, s)
            join_decode(a, ln, s)
            a[ln + L_JOINED + t] += 1
            joined = 1
        else:
            target = a[s + S_PROMPT] + a[s + S_PRODUCED]
            blocks = blocks_for(target)
            if blocks > free:
                if a[s + S_FIRST] < 0 and a[H_PATIENCE] > 0:
                    deadline = a[s + S_ARRIVAL] + a[H_PATIENCE]
                break
            c = 0
            cached = min(a[ln + L_CACHED], free)
            if a[H_PLAN + P_HIT] > 0 and cached > 0:
                hit = a[s + S_PROMPT] * a[H_PLAN + P_HIT] * cached // (1024 * (cached + a[H_PLAN + P_HALF]))
                c = min(target - 1, hit)
            q = min(target - c, left)
            left -= q
            a[s + S_COMPUTED] = c
            a[s + S_TARGET] = target
            a[s + S_CHUNK] = q
            new += q
            units += (q + tile - 1) // tile * (2 * c + q + off)
            longest = max(longest, c + q)
            chunks += 1
            if c + q == target:
                ends += 1
            line = L_RESUMED if a[s + S_FIRST] >= 0 else L_FRESH
            list_remove(a, ln + line + a[s + S_CLASS] * LIST, BY_LINE, s)
            list_append(a, ln + L_PREFILLS, BY_BATCH, s)
            if a[s + S_SCHEDULED] < 0:
                a[s + S_SCHEDULED] = now
        a[ln + L_USED] += blocks
        list_append(a, ln + L_ACTIVE + a[s + S_CLASS] * LIST, BY_LINE, s)
        a[ln + L_RUNNING] += 1
    n = a[ln + L_DECODING]
    if chunks == 0 and n == 0:
        return
    a[ln + L_START] = now
    if chunks == 0 and joined == 0 and preempted == 0:
        leap(a, tb, ln, t0, depth, now, deadline)
        return
    time = base_ps(tb, t0, n, depth, new, chunks, ends)
    if chunks > 0:
        time += prefill_ps(tb, t0, units, longest)
    if n > 0:
        x = a[ln + L_CONTEXT]
        piece = decode_piece(tb, t0, n, x, a[ln + L_PIECE])
        a[ln + L_PIECE] = piece
        if chunks > 0:
            time += mixed_ps(tb, t0, n, x, piece)
        else:
            time += tb[t0 + TB_DEC_T0] + decode_ps(tb, t0, n, x, piece)
    a[ln + L_FIRST] = time
    a[ln + L_RISE] = 0
    a[ln + L_STEPS] = 1
    a[ln + L_UNTIL] = now + time


def advance(a: Row, tb: Row, rec: Row, ln: int, te: int) -> None:
    """Run one replica up to the next event outside it, at `te`; a leap that goes on beyond `te` stays in flight."""
    while True:
        if a[ln + L_UNTIL] >= 0:
            if a[ln + L_UNTIL] > te:
                return
            complete(a, rec, ln, a[ln + L_STEPS])
        if a[ln + L_LOAD] == 0:
            return
        now = max(a[ln + L_NOW], a[ln + L_READY])
        if now >= te:
            return
        start(a, tb, rec, ln, now)
        if a[ln + L_UNTIL] < 0:
            return
