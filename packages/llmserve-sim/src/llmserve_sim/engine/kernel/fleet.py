"""The fleet: arrivals and routing, hand-overs, a change of configuration, and a whole window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.histogram import BINS
from llmserve_sim.engine.kernel.histograms import percentiles
from llmserve_sim.engine.kernel.iterations import advance, settle, stream, take_blocks
from llmserve_sim.engine.kernel.linked import list_append, list_prepend, list_remove
from llmserve_sim.engine.kernel.requests import head_of_line, preempt, purge, victim
from llmserve_sim.engine.layout import (
    BY_LINE,
    CLASS_SHIFT,
    COLOCATED,
    DECODE,
    H_ARRIVALS,
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
    H_REPLICAS,
    H_RESIZE,
    H_SCRATCH,
    H_SEQ,
    H_SPLIT,
    H_STARTED,
    H_SWAP,
    H_TENANTS,
    H_TOTAL_ARRIVED,
    H_TOTAL_REJECTED,
    H_UNFINISHED,
    HIST_ITL,
    HIST_TTFT,
    L_CACHED,
    L_FRESH,
    L_GIVE_UP,
    L_HANDOVERS,
    L_LINK_FREE,
    L_LOAD,
    L_NOW,
    L_POOL,
    L_PREFILLS,
    L_READY,
    L_RESUMED,
    L_ROLE,
    L_RUNNING,
    L_STEPS,
    L_UNTIL,
    L_USED,
    LANE_SIZE,
    LANES,
    LIST,
    P_CAP,
    P_END,
    P_POOL,
    P_RESIZED,
    P_SPLIT,
    P_TIER,
    PLAN_SIZE,
    PREFILL,
    R_FIRST,
    R_ID,
    R_LAST,
    R_PREEMPTIONS,
    R_REPLICA,
    R_SCHEDULED,
    R_STATUS,
    RECORD_SIZE,
    REJECTED,
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
    STATS,
    STATS_SIZE,
    TENANT_SHIFT,
    TOKEN_BITS,
    TOKEN_MASK,
    TRAFFIC_WIDTH,
    W_ARRIVALS,
    W_ARRIVALS_PRIORITY,
    W_CACHED,
    W_DUE,
    W_FORCED,
    W_ITL_P50,
    W_OFFERED_TENANT,
    W_OFFERED_TOKENS,
    W_OLDEST,
    W_POOL,
    W_PREEMPTIONS,
    W_PREFILLING,
    W_PROMPT_TOKENS,
    W_QUEUE,
    W_QUEUE_DEPTH,
    W_REJECTED,
    W_RUNNING,
    W_TTFT_P50,
    W_USED,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmserve_sim.engine.kernel import Row


def give_work(a: Row, rec: Row, ln: int, q: int, s: int, now: int) -> None:
    """Put slot `s` at the end of a replica's waiting line at time `now`."""
    a[H_SEQ] += 1
    a[s + S_SEQ] = a[H_SEQ]
    list_append(a, ln + q + a[s + S_CLASS] * LIST, BY_LINE, s)
    a[ln + L_LOAD] += 1
    if a[ln + L_UNTIL] < 0:
        a[ln + L_NOW] = max(a[ln + L_NOW], now)
    elif a[ln + L_STEPS] > 1 and a[ln + L_RUNNING] < a[H_PLAN + P_CAP] and head_of_line(a, ln) == s:
        settle(a, rec, ln, now)  # it may join the very next iteration


def least_loaded(a: Row, role: int) -> int:
    """The replica with the fewest unfinished requests among those that decode (role DECODE) or those that prefill."""
    best = 0
    for i in range(a[H_REPLICAS]):
        ln = LANES + i * LANE_SIZE
        decodes = a[ln + L_ROLE] == DECODE
        if decodes == (role == DECODE) and (best == 0 or a[ln + L_LOAD] < a[best + L_LOAD]):
            best = ln
    return best


def advance_fleet(a: Row, tb: Row, rec: Row, te: int, until: int) -> None:
    """Run every replica up to `te`, passing on the requests whose hand-over is done by `until`."""
    first_decode = a[H_REPLICAS]
    for i in range(a[H_REPLICAS]):
        ln = LANES + i * LANE_SIZE
        if a[ln + L_ROLE] == DECODE:
            first_decode = min(first_decode, i)
        elif a[ln + L_UNTIL] <= te:
            advance(a, tb, rec, ln, te)
    if first_decode == a[H_REPLICAS]:
        return
    while True:
        source = 0
        ready = until + 1
        for i in range(first_decode):
            ln = LANES + i * LANE_SIZE
            s = a[ln + L_HANDOVERS]
            if s != 0 and a[s + S_READY] < ready:
                ready = a[s + S_READY]
                source = ln
        for i in range(first_decode, a[H_REPLICAS]):
            advance(a, tb, rec, LANES + i * LANE_SIZE, te if source == 0 else ready)
        if source == 0:
            return
        s = a[source + L_HANDOVERS]
        list_remove(a, source + L_HANDOVERS, BY_LINE, s)
        stream(a, s, ready)
        give_work(a, rec, least_loaded(a, DECODE), L_RESUMED, s, ready)


def arrive(a: Row, tr: Row, rec: Row, i: int, now: int) -> None:
    """Take in request `i` at time `now`."""
    packed = tr[i * TRAFFIC_WIDTH + 1]
    prompt = packed & TOKEN_MASK
    output = packed >> TOKEN_BITS & TOKEN_MASK
    c = packed >> CLASS_SHIFT & 1
    t = packed >> TENANT_SHIFT
    if c == 0:
        a[W_ARRIVALS_PRIORITY] += 1
    a[W_PROMPT_TOKENS] += prompt
    a[W_OFFERED_TENANT + t] += output
    for r in range(a[H_REPLICAS]):
        ln = LANES + r * LANE_SIZE
        if a[ln + L_GIVE_UP] <= now:
            purge(a, rec, ln, now)
    if prompt + 1 > a[H_MAX_LEN] or a[H_UNFINISHED] >= a[H_MAX_UNFINISHED]:
        a[W_REJECTED] += 1
        a[H_TOTAL_REJECTED] += 1
        a[W_DUE + c] += 1
        if a[H_RECORDING] != 0:
            r = a[H_RECORDS] * RECORD_SIZE
            a[H_RECORDS] += 1
            rec[r + R_ID] = i
            rec[r + R_STATUS] = REJECTED
            rec[r + R_SCHEDULED] = -1
            rec[r + R_FIRST] = -1
            rec[r + R_LAST] = now
            rec[r + R_PREEMPTIONS] = 0
            rec[r + R_REPLICA] = -1
        return
    s = a[H_FREE]
    a[H_FREE] = a[s + S_NEXT]
    a[H_UNFINISHED] += 1
    a[s + S_ID] = i
    a[s + S_ARRIVAL] = now
    a[s + S_PROMPT] = prompt
    a[s + S_OUTPUT] = min(output, a[H_MAX_LEN] - prompt)
    a[s + S_CLASS] = c
    a[s + S_TENANT] = t
    a[s + S_PRODUCED] = 0
    a[s + S_FIRST] = -1
    a[s + S_SCHEDULED] = -1
    a[s + S_PREEMPTIONS] = 0
    ln = least_loaded(a, PREFILL)
    if a[H_PATIENCE] > 0:
        a[ln + L_GIVE_UP] = min(a[ln + L_GIVE_UP], now + a[H_PATIENCE])
    give_work(a, rec, ln, L_FRESH, s, now)


def sort_scratch(a: Row, base: int, size: int) -> None:
    """Shell sort of `size` entries at `base`, ascending."""
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


def gather(a: Row, q: int, into: int) -> int:
    """Empty list `q` into scratch as sortable entries, from offset `into`; returns the offset after them."""
    s = a[q]
    while s != 0:
        list_remove(a, q, BY_LINE, s)
        a[s + S_STORED] = 0
        a[into] = a[s + S_ID] << SLOT_BITS | s
        into += 1
        s = a[q]
    return into


def set_roles(a: Row) -> None:
    """Give every replica the role that the plan in force asks for."""
    replicas = a[H_REPLICAS]
    for i in range(replicas):
        role = COLOCATED
        if a[H_PLAN + P_SPLIT] != 0:
            role = PREFILL if i < replicas // 2 else DECODE
        a[LANES + i * LANE_SIZE + L_ROLE] = role


def reconfigure(a: Row, rec: Row, now: int, stall: int) -> None:
    """Change tier or roles: what is in flight is lost, everybody queues again, nothing starts until the stall is over."""
    scratch = a[H_SCRATCH]
    resumed = scratch
    for i in range(a[H_REPLICAS]):
        ln = LANES + i * LANE_SIZE
        s = victim(a, ln)
        while s != 0:
            preempt(a, ln, s)
            a[W_PREEMPTIONS] += 1
            s = victim(a, ln)
        a[ln + L_UNTIL] = -1
        a[ln + L_USED] = 0
        a[ln + L_CACHED] = 0
        a[ln + L_LINK_FREE] = now
        a[ln + L_READY] = max(a[ln + L_READY], now) + stall
        a[ln + L_LOAD] = 0
        s = a[ln + L_HANDOVERS + 1]
        while s != 0:  # their KV is lost; they are older than all that wait here
            list_remove(a, ln + L_HANDOVERS, BY_LINE, s)
            line = L_RESUMED if a[s + S_FIRST] >= 0 else L_FRESH
            list_prepend(a, ln + line + a[s + S_CLASS] * LIST, BY_LINE, s)
            s = a[ln + L_HANDOVERS + 1]
        purge(a, rec, ln, now)
        for c in range(2):
            resumed = gather(a, ln + L_RESUMED + c * LIST, resumed)
    fresh = resumed
    for i in range(a[H_REPLICAS]):
        ln = LANES + i * LANE_SIZE
        for c in range(2):
            fresh = gather(a, ln + L_FRESH + c * LIST, fresh)
        a[ln + L_LOAD] = 0
    set_roles(a)
    # those that have streamed go first, so that in every line a lower sequence number stands further ahead
    sort_scratch(a, scratch, resumed - scratch)
    sort_scratch(a, resumed, fresh - resumed)
    for i in range(scratch, fresh):
        ln = least_loaded(a, PREFILL)
        if i >= resumed and a[H_PATIENCE] > 0:
            a[ln + L_GIVE_UP] = min(a[ln + L_GIVE_UP], a[(a[i] & SLOT_MASK) + S_ARRIVAL] + a[H_PATIENCE])
        give_work(a, rec, ln, L_RESUMED if i < resumed else L_FRESH, a[i] & SLOT_MASK, now)


def resize(a: Row, ln: int, now: int) -> None:
    """Give a replica the pool that the plan in force allows it."""
    resized = a[H_PLAN + P_RESIZED]
    for pool in (a[ln + L_POOL], a[H_PLAN + P_POOL]):  # what the old pool had displaced from the cache stays displaced
        a[ln + L_POOL] = pool
        a[ln + L_CACHED] = min(a[ln + L_CACHED], max(0, pool - a[ln + L_USED]))
    evicted = 0
    while a[ln + L_USED] > a[ln + L_POOL]:
        preempt(a, ln, victim(a, ln))
        evicted += 1
    if resized != 0:
        a[W_PREEMPTIONS] += evicted
        a[ln + L_READY] = max(a[ln + L_READY], now, a[ln + L_UNTIL]) + a[H_RESIZE]
    elif evicted > 0:
        a[W_FORCED] += evicted
        a[ln + L_READY] = max(a[ln + L_READY], now, a[ln + L_UNTIL]) + a[H_EVICT]


def begin(a: Row, rec: Row, plan: Row, at: int) -> None:
    """Put the plan at `plan[at:]` into force at the window's start."""
    now = a[H_NOW]
    replicas = a[H_REPLICAS]
    for i in range(replicas):
        purge(a, rec, LANES + i * LANE_SIZE, now)
    tier = a[H_PLAN + P_TIER]
    split = a[H_PLAN + P_SPLIT]
    for i in range(PLAN_SIZE):
        a[H_PLAN + i] = plan[at + i]
    if a[H_STARTED] == 0:
        a[H_STARTED] = 1
        set_roles(a)
        for i in range(replicas):
            a[LANES + i * LANE_SIZE + L_POOL] = a[H_PLAN + P_POOL]
        return
    stall = 0
    if a[H_PLAN + P_TIER] != tier:
        stall += a[H_SWAP + a[H_PLAN + P_TIER]]
    if a[H_PLAN + P_SPLIT] != split:
        stall += a[H_SPLIT]
    if a[H_PLAN + P_TIER] != tier or a[H_PLAN + P_SPLIT] != split:
        reconfigure(a, rec, now, stall)
    for i in range(replicas):
        resize(a, LANES + i * LANE_SIZE, now)


def clear_stats(a: Row) -> None:
    """Zero the window's statistics and the bins in use."""
    for i in range(STATS, STATS + STATS_SIZE):
        a[i] = 0
    for h in (HIST_TTFT, HIST_ITL):
        for i in range(h + 2 + a[h], h + 3 + a[h + 1]):
            a[i] = 0
        a[h] = BINS
        a[h + 1] = -1
    a[H_RECORDS] = 0


def close_window(a: Row, rec: Row) -> None:
    """Take the levels at the window's end."""
    end = a[H_NOW]
    oldest = end
    for i in range(a[H_REPLICAS]):
        ln = LANES + i * LANE_SIZE
        purge(a, rec, ln, end)
        if a[ln + L_UNTIL] >= 0:
            take_blocks(a, ln)
        for c in range(2):
            a[W_QUEUE + c] += a[ln + L_RESUMED + c * LIST + 2] + a[ln + L_FRESH + c * LIST + 2]
            s = a[ln + L_FRESH + c * LIST]
            if s != 0:
                oldest = min(oldest, a[s + S_ARRIVAL])
        s = a[ln + L_HANDOVERS]
        while s != 0:
            a[W_QUEUE + a[s + S_CLASS]] += 1
            s = a[s + S_NEXT]
        a[W_RUNNING] += a[ln + L_RUNNING]
        a[W_PREFILLING] += a[ln + L_PREFILLS + 2]
        a[W_USED] += a[ln + L_USED]
        a[W_POOL] += a[ln + L_POOL]
        a[W_CACHED] += min(a[ln + L_CACHED], a[ln + L_POOL] - a[ln + L_USED])
    a[W_QUEUE_DEPTH] = a[W_QUEUE] + a[W_QUEUE + 1]
    a[W_OLDEST] = end - oldest
    percentiles(a, HIST_TTFT, W_TTFT_P50)
    percentiles(a, HIST_ITL, W_ITL_P50)
    for t in range(a[H_TENANTS]):
        a[W_OFFERED_TOKENS] += a[W_OFFERED_TENANT + t]
    a[H_TOTAL_ARRIVED] = a[H_NEXT]


def run_window(a: Row, tb: Row, tr: Row, rec: Row, plan: Row, at: int) -> None:
    """Run one window under the plan at `plan[at:]`."""
    clear_stats(a)
    begin(a, rec, plan, at)
    end = a[H_PLAN + P_END]
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
    for i in range(a[H_REPLICAS]):
        ln = LANES + i * LANE_SIZE
        if a[ln + L_UNTIL] >= 0 and a[ln + L_STEPS] > 1:
            settle(a, rec, ln, end)
    a[H_NOW] = end
    close_window(a, rec)


def run_batch(
    arena: Sequence[Row],
    tb: Row,
    traffic: Sequence[Row],
    rec: Row,
    plans: Sequence[Row],
    active: Row,
    low: int,
    high: int,
) -> None:
    """Run one window of the environments low..high−1 that are active; rows of the arguments belong together."""
    for e in range(low, high):
        if active[e] != 0:
            run_window(arena[e], tb, traffic[e], rec, plans[e], 0)
