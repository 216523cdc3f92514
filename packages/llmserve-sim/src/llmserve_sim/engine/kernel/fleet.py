"""The fleet: arrivals and routing, hand-overs, applying a plan, and a whole window (`run_window`)."""
# ruff: noqa: PLR1730 - plain Python compares faster than it calls min() and max()

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.histogram import BINS
from llmserve_sim.engine.interface import FP, TENANTS
from llmserve_sim.engine.kernel.histograms import percentiles
from llmserve_sim.engine.kernel.iterations import advance_replica, cut_leap, prefilled, settle_leap
from llmserve_sim.engine.kernel.layout import (
    CLASS_SHIFT,
    ENDS,
    G_CLOCK,
    G_COUNT,
    G_HIGH,
    GROUP_SIZE,
    H_ARRIVALS,
    H_DECODERS,
    H_EVICT,
    H_FREE,
    H_MAX_LEN,
    H_MAX_UNFINISHED,
    H_NEXT,
    H_NOW,
    H_PATIENCE,
    H_PLAN,
    H_RECORDING,
    H_RECORDS,
    H_REPLICAS_END,
    H_RESIZE,
    H_SCRATCH,
    H_SEQ,
    H_SPLIT,
    H_STARTED,
    H_SWAP,
    H_TABLE,
    H_UNFINISHED,
    HIST_ITL,
    HIST_TTFT,
    NEVER,
    PLAN_BATCH_CAP,
    PLAN_END_PS,
    PLAN_POOL_BLOCKS,
    PLAN_RESIZED,
    PLAN_SIZE,
    PLAN_SPLIT,
    PLAN_TIER,
    R_CACHED,
    R_DECODING,
    R_FRESH,
    R_GIVE_UP,
    R_GROUPS,
    R_GROUPS_END,
    R_HANDOVERS,
    R_LINK_FREE,
    R_NOW,
    R_PIECE,
    R_POOL,
    R_RATED,
    R_READY,
    R_RESUMED,
    R_RUNNING,
    R_SPARE,
    R_STEPS,
    R_UNTIL,
    R_WAITING,
    REJECTED,
    REPLICA_SIZE,
    REPLICAS,
    S_ARRIVAL,
    S_CLASS,
    S_FIRST,
    S_ID,
    S_NEXT,
    S_OUTPUT,
    S_PREEMPTIONS,
    S_PRODUCED,
    S_PROMPT,
    S_READY,
    S_SCHEDULED,
    S_SEQ,
    S_STORED,
    S_TENANT,
    SLOT_BITS,
    SLOT_MASK,
    TB_PIECES,
    TENANT_SHIFT,
    TOKEN_BITS,
    TOKEN_MASK,
    TRAFFIC_WIDTH,
    W_ABANDONED,
    W_ARRIVALS,
    W_ARRIVALS_PRIORITY,
    W_CACHED_BLOCKS,
    W_DELIVERED_TOKENS,
    W_DRAFT_FP,
    W_DUE,
    W_FINISHED,
    W_FIRST_TOKENS,
    W_FORCED_EVICTIONS,
    W_ITL_P50_PS,
    W_OFFERED_TENANT,
    W_OFFERED_TOKENS,
    W_OLDEST_WAIT_PS,
    W_POOL_BLOCKS,
    W_PREEMPTIONS,
    W_PREFILLING,
    W_PROMPT_TOKENS,
    W_QUEUE,
    W_QUEUE_DEPTH,
    W_REJECTED,
    W_RUNNING,
    W_TOTAL_ABANDONED,
    W_TOTAL_ARRIVED,
    W_TOTAL_FINISHED,
    W_TOTAL_REJECTED,
    W_TTFT_COUNT,
    W_TTFT_P50_PS,
    W_USED_BLOCKS,
    WINDOW_STATS,
    WINDOW_STATS_SIZE,
    ZEROS,
)
from llmserve_sim.engine.kernel.linked import queue_pop, queue_push
from llmserve_sim.engine.kernel.requests import (
    abandon,
    abandon_expired,
    next_queue,
    num_free_blocks,
    num_used_blocks,
    preempt,
    record,
    victim,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmserve_sim.engine.kernel import Row


def enqueue(a: Row, r: int, queues: int, s: int, now: int) -> None:
    """Put slot `s` at the end of a replica's waiting queue at time `now`; `queues` is R_RESUMED or R_FRESH."""
    a[H_SEQ] += 1
    a[s + S_SEQ] = a[H_SEQ]
    c = a[s + S_CLASS]
    q = r + queues + c * ENDS
    queue_push(a, q, S_NEXT, s)
    a[r + R_WAITING + c] += 1
    if a[r + R_UNTIL] < 0:
        if a[r + R_NOW] < now:
            a[r + R_NOW] = now
    elif a[r + R_STEPS] > 1 and a[r + R_RUNNING] < a[PLAN_BATCH_CAP] and a[q] == s and next_queue(a, r) == q:
        cut_leap(a, r, now)  # it may join the very next iteration


def least_loaded(a: Row, begin: int, end: int) -> int:
    """Return the replica with the fewest running and waiting requests of those from `begin` to `end`."""
    best = begin
    if begin + REPLICA_SIZE < end:
        least = NEVER
        for r in range(begin, end, REPLICA_SIZE):
            load = a[r + R_RUNNING] + a[r + R_WAITING] + a[r + R_WAITING + 1]
            if load < least:
                best = r
                least = load
    return best


def advance_fleet(a: Row, tb: Row, rec: Row, te: int, until: int) -> None:
    """Run every replica up to `te` and enqueue, on decode replicas, the requests whose hand-over is done by `until`."""
    decoders = a[H_DECODERS]
    end = a[H_REPLICAS_END]
    for r in range(REPLICAS, decoders, REPLICA_SIZE):
        if a[r + R_UNTIL] <= te:
            advance_replica(a, tb, rec, r, te)
    if decoders == end:
        return
    # the decode replicas run only up to the next hand-over, because a joining request may cut their leap
    while True:
        source = 0
        ready = until + 1
        for r in range(REPLICAS, decoders, REPLICA_SIZE):
            s = a[r + R_HANDOVERS]
            if s != 0 and a[s + S_READY] < ready:
                ready = a[s + S_READY]
                source = r
        for r in range(decoders, end, REPLICA_SIZE):
            advance_replica(a, tb, rec, r, te if source == 0 else ready)
        if source == 0:
            return
        s = queue_pop(a, source + R_HANDOVERS, S_NEXT)
        prefilled(a, s, ready)
        enqueue(a, least_loaded(a, decoders, end), R_RESUMED, s, ready)


def arrive(a: Row, tr: Row, rec: Row, i: int, now: int) -> None:
    """Count request `i`, which arrives at `now`, and reject it or route it to a replica."""
    packed = tr[i * TRAFFIC_WIDTH + 1]
    prompt = packed & TOKEN_MASK
    output = packed >> TOKEN_BITS & TOKEN_MASK
    c = packed >> CLASS_SHIFT & 1
    t = packed >> TENANT_SHIFT
    if c == 0:
        a[W_ARRIVALS_PRIORITY] += 1
    a[W_PROMPT_TOKENS] += prompt
    a[W_OFFERED_TENANT + t] += output
    # requests that give up now must not count in the routing or towards the limit below
    for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
        if a[r + R_GIVE_UP] <= now:
            abandon_expired(a, rec, r, now)
    longest = a[H_MAX_LEN] - prompt
    if longest < 1 or a[H_UNFINISHED] >= a[H_MAX_UNFINISHED]:
        a[W_REJECTED] += 1
        a[W_DUE + c] += 1
        if a[H_RECORDING] != 0:
            record(a, rec, i, REJECTED, -1, -1, now, 0, -1)
        return
    s = a[H_FREE]
    a[H_FREE] = a[s + S_NEXT]
    a[H_UNFINISHED] += 1
    a[s + S_ID] = i
    a[s + S_ARRIVAL] = now
    a[s + S_PROMPT] = prompt
    a[s + S_OUTPUT] = min(longest, output)
    a[s + S_CLASS] = c
    a[s + S_TENANT] = t
    a[s + S_PRODUCED] = 0
    a[s + S_FIRST] = -1
    a[s + S_SCHEDULED] = -1
    a[s + S_PREEMPTIONS] = 0
    r = least_loaded(a, REPLICAS, a[H_DECODERS])
    if a[H_PATIENCE] > 0 and a[r + R_GIVE_UP] == NEVER:  # else another request gives up earlier
        a[r + R_GIVE_UP] = now + a[H_PATIENCE]
    enqueue(a, r, R_FRESH, s, now)


def sort_scratch(a: Row, base: int, size: int) -> None:
    """Sort `size` entries at `base` in ascending order (shell sort: it needs no memory and no call)."""
    gap = 1
    while gap < size // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, size):
            entry = a[base + i]
            j = i
            while j >= gap and a[base + j - gap] > entry:
                a[base + j] = a[base + j - gap]
                j -= gap
            a[base + j] = entry
        gap //= 3


def drain_queue(a: Row, q: int, into: int) -> int:
    """Empty queue `q` into the scratch area at `into`, as entries that sort by id; return the offset after them."""
    while a[q] != 0:
        s = queue_pop(a, q, S_NEXT)
        a[s + S_STORED] = 0
        a[into] = a[s + S_ID] << SLOT_BITS | s
        into += 1
    return into


def set_roles(a: Row) -> None:
    """Set which replicas only decode: the second half if the plan in force splits prefill from decode, else none."""
    a[H_DECODERS] = a[H_REPLICAS_END]
    if a[PLAN_SPLIT] != 0:
        replicas = (a[H_REPLICAS_END] - REPLICAS) // REPLICA_SIZE
        a[H_DECODERS] = REPLICAS + replicas // 2 * REPLICA_SIZE


def restart(a: Row, rec: Row, now: int, stall: int) -> None:
    """Change tier or roles: all KV is lost, every request is routed anew, nothing runs during the stall (ps)."""
    scratch = a[H_SCRATCH]
    resumed = scratch
    for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
        while a[r + R_RUNNING] > 0:
            preempt(a, r, victim(a, r))
            a[W_PREEMPTIONS] += 1
        abandon_expired(a, rec, r, now)
        while a[r + R_HANDOVERS] != 0:  # the token that travels with the KV is lost
            s = queue_pop(a, r + R_HANDOVERS, S_NEXT)
            a[s + S_STORED] = 0
            if a[s + S_FIRST] >= 0:
                queue_push(a, r + R_RESUMED, S_NEXT, s)
            elif 0 < a[H_PATIENCE] <= now - a[s + S_ARRIVAL]:
                abandon(a, rec, r, s)
            else:
                queue_push(a, r + R_FRESH, S_NEXT, s)
        a[r + R_UNTIL] = -1
        a[r + R_SPARE] = 0
        a[r + R_CACHED] = 0
        a[r + R_LINK_FREE] = now
        a[r + R_READY] = max(a[r + R_READY], now) + stall
        for c in range(2):
            a[r + R_WAITING + c] = 0
            resumed = drain_queue(a, r + R_RESUMED + c * ENDS, resumed)
    fresh = resumed
    for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
        for c in range(2):
            fresh = drain_queue(a, r + R_FRESH + c * ENDS, fresh)
    set_roles(a)
    # requests with a first token go first, so that sequence numbers ascend in every waiting queue
    sort_scratch(a, scratch, resumed - scratch)
    sort_scratch(a, resumed, fresh - resumed)
    for i in range(scratch, fresh):
        s = a[i] & SLOT_MASK
        r = least_loaded(a, REPLICAS, a[H_DECODERS])
        if i >= resumed and a[H_PATIENCE] > 0:
            a[r + R_GIVE_UP] = min(a[r + R_GIVE_UP], a[s + S_ARRIVAL] + a[H_PATIENCE])
        enqueue(a, r, R_RESUMED if i < resumed else R_FRESH, s, now)


def set_pool(a: Row, r: int, now: int) -> None:
    """Resize a replica's KV pool to that of the plan in force, preempting the newest requests until the rest fits."""
    for pool in (a[r + R_POOL], a[PLAN_POOL_BLOCKS]):  # blocks that the old pool had taken from the cache stay lost
        a[r + R_POOL] = pool
        a[r + R_CACHED] = min(a[r + R_CACHED], num_free_blocks(a, r))
    a[r + R_SPARE] = 0
    evicted = 0
    in_flight = 0 if a[r + R_UNTIL] < 0 else 1
    while num_used_blocks(a, r, in_flight) > a[r + R_POOL]:
        preempt(a, r, victim(a, r))
        evicted += 1
    if a[PLAN_RESIZED] != 0:
        a[W_PREEMPTIONS] += evicted
        a[r + R_READY] = max(a[r + R_READY], now, a[r + R_UNTIL]) + a[H_RESIZE]
    elif evicted > 0:
        a[W_FORCED_EVICTIONS] += evicted
        a[r + R_READY] = max(a[r + R_READY], now, a[r + R_UNTIL]) + a[H_EVICT]


def apply_plan(a: Row, tb: Row, rec: Row, plan: Row, at: int) -> None:
    """Apply the plan at `plan[at:]` at the window's start. The first plan is the initial state and costs nothing."""
    now = a[H_NOW]
    tier = a[PLAN_TIER]
    split = a[PLAN_SPLIT]
    for i in range(PLAN_SIZE):
        a[H_PLAN + i] = plan[at + i]
    a[H_TABLE] = tb[a[PLAN_TIER]]
    first = a[H_TABLE] + TB_PIECES
    for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
        abandon_expired(a, rec, r, now)
        a[r + R_RATED] = -1
        if a[PLAN_TIER] != tier or a[H_STARTED] == 0:
            a[r + R_PIECE] = tb[first]
        for g in range(a[r + R_GROUPS], a[r + R_GROUPS_END], GROUP_SIZE):
            a[g + G_HIGH] = 0  # the histogram is cleared, so the bin used last no longer holds
    if a[H_STARTED] == 0:
        a[H_STARTED] = 1
        set_roles(a)
        for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
            a[r + R_POOL] = a[PLAN_POOL_BLOCKS]
        return
    stall = 0
    if a[PLAN_TIER] != tier:
        stall += a[H_SWAP + a[PLAN_TIER]]
    if a[PLAN_SPLIT] != split:
        stall += a[H_SPLIT]
    if a[PLAN_TIER] != tier or a[PLAN_SPLIT] != split:
        restart(a, rec, now, stall)
    for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
        set_pool(a, r, now)


def clear_stats(a: Row) -> None:
    """Reset the window's statistics and the histogram bins in use."""
    a[WINDOW_STATS : WINDOW_STATS + WINDOW_STATS_SIZE] = a[ZEROS : ZEROS + WINDOW_STATS_SIZE]
    for h in (HIST_TTFT, HIST_ITL):
        used = a[h + 1] + 1 - a[h]
        if used > 0:
            low = h + 2 + a[h]
            a[low : low + used] = a[ZEROS : ZEROS + used]
        a[h] = BINS
        a[h + 1] = -1
    a[H_RECORDS] = 0


def clocked_tokens(a: Row) -> int:
    """Return the sum over all groups of count times clock, in whole tokens (see `requests.join_decode`)."""
    tokens = 0
    for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
        for g in range(a[r + R_GROUPS], a[r + R_GROUPS_END], GROUP_SIZE):
            tokens += a[g + G_COUNT] * (a[g + G_CLOCK] >> 8)
    return tokens


def close_window(a: Row, rec: Row) -> None:
    """Measure the levels at the window's end and derive the figures that are not counted one by one."""
    a[W_DELIVERED_TOKENS] += clocked_tokens(a)
    a[W_DRAFT_FP] *= FP  # counted in whole tokens, because drafts are whole
    end = a[H_NOW]
    oldest = end
    for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
        abandon_expired(a, rec, r, end)
        for c in range(2):
            a[W_QUEUE + c] += a[r + R_WAITING + c]
            s = a[r + R_FRESH + c * ENDS]
            if s != 0:
                oldest = min(oldest, a[s + S_ARRIVAL])
        s = a[r + R_HANDOVERS]
        while s != 0:
            a[W_QUEUE + a[s + S_CLASS]] += 1
            s = a[s + S_NEXT]
        a[W_RUNNING] += a[r + R_RUNNING]
        a[W_PREFILLING] += a[r + R_RUNNING] - a[r + R_DECODING]
        free = num_free_blocks(a, r)
        a[W_USED_BLOCKS] += a[r + R_POOL] - free
        a[W_POOL_BLOCKS] += a[r + R_POOL]
        a[W_CACHED_BLOCKS] += min(a[r + R_CACHED], free)
    a[W_QUEUE_DEPTH] = a[W_QUEUE] + a[W_QUEUE + 1]
    a[W_OLDEST_WAIT_PS] = end - oldest
    a[W_FINISHED] = a[W_DUE] + a[W_DUE + 1] - a[W_ABANDONED] - a[W_REJECTED]
    a[W_TTFT_COUNT] = a[W_FIRST_TOKENS]
    percentiles(a, HIST_TTFT, W_TTFT_P50_PS)
    percentiles(a, HIST_ITL, W_ITL_P50_PS)
    for t in range(TENANTS):
        a[W_OFFERED_TOKENS] += a[W_OFFERED_TENANT + t]
    a[W_TOTAL_ARRIVED] = a[H_NEXT]
    a[W_TOTAL_FINISHED] += a[W_FINISHED]
    a[W_TOTAL_ABANDONED] += a[W_ABANDONED]
    a[W_TOTAL_REJECTED] += a[W_REJECTED]


def run_window(a: Row, tb: Row, tr: Row, rec: Row, plan: Row, at: int) -> None:
    """Run one window under the plan at `plan[at:]`."""
    clear_stats(a)
    a[W_DELIVERED_TOKENS] = -clocked_tokens(a)
    apply_plan(a, tb, rec, plan, at)
    end = a[PLAN_END_PS]
    i = a[H_NEXT]
    first = i
    while i < a[H_ARRIVALS]:
        when = tr[i * TRAFFIC_WIDTH]
        if when >= end:
            break
        advance_fleet(a, tb, rec, when, when)
        arrive(a, tr, rec, i, when)
        i += 1
    a[H_NEXT] = i
    a[W_ARRIVALS] = i - first
    advance_fleet(a, tb, rec, end, end - 1)
    # what a leap has delivered by the window's end belongs to this window's statistics
    for r in range(REPLICAS, a[H_REPLICAS_END], REPLICA_SIZE):
        if a[r + R_UNTIL] >= 0 and a[r + R_STEPS] > 1:
            settle_leap(a, rec, r, end)
    a[H_NOW] = end
    close_window(a, rec)


def run_batch(
    arena: Sequence[Row],
    tb: Row,
    traffic: Sequence[Row],
    traffic_index: Row,
    rec: Row,
    plans: Sequence[Row],
    active: Row,
    low: int,
    high: int,
) -> None:
    """Run one window of the active environments of low..high−1; environment e gets `traffic[traffic_index[e]]`."""
    for e in range(low, high):
        if active[e] != 0:
            run_window(arena[e], tb, traffic[traffic_index[e]], rec, plans[e], 0)
