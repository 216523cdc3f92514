"""The event-leaping scheduler: `reference.py`'s behaviour at a thousandth of its cost.

It must answer as the reference does, to the integer; `tests/engine/test_exactness.py` holds it to that. Three ideas:

- *Lock-step algebra.* All sequences of a tenant that decode on a replica gain the same tokens per iteration, so the
  replica keeps one clock per tenant, the sum of contexts relative to it, a histogram of block phases (KV demand of any
  number of iterations) and a heap of finish clocks. An iteration costs O(1), not O(batch).
- *Leaps.* Between events (a finish, an arrival, a bend of the cost tables, exhausted blocks, a deadline at the head of
  the line) iteration times form an arithmetic series, so any number of iterations is one step.
- *One arena.* State is one flat int64 row (`layout.py`), so a fork is a copy.

The module is plain Python over anything that indexes like an int64 array; `compiled.py` imports it a second time and
compiles it with numba. Hence no classes, no keyword arguments, callees before callers, integers only. Arguments that
recur: `a` the row, `tb` the cost tables, `tr` the traffic, `rec` the records, `ln` a replica's offset, `s` a slot's.
"""

from __future__ import annotations

from typing import Any

from llmserve_sim.engine.histogram import BINS, LINEAR, PER_OCTAVE, UNIT_BITS
from llmserve_sim.engine.interface import BLOCK_TOKENS, DEPTHS, FP, TENANTS
from llmserve_sim.engine.layout import (
    ABANDONED,
    BY_BATCH,
    BY_LINE,
    CLASS_SHIFT,
    COLOCATED,
    DECODE,
    FINISHED,
    H_ARRIVALS,
    H_EVICT,
    H_FREE,
    H_HANDOVER,
    H_LINK,
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
    H_TOTAL_ABANDONED,
    H_TOTAL_ARRIVED,
    H_TOTAL_FINISHED,
    H_TOTAL_REJECTED,
    H_TPOT,
    H_TRAFFIC,
    H_TTFT,
    H_TTFT_TOKEN,
    H_UNFINISHED,
    HEAP_SIZE,
    HIST_ITL,
    HIST_TTFT,
    L_ACTIVE,
    L_BASE,
    L_CACHED,
    L_CLOCK,
    L_COUNT,
    L_DECODING,
    L_DEPTH,
    L_FRESH,
    L_HANDOVERS,
    L_HEAPS,
    L_INDEX,
    L_JOINED,
    L_JOINERS,
    L_LAST_END,
    L_LINK_FREE,
    L_LOAD,
    L_NOW,
    L_PHASE,
    L_POOL,
    L_PREFILLS,
    L_RATE,
    L_READY,
    L_RESUMED,
    L_ROLE,
    L_RUNNING,
    L_START,
    L_UNTIL,
    L_USED,
    LANE_SIZE,
    LANES,
    LIST,
    P_CAP,
    P_DEPTH,
    P_END,
    P_HALF,
    P_HIT,
    P_POOL,
    P_PRIORITY,
    P_RATES,
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
    S_CHUNK,
    S_CLASS,
    S_COMPUTED,
    S_FIRST,
    S_HEAP,
    S_ID,
    S_JOIN,
    S_LAST,
    S_NEXT,
    S_OUTPUT,
    S_PREEMPTIONS,
    S_PRODUCED,
    S_PROMPT,
    S_READY,
    S_SCHEDULED,
    S_SEQ,
    S_STORED,
    S_TARGET,
    S_TENANT,
    SLOT_BITS,
    SLOT_MASK,
    STATS,
    STATS_SIZE,
    TB_BUDGET,
    TB_CPU_SEQ,
    TB_DEC_H,
    TB_DEC_S,
    TB_DEC_T0,
    TB_DEC_X,
    TB_DRAFT_STEP,
    TB_GEMM,
    TB_HEAD,
    TB_MIX_AMP,
    TB_MIX_CTX,
    TB_MIX_SEQ,
    TB_PF_COEF,
    TB_PF_CRIT,
    TB_PF_OFF,
    TB_PF_T0,
    TB_PF_TILE,
    TB_PIECES,
    TB_SPEC_SEQ,
    TENANT_SHIFT,
    TOKEN_BITS,
    TOKEN_MASK,
    TRAFFIC_WIDTH,
    W_ABANDONED,
    W_ACCEPTED,
    W_ARRIVALS,
    W_ARRIVALS_PRIORITY,
    W_BUSY,
    W_CACHED,
    W_DELIVERED,
    W_DRAFT,
    W_DUE,
    W_FINISHED,
    W_FIRST_TOKENS,
    W_FORCED,
    W_GOOD,
    W_HANDOVERS,
    W_ITERATIONS,
    W_ITL_P50,
    W_ITL_P99,
    W_MET,
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
    W_TTFT_COUNT,
    W_TTFT_P50,
    W_TTFT_P99,
    W_TTFT_SUM,
    W_USED,
)

Row = Any
"""An int64 array or a memoryview of one: indexed by int, holding int."""

NEVER = 1 << 62
"""A time after everything."""

# ---------------------------------------------------------------------------- lists linked through the slots


def list_append(a: Row, q: int, link: int, s: int) -> None:
    """Put slot `s` at the end of list `q`."""
    tail = a[q + 1]
    a[s + link] = 0
    a[s + link + 1] = tail
    if tail != 0:
        a[tail + link] = s
    else:
        a[q] = s
    a[q + 1] = s
    a[q + 2] += 1


def list_prepend(a: Row, q: int, link: int, s: int) -> None:
    """Put slot `s` at the front of list `q`."""
    head = a[q]
    a[s + link] = head
    a[s + link + 1] = 0
    if head != 0:
        a[head + link + 1] = s
    else:
        a[q + 1] = s
    a[q] = s
    a[q + 2] += 1


def list_remove(a: Row, q: int, link: int, s: int) -> None:
    """Take slot `s` out of list `q`."""
    nxt = a[s + link]
    prev = a[s + link + 1]
    if prev != 0:
        a[prev + link] = nxt
    else:
        a[q] = nxt
    if nxt != 0:
        a[nxt + link + 1] = prev
    else:
        a[q + 1] = prev
    a[q + 2] -= 1


# ---------------------------------------------------------------------------- heaps of finish clocks


def heap_up(a: Row, hp: int, i: int) -> None:
    """Move entry `i` of the heap at `hp` towards the top until order holds."""
    entry = a[hp + i]
    while i > 1:
        parent = i >> 1
        above = a[hp + parent]
        if above <= entry:
            break
        a[hp + i] = above
        a[(above & SLOT_MASK) + S_HEAP] = i
        i = parent
    a[hp + i] = entry
    a[(entry & SLOT_MASK) + S_HEAP] = i


def heap_down(a: Row, hp: int, i: int) -> None:
    """Move entry `i` of the heap at `hp` away from the top until order holds."""
    size = a[hp]
    entry = a[hp + i]
    while True:
        child = i << 1
        if child > size:
            break
        if child < size and a[hp + child + 1] < a[hp + child]:
            child += 1
        below = a[hp + child]
        if entry <= below:
            break
        a[hp + i] = below
        a[(below & SLOT_MASK) + S_HEAP] = i
        i = child
    a[hp + i] = entry
    a[(entry & SLOT_MASK) + S_HEAP] = i


def heap_push(a: Row, hp: int, clock: int, s: int) -> None:
    """Add slot `s`, which finishes when its tenant's clock (tokens) reaches `clock`."""
    size = a[hp] + 1
    a[hp] = size
    a[hp + size] = clock << SLOT_BITS | s
    heap_up(a, hp, size)


def heap_remove(a: Row, hp: int, s: int) -> None:
    """Take slot `s` out of its heap."""
    i = a[s + S_HEAP]
    size = a[hp]
    last = a[hp + size]
    a[hp] = size - 1
    a[s + S_HEAP] = -1
    if i < size:
        a[hp + i] = last
        a[(last & SLOT_MASK) + S_HEAP] = i
        heap_up(a, hp, i)
        heap_down(a, hp, a[(last & SLOT_MASK) + S_HEAP])


# ---------------------------------------------------------------------------- histograms


def bin_of(ps: int) -> int:
    """`histogram.bin_of`, without bit_length, which numba does not know."""
    v = ps >> UNIT_BITS
    if v < LINEAR:
        return v
    w = v >> 6
    octave = 1
    if w >= 65536:
        w >>= 16
        octave += 16
    if w >= 256:
        w >>= 8
        octave += 8
    if w >= 16:
        w >>= 4
        octave += 4
    if w >= 4:
        w >>= 2
        octave += 2
    if w >= 2:
        octave += 1
    index = LINEAR + (octave - 1) * PER_OCTAVE + (v >> octave) - PER_OCTAVE
    return min(index, BINS - 1)


def edge_of(index: int) -> int:
    """`histogram.bin_edge_ps`."""
    if index < LINEAR:
        return index << UNIT_BITS
    octave = (index - LINEAR) // PER_OCTAVE
    step = (index - LINEAR) % PER_OCTAVE
    return ((PER_OCTAVE + step) << (octave + 1)) << UNIT_BITS


def hist_add(a: Row, h: int, index: int, weight: int) -> None:
    """Add `weight` to bin `index` of the histogram at `h`, whose first two entries are the range in use."""
    if index < a[h]:
        a[h] = index
    if index > a[h + 1]:
        a[h + 1] = index
    a[h + 2 + index] += weight


def hist_add_series(a: Row, first: int, rise: int, count: int, rate: int, weight: int) -> None:
    """Add the gaps `first + i·rise`, i < count, each spread over `rate` fixed-point tokens, to the ITL histogram."""
    low = bin_of(first * FP // rate)
    high = bin_of((first + (count - 1) * rise) * FP // rate)
    done = 0
    while low < high:
        limit = (edge_of(low + 1) * rate + FP - 1) // FP  # gaps below this fall into this bin or a lower one
        upto = (limit - first + rise - 1) // rise
        if upto > done:
            hist_add(a, HIST_ITL, low, (upto - done) * weight)
            done = upto
        low += 1
    hist_add(a, HIST_ITL, high, (count - done) * weight)


def percentile(a: Row, h: int, percent: int) -> int:
    """`histogram.percentile_ps` of the histogram at `h`; −1 if it is empty."""
    total = 0
    for i in range(a[h], a[h + 1] + 1):
        total += a[h + 2 + i]
    if total == 0:
        return -1
    rank = (total * percent + 99) // 100
    seen = 0
    i = a[h]
    while True:
        seen += a[h + 2 + i]
        if seen >= rank:
            return (edge_of(i) + edge_of(i + 1)) // 2
        i += 1


# ---------------------------------------------------------------------------- cost of an iteration


def decode_piece(a: Row, tb: Row, t0: int, n: int, x: int) -> int:
    """The piece of the decode-attention table that holds n sequences with context sum x (fixed-point tokens)."""
    edges = tb[t0 + TB_DEC_X]
    low = 0
    high = tb[t0 + TB_PIECES] - 1
    while low < high:
        mid = (low + high + 1) >> 1
        if n * tb[edges + mid] <= x:
            low = mid
        else:
            high = mid - 1
    return low


def iteration_ps(
    a: Row, tb: Row, t0: int, n: int, k: int, x: int, new: int, units: int, longest: int, chunks: int, ends: int
) -> int:
    """Time of one iteration (see `interface.TierTables`): n sequences at depth k, context sum x, `chunks` prompts."""
    t = tb[tb[t0 + TB_GEMM] + n * (k + 1) + new] + tb[tb[t0 + TB_HEAD] + n * (k + 1) + ends]
    t += tb[t0 + TB_CPU_SEQ] * (n + chunks)
    decode = 0
    if n > 0:
        j = decode_piece(a, tb, t0, n, x)
        decode = n * tb[tb[t0 + TB_DEC_H] + j]
        decode += tb[tb[t0 + TB_DEC_S] + j] * (x - n * tb[tb[t0 + TB_DEC_X] + j])
        if k > 0:
            t += k * tb[t0 + TB_DRAFT_STEP] + n * tb[t0 + TB_SPEC_SEQ]
    if chunks == 0:
        return t + tb[t0 + TB_DEC_T0] + decode
    prefill = max(tb[t0 + TB_PF_COEF] * units >> 10, tb[t0 + TB_PF_CRIT] * longest >> 10)
    t += tb[t0 + TB_PF_T0] + prefill
    if n > 0:
        mixed = n * tb[t0 + TB_MIX_SEQ] + (tb[t0 + TB_MIX_CTX] * x >> 10)
        t += max(mixed, tb[t0 + TB_MIX_AMP] * x >> 10, decode)
    return t


# ---------------------------------------------------------------------------- blocks


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return (tokens + BLOCK_TOKENS - 1) // BLOCK_TOKENS


def demand_of(a: Row, ln: int, t: int, clock: int, gain: int) -> int:
    """New blocks that tenant t's sequences need for `gain` more tokens from `clock` (tokens)."""
    need = a[ln + L_COUNT + t] * (gain // BLOCK_TOKENS)
    rest = gain % BLOCK_TOKENS
    if rest > 0:
        # a sequence crosses a block's edge if its stored tokens are 0 or above 16 − rest (mod 16)
        phase = ln + L_PHASE + t * BLOCK_TOKENS
        need += a[phase + (-clock) % BLOCK_TOKENS]
        for r in range(BLOCK_TOKENS - rest + 1, BLOCK_TOKENS):
            need += a[phase + (r - clock) % BLOCK_TOKENS]
    return need


def demand(a: Row, ln: int, depth: int, steps: int) -> int:
    """New blocks that the decoding sequences need for `steps` iterations at `depth`."""
    need = 0
    for t in range(TENANTS):
        if a[ln + L_COUNT + t] > 0:
            clock = a[ln + L_CLOCK + t]
            rate = a[H_PLAN + P_RATES + t * DEPTHS + depth]
            now = clock >> 8
            need += demand_of(a, ln, t, now, (clock + steps * rate >> 8) - now)
    return need


def release(a: Row, ln: int, blocks: int, keep: int) -> None:
    """Give blocks back; `keep` leaves their text in the prefix cache."""
    cached = min(a[ln + L_CACHED], max(0, a[ln + L_POOL] - a[ln + L_USED]))
    if keep != 0:
        cached += blocks
    a[ln + L_CACHED] = cached
    a[ln + L_USED] -= blocks


# ---------------------------------------------------------------------------- a request's way through a replica


def record(a: Row, rec: Row, s: int, status: int, end: int, replica: int) -> None:
    """Write down how slot `s` ended, if the engine records."""
    if a[H_RECORDING] == 0:
        return
    r = a[H_RECORDS] * RECORD_SIZE
    a[H_RECORDS] += 1
    rec[r + R_ID] = a[s + S_ID]
    rec[r + R_STATUS] = status
    rec[r + R_SCHEDULED] = a[s + S_SCHEDULED]
    rec[r + R_FIRST] = a[s + S_FIRST]
    rec[r + R_LAST] = end
    rec[r + R_PREEMPTIONS] = a[s + S_PREEMPTIONS]
    rec[r + R_REPLICA] = replica


def free_slot(a: Row, s: int) -> None:
    """Give slot `s` back."""
    a[s + S_NEXT] = a[H_FREE]
    a[H_FREE] = s
    a[H_UNFINISHED] -= 1


def purge(a: Row, rec: Row, ln: int, now: int) -> None:
    """Abandon the requests of a replica that have waited for a first token as long as anyone does."""
    patience = a[H_PATIENCE]
    if patience == 0:
        return
    for c in range(2):
        q = ln + L_FRESH + c * LIST
        s = a[q]
        while s != 0 and a[s + S_ARRIVAL] + patience <= now:
            list_remove(a, q, BY_LINE, s)
            a[ln + L_LOAD] -= 1
            a[W_ABANDONED] += 1
            a[H_TOTAL_ABANDONED] += 1
            a[W_DUE + c] += 1
            record(a, rec, s, ABANDONED, a[s + S_ARRIVAL] + patience, a[ln + L_INDEX])
            free_slot(a, s)
            s = a[q]


def join_decode(a: Row, ln: int, s: int) -> None:
    """Let slot `s` decode from its replica's next iteration on."""
    t = a[s + S_TENANT]
    if a[ln + L_COUNT + t] == 0:
        a[ln + L_CLOCK + t] = 0
    clock = a[ln + L_CLOCK + t] >> 8
    tokens = a[s + S_PROMPT] + a[s + S_PRODUCED]
    a[s + S_JOIN] = clock
    a[ln + L_BASE + t] += tokens - clock
    a[ln + L_PHASE + t * BLOCK_TOKENS + (tokens - 1 - clock) % BLOCK_TOKENS] += 1
    a[ln + L_COUNT + t] += 1
    a[ln + L_DECODING] += 1
    heap_push(a, a[ln + L_HEAPS] + t * HEAP_SIZE, clock + a[s + S_OUTPUT] - a[s + S_PRODUCED], s)


def leave_decode(a: Row, ln: int, s: int) -> int:
    """Take slot `s` out of the decoding set; returns the tokens it has produced (uncapped)."""
    t = a[s + S_TENANT]
    tokens = a[s + S_PROMPT] + a[s + S_PRODUCED]
    joined = a[s + S_JOIN]
    a[ln + L_BASE + t] -= tokens - joined
    a[ln + L_PHASE + t * BLOCK_TOKENS + (tokens - 1 - joined) % BLOCK_TOKENS] -= 1
    a[ln + L_COUNT + t] -= 1
    a[ln + L_DECODING] -= 1
    heap_remove(a, a[ln + L_HEAPS] + t * HEAP_SIZE, s)
    return a[s + S_PRODUCED] + (a[ln + L_CLOCK + t] >> 8) - joined


def finish(a: Row, rec: Row, ln: int, s: int, now: int, blocks: int) -> None:
    """Slot `s` has delivered its last token."""
    release(a, ln, blocks, 1)
    c = a[s + S_CLASS]
    list_remove(a, ln + L_ACTIVE + c * LIST, BY_LINE, s)
    a[ln + L_RUNNING] -= 1
    a[ln + L_LOAD] -= 1
    a[W_FINISHED] += 1
    a[H_TOTAL_FINISHED] += 1
    a[W_DUE + c] += 1
    ttft = a[s + S_FIRST] - a[s + S_ARRIVAL]
    if ttft <= a[H_TTFT + c] + a[s + S_PROMPT] * a[H_TTFT_TOKEN]:
        output = a[s + S_OUTPUT]
        if output == 1 or (now - a[s + S_FIRST]) // (output - 1) <= a[H_TPOT + c]:
            a[W_MET + c] += 1
            a[W_GOOD + a[s + S_TENANT]] += output
    record(a, rec, s, FINISHED, now, a[ln + L_INDEX])
    free_slot(a, s)


def finish_due(a: Row, rec: Row, ln: int, t: int, now: int) -> None:
    """Finish tenant t's sequences whose finish clock has been reached."""
    hp = a[ln + L_HEAPS] + t * HEAP_SIZE
    clock = a[ln + L_CLOCK + t] >> 8
    while a[hp] > 0 and a[hp + 1] >> SLOT_BITS <= clock:
        s = a[hp + 1] & SLOT_MASK
        a[W_DELIVERED] -= clock - (a[hp + 1] >> SLOT_BITS)
        produced = leave_decode(a, ln, s)
        finish(a, rec, ln, s, now, blocks_for(a[s + S_PROMPT] + produced - 1))


def preempt(a: Row, ln: int, s: int) -> None:
    """Put running slot `s` back at the front of the line; its KV is lost and will be computed again."""
    c = a[s + S_CLASS]
    list_remove(a, ln + L_ACTIVE + c * LIST, BY_LINE, s)
    a[ln + L_RUNNING] -= 1
    if a[s + S_TARGET] > 0:
        blocks = blocks_for(a[s + S_TARGET])
        list_remove(a, ln + L_PREFILLS, BY_BATCH, s)
        a[s + S_TARGET] = 0
    else:
        t = a[s + S_TENANT]
        tokens = a[s + S_PROMPT] - 1
        clock = a[ln + L_CLOCK + t]
        gain = 0
        if a[ln + L_UNTIL] >= 0:  # the iteration in flight holds room for its tokens already
            gain = (clock + a[ln + L_RATE + t] >> 8) - (clock >> 8)
        if a[s + S_STORED] != 0:  # joined in the iteration in flight: nothing delivered here yet
            list_remove(a, ln + L_JOINERS, BY_BATCH, s)
            a[ln + L_JOINED + t] -= 1
            a[s + S_STORED] = 0
        else:
            a[s + S_LAST] = a[ln + L_LAST_END]
        produced = leave_decode(a, ln, s)
        a[s + S_PRODUCED] = produced
        blocks = blocks_for(tokens + produced + gain)
    a[s + S_COMPUTED] = 0
    a[s + S_PREEMPTIONS] += 1
    release(a, ln, blocks, 0)
    if a[s + S_FIRST] >= 0:
        list_prepend(a, ln + L_RESUMED + c * LIST, BY_LINE, s)
    else:
        list_prepend(a, ln + L_FRESH + c * LIST, BY_LINE, s)


def victim(a: Row, ln: int) -> int:
    """The running slot to preempt next: the newest, of the standard class first when routing by priority; 0: none."""
    priority = a[ln + L_ACTIVE + 1]
    standard = a[ln + L_ACTIVE + LIST + 1]
    if priority == 0 or standard == 0:
        return priority + standard
    if a[H_PLAN + P_PRIORITY] != 0 or a[standard + S_SEQ] > a[priority + S_SEQ]:
        return standard
    return priority


def head_of_line(a: Row, ln: int) -> int:
    """The waiting slot to admit next; 0: none."""
    r0 = a[ln + L_RESUMED]
    r1 = a[ln + L_RESUMED + LIST]
    f0 = a[ln + L_FRESH]
    f1 = a[ln + L_FRESH + LIST]
    if a[H_PLAN + P_PRIORITY] != 0:
        if r0 != 0:
            return r0
        if f0 != 0:
            return f0
        if r1 != 0:
            return r1
        return f1
    if r0 == 0 or r1 == 0:
        if r0 + r1 != 0:
            return r0 + r1
    elif a[r0 + S_SEQ] < a[r1 + S_SEQ]:
        return r0
    else:
        return r1
    if f0 == 0 or f1 == 0:
        return f0 + f1
    if a[f0 + S_SEQ] < a[f1 + S_SEQ]:
        return f0
    return f1


# ---------------------------------------------------------------------------- iterations


def deliver(a: Row, ln: int, depth: int, steps: int) -> None:
    """Advance the clocks of the decoding tenants by `steps` iterations and count the tokens."""
    for t in range(TENANTS):
        count = a[ln + L_COUNT + t]
        if count > 0:
            rate = a[ln + L_RATE + t]
            clock = a[ln + L_CLOCK + t]
            after = clock + steps * rate
            a[ln + L_CLOCK + t] = after
            a[W_DELIVERED] += count * ((after >> 8) - (clock >> 8))
            if depth > 0:
                a[W_DRAFT] += steps * count * depth * FP
                a[W_ACCEPTED] += steps * count * (rate - FP)


def sample_itl(a: Row, ln: int, first: int, rise: int, steps: int) -> None:
    """Record the gaps of the continuing sequences over `steps` iterations that last `first + i·rise`."""
    for t in range(TENANTS):
        count = a[ln + L_COUNT + t] - a[ln + L_JOINED + t]
        if count > 0:
            rate = a[ln + L_RATE + t]
            hist_add_series(a, first, rise, steps, rate, count * rate)


def end_prefill(a: Row, rec: Row, ln: int, s: int, now: int) -> None:
    """Slot `s` has its whole context computed: deliver a token, then decode, hand over or finish."""
    target = a[s + S_TARGET]
    a[s + S_TARGET] = 0
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
    if a[s + S_PRODUCED] == a[s + S_OUTPUT]:
        finish(a, rec, ln, s, now, blocks_for(target))
    elif a[ln + L_ROLE] == PREFILL:
        release(a, ln, blocks_for(target), 1)
        list_remove(a, ln + L_ACTIVE + a[s + S_CLASS] * LIST, BY_LINE, s)
        a[ln + L_RUNNING] -= 1
        a[ln + L_LOAD] -= 1
        sent = max(now, a[ln + L_LINK_FREE]) + a[H_LINK] * target
        a[ln + L_LINK_FREE] = sent
        a[s + S_READY] = sent + a[H_HANDOVER]
        a[s + S_STORED] = 1
        list_append(a, ln + L_HANDOVERS, BY_LINE, s)
        a[W_HANDOVERS] += 1
    else:
        join_decode(a, ln, s)


def complete(a: Row, rec: Row, ln: int) -> None:
    """End the iteration in flight."""
    now = a[ln + L_UNTIL]
    depth = a[ln + L_DEPTH]
    if a[ln + L_DECODING] > 0:
        sample_itl(a, ln, now - a[ln + L_LAST_END], 0, 1)
        s = a[ln + L_JOINERS]
        while s != 0:
            rate = a[ln + L_RATE + a[s + S_TENANT]]
            hist_add(a, HIST_ITL, bin_of((now - a[s + S_LAST]) * FP // rate), rate)
            a[ln + L_JOINED + a[s + S_TENANT]] -= 1
            a[s + S_STORED] = 0
            list_remove(a, ln + L_JOINERS, BY_BATCH, s)
            s = a[ln + L_JOINERS]
        deliver(a, ln, depth, 1)
        for t in range(TENANTS):
            if a[ln + L_COUNT + t] > 0:
                finish_due(a, rec, ln, t, now)
    a[ln + L_UNTIL] = -1
    a[ln + L_NOW] = now
    a[ln + L_LAST_END] = now
    a[W_ITERATIONS] += 1
    a[W_BUSY] += now - a[ln + L_START]
    s = a[ln + L_PREFILLS]
    while s != 0:
        following = a[s + BY_BATCH]
        a[s + S_COMPUTED] += a[s + S_CHUNK]
        if a[s + S_COMPUTED] == a[s + S_TARGET]:
            list_remove(a, ln + L_PREFILLS, BY_BATCH, s)
            end_prefill(a, rec, ln, s, now)
        s = following


def context_sum(a: Row, ln: int) -> int:
    """Sum of the decoding sequences' contexts, fixed-point tokens."""
    x = 0
    for t in range(TENANTS):
        count = a[ln + L_COUNT + t]
        if count > 0:
            x += FP * a[ln + L_BASE + t] + count * a[ln + L_CLOCK + t]
    return x


def steps_within(first: int, rise: int, budget: int, most: int) -> int:
    """How many of at most `most` durations first, first + rise, first + 2·rise, … fit into `budget` together."""
    if first > budget:
        return 0
    high = min(most, budget // first)
    if high * first + rise * (high * (high - 1) // 2) <= budget:
        return high
    low = 1
    while high - low > 1:
        mid = (low + high) >> 1
        if mid * first + rise * (mid * (mid - 1) // 2) <= budget:
            low = mid
        else:
            high = mid
    return low


def leap(a: Row, tb: Row, rec: Row, ln: int, t0: int, depth: int, now: int, te: int, deadline: int) -> int:
    """Run pure decode iterations from `now` until an event or `te`, or put one in flight.

    `deadline`: the head of the line is waiting for blocks and gives up then (NEVER if nothing changes by waiting).
    Returns 1 if whole iterations were run, 0 if one is in flight. Blocks of the first iteration are already taken.
    """
    n = a[ln + L_DECODING]
    x = context_sum(a, ln)
    piece = decode_piece(a, tb, t0, n, x)
    first = iteration_ps(a, tb, t0, n, depth, x, 0, 0, 0, 0, 0)
    if now + first > te:
        a[ln + L_START] = now
        a[ln + L_UNTIL] = now + first
        a[ln + L_DEPTH] = depth
        return 0
    growth = 0
    steps = NEVER
    for t in range(TENANTS):
        count = a[ln + L_COUNT + t]
        if count > 0:
            rate = a[ln + L_RATE + t]
            growth += count * rate
            finish_clock = a[a[ln + L_HEAPS] + t * HEAP_SIZE + 1] >> SLOT_BITS
            left = (finish_clock * FP - a[ln + L_CLOCK + t] + rate - 1) // rate
            steps = min(steps, left)
    if piece + 1 < tb[t0 + TB_PIECES]:
        steps = min(steps, (n * tb[tb[t0 + TB_DEC_X] + piece + 1] - 1 - x) // growth + 1)
    rise = tb[tb[t0 + TB_DEC_S] + piece] * growth
    steps = steps_within(first, rise, te - now, steps)
    if deadline <= te:
        steps = min(steps, steps_within(first, rise, deadline - 1 - now, steps) + 1)
    free = a[ln + L_POOL] - a[ln + L_USED] + demand(a, ln, depth, 1)
    need = demand(a, ln, depth, steps)
    if need > free:
        low = 1
        while steps - low > 1:
            mid = (low + steps) >> 1
            if demand(a, ln, depth, mid) <= free:
                low = mid
            else:
                steps = mid
        steps = low
        need = demand(a, ln, depth, steps)
    a[ln + L_USED] = a[ln + L_POOL] - free + need
    last = now + steps * first + rise * (steps * (steps - 1) // 2)
    gap = now - a[ln + L_LAST_END]
    if gap == 0:
        sample_itl(a, ln, first, rise, steps)
    else:
        sample_itl(a, ln, gap + first, 0, 1)
        if steps > 1:
            sample_itl(a, ln, first + rise, rise, steps - 1)
    deliver(a, ln, depth, steps)
    a[ln + L_NOW] = last
    a[ln + L_LAST_END] = last
    a[W_ITERATIONS] += steps
    a[W_BUSY] += last - now
    for t in range(TENANTS):
        if a[ln + L_COUNT + t] > 0:
            finish_due(a, rec, ln, t, last)
    return 1


def start(a: Row, tb: Row, rec: Row, ln: int, now: int, te: int) -> int:
    """Schedule the iteration that starts at `now`. Returns 1 to go on from `L_NOW`, 0 if in flight or nothing to do."""
    purge(a, rec, ln, now)
    t0 = tb[a[H_PLAN + P_TIER]]
    budget = tb[t0 + TB_BUDGET]
    planned = a[H_PLAN + P_DEPTH]
    n = a[ln + L_DECODING]
    depth = planned
    preempted = 0
    if n > 0:
        depth = min(planned, budget // n - 1)
        need = demand(a, ln, depth, 1)
        while need > a[ln + L_POOL] - a[ln + L_USED]:
            preempt(a, ln, victim(a, ln))
            a[W_PREEMPTIONS] += 1
            preempted = 1
            n = a[ln + L_DECODING]
            if n == 0:
                need = 0
            else:
                depth = min(planned, budget // n - 1)
                need = demand(a, ln, depth, 1)
        a[ln + L_USED] += need
    for t in range(TENANTS):
        a[ln + L_RATE + t] = a[H_PLAN + P_RATES + t * DEPTHS + depth]
    left = budget - n * (depth + 1)
    new = 0
    units = 0
    longest = 0
    chunks = 0
    ends = 0
    s = a[ln + L_PREFILLS]
    tile = tb[t0 + TB_PF_TILE]
    off = tb[t0 + TB_PF_OFF]
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
    while preempted == 0 and left > 0 and a[ln + L_RUNNING] < cap:
        s = head_of_line(a, ln)
        if s == 0:
            break
        free = a[ln + L_POOL] - a[ln + L_USED]
        t = a[s + S_TENANT]
        if a[s + S_STORED] != 0:
            clock = a[ln + L_CLOCK + t]
            if a[ln + L_COUNT + t] == 0:
                clock = 0
            gain = (clock + a[ln + L_RATE + t] >> 8) - (clock >> 8)
            blocks = blocks_for(a[s + S_PROMPT] + a[s + S_PRODUCED] - 1 + gain)
            if depth + 1 > left or blocks > free:
                break
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
            if a[s + S_FIRST] >= 0:
                list_remove(a, ln + L_RESUMED + a[s + S_CLASS] * LIST, BY_LINE, s)
            else:
                list_remove(a, ln + L_FRESH + a[s + S_CLASS] * LIST, BY_LINE, s)
            list_append(a, ln + L_PREFILLS, BY_BATCH, s)
            if a[s + S_SCHEDULED] < 0:
                a[s + S_SCHEDULED] = now
        a[ln + L_USED] += blocks
        list_append(a, ln + L_ACTIVE + a[s + S_CLASS] * LIST, BY_LINE, s)
        a[ln + L_RUNNING] += 1
    n = a[ln + L_DECODING]
    if chunks == 0 and joined == 0:
        if n == 0:
            return 0
        if preempted == 0:
            return leap(a, tb, rec, ln, t0, depth, now, te, deadline)
    x = context_sum(a, ln)
    a[ln + L_START] = now
    a[ln + L_UNTIL] = now + iteration_ps(a, tb, t0, n, depth, x, new, units, longest, chunks, ends)
    a[ln + L_DEPTH] = depth
    return 0


def advance(a: Row, tb: Row, rec: Row, ln: int, te: int) -> None:
    """Run one replica up to the next event outside it, at `te`."""
    while True:
        if a[ln + L_UNTIL] >= 0:
            if a[ln + L_UNTIL] > te:
                return
            complete(a, rec, ln)
        if a[ln + L_LOAD] == 0:
            return
        now = max(a[ln + L_NOW], a[ln + L_READY])
        if now >= te:
            return
        if start(a, tb, rec, ln, now, te) == 0 and a[ln + L_UNTIL] < 0:
            return


# ---------------------------------------------------------------------------- the fleet


def give_work(a: Row, ln: int, q: int, s: int, now: int) -> None:
    """Put slot `s` at the end of a replica's waiting line at time `now`."""
    a[H_SEQ] += 1
    a[s + S_SEQ] = a[H_SEQ]
    list_append(a, ln + q + a[s + S_CLASS] * LIST, BY_LINE, s)
    a[ln + L_LOAD] += 1
    if a[ln + L_UNTIL] < 0:
        a[ln + L_NOW] = max(a[ln + L_NOW], now)


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
        else:
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
        give_work(a, least_loaded(a, DECODE), L_RESUMED, s, ready)


def arrive(a: Row, tr: Row, rec: Row, i: int, now: int) -> None:
    """Take in request `i` at time `now`."""
    packed = tr[a[H_TRAFFIC] + i * TRAFFIC_WIDTH + 1]
    prompt = packed & TOKEN_MASK
    output = packed >> TOKEN_BITS & TOKEN_MASK
    c = packed >> CLASS_SHIFT & 1
    t = packed >> TENANT_SHIFT
    a[W_ARRIVALS] += 1
    a[H_TOTAL_ARRIVED] += 1
    if c == 0:
        a[W_ARRIVALS_PRIORITY] += 1
    a[W_PROMPT_TOKENS] += prompt
    a[W_OFFERED_TOKENS] += output
    a[W_OFFERED_TENANT + t] += output
    for r in range(a[H_REPLICAS]):
        purge(a, rec, LANES + r * LANE_SIZE, now)
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
    a[s + S_HEAP] = -1
    a[s + S_FIRST] = -1
    a[s + S_LAST] = -1
    a[s + S_COMPUTED] = 0
    a[s + S_TARGET] = 0
    a[s + S_CHUNK] = 0
    a[s + S_STORED] = 0
    a[s + S_SCHEDULED] = -1
    a[s + S_PREEMPTIONS] = 0
    give_work(a, least_loaded(a, PREFILL), L_FRESH, s, now)


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
        purge(a, rec, ln, now)
        for c in range(2):
            resumed = gather(a, ln + L_RESUMED + c * LIST, resumed)
        resumed = gather(a, ln + L_HANDOVERS, resumed)
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
        kind = L_RESUMED if i < resumed else L_FRESH
        give_work(a, least_loaded(a, PREFILL), kind, a[i] & SLOT_MASK, now)


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
    a[W_TTFT_P50] = percentile(a, HIST_TTFT, 50)
    a[W_TTFT_P99] = percentile(a, HIST_TTFT, 99)
    a[W_ITL_P50] = percentile(a, HIST_ITL, 50)
    a[W_ITL_P99] = percentile(a, HIST_ITL, 99)


def run_window(a: Row, tb: Row, tr: Row, rec: Row, plan: Row, at: int) -> None:
    """Run one window under the plan at `plan[at:]`."""
    clear_stats(a)
    begin(a, rec, plan, at)
    end = a[H_PLAN + P_END]
    i = a[H_NEXT]
    count = a[H_ARRIVALS]
    arrivals = a[H_TRAFFIC]
    while i < count:
        when = tr[arrivals + i * TRAFFIC_WIDTH]
        if when >= end:
            break
        advance_fleet(a, tb, rec, when, when)
        arrive(a, tr, rec, i, when)
        i += 1
    a[H_NEXT] = i
    advance_fleet(a, tb, rec, end, end - 1)
    a[H_NOW] = end
    close_window(a, rec)
