"""A request on one replica: it joins and leaves the decoding batch, is preempted, finishes or is abandoned.

The kernel counts KV blocks, it has no block ids: `R_BLOCKS` and the block phases of the groups give the blocks held.
`join_decode` allocates the blocks of a decoding sequence. `leave_decode` and `preempt` free blocks, and so does
`iterations.end_prefill` when it hands a request over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import BLOCK_TOKENS, FP
from llmserve_sim.engine.kernel.layout import (
    ABANDONED,
    ENDS,
    FINISHED,
    G_CLOCK,
    G_COUNT,
    G_HEAP,
    G_PHASE,
    G_RATE,
    GROUP_SIZE,
    H_FREE,
    H_PATIENCE,
    H_RECORDING,
    H_RECORDS,
    H_TPOT,
    H_TTFT,
    H_TTFT_TOKEN,
    H_UNFINISHED,
    NEVER,
    PLAN_PRIORITY,
    R_ACTIVE,
    R_BLOCKS,
    R_CACHED,
    R_CONTEXT,
    R_DECODING,
    R_FRESH,
    R_GIVE_UP,
    R_GROUPS,
    R_GROUPS_END,
    R_GROWTH,
    R_INDEX,
    R_JOINERS,
    R_LAST_END,
    R_POOL,
    R_PREFILLS,
    R_RESUMED,
    R_RUNNING,
    R_UNTIL,
    R_WAITING,
    REC_FIRST,
    REC_ID,
    REC_LAST,
    REC_PREEMPTIONS,
    REC_REPLICA,
    REC_SCHEDULED,
    REC_STATUS,
    RECORD_SIZE,
    S_ARRIVAL,
    S_BASE,
    S_CHAIN,
    S_CLASS,
    S_COMPUTED,
    S_FIRST,
    S_ID,
    S_LAST,
    S_NEXT,
    S_OUTPUT,
    S_PREEMPTIONS,
    S_PRODUCED,
    S_PROMPT,
    S_SCHEDULED,
    S_SEQ,
    S_STORED,
    S_TARGET,
    S_TENANT,
    SLOT_BITS,
    SLOT_MASK,
    W_ABANDONED,
    W_DELIVERED_TOKENS,
    W_DUE,
    W_GOOD_TOKENS,
    W_MET,
)
from llmserve_sim.engine.kernel.linked import heap_remove, heap_rise, queue_drop, queue_pop, queue_push_front, ring_drop

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def blocks_of(tokens: int) -> int:
    """Return the number of KV blocks that `tokens` tokens need."""
    return (tokens + 15) >> 4


def num_used_blocks(a: Row, r: int, steps: int) -> int:
    """Return the KV blocks that a replica's running requests hold after `steps` more iterations.

    The iterations run at the rates of the leap in flight. A sequence holds (f + clock) >> 4 blocks, f being constant.
    That is (f >> 4) + (clock >> 4), and one more where the last four bits of f and clock add up to 16 or more. The
    phases count the sequences by the last four bits of f.
    """
    used = a[r + R_BLOCKS]
    for g in range(a[r + R_GROUPS], a[r + R_GROUPS_END], GROUP_SIZE):
        count = a[g + G_COUNT]
        if count > 0:
            clock = (a[g + G_CLOCK] + steps * a[g + G_RATE]) >> 8
            phases = a[g + G_PHASE] + BLOCK_TOKENS
            used += count * (clock >> 4) + sum(a[phases - (clock & 15) : phases])
    return used


def record(
    a: Row, rec: Row, request: int, status: int, scheduled: int, first: int, end: int, preemptions: int, replica: int
) -> None:
    """Append a request's history to the records."""
    at = a[H_RECORDS] * RECORD_SIZE
    a[H_RECORDS] += 1
    rec[at + REC_ID] = request
    rec[at + REC_STATUS] = status
    rec[at + REC_SCHEDULED] = scheduled
    rec[at + REC_FIRST] = first
    rec[at + REC_LAST] = end
    rec[at + REC_PREEMPTIONS] = preemptions
    rec[at + REC_REPLICA] = replica


def record_slot(a: Row, rec: Row, s: int, status: int, end: int, replica: int) -> None:
    """Append the history of the request in slot `s` to the records."""
    record(a, rec, a[s + S_ID], status, a[s + S_SCHEDULED], a[s + S_FIRST], end, a[s + S_PREEMPTIONS], replica)


def free_slot(a: Row, s: int) -> None:
    """Return slot `s` to the list of free slots."""
    a[s + S_NEXT] = a[H_FREE]
    a[H_FREE] = s
    a[H_UNFINISHED] -= 1


def abandon(a: Row, rec: Row, r: int, s: int) -> None:
    """Count slot `s`, already out of its queue, as abandoned: it waited too long for a first token."""
    a[W_ABANDONED] += 1
    a[W_DUE + a[s + S_CLASS]] += 1
    if a[H_RECORDING] != 0:
        record_slot(a, rec, s, ABANDONED, a[s + S_ARRIVAL] + a[H_PATIENCE], a[r + R_INDEX])
    free_slot(a, s)


def abandon_expired(a: Row, rec: Row, r: int, now: int) -> None:
    """Abandon the requests of a replica whose patience has run out by `now` before their first token."""
    patience = a[H_PATIENCE]
    if patience == 0:
        return
    give_up = NEVER
    for c in range(2):
        q = r + R_FRESH + c * ENDS
        while a[q] != 0 and a[a[q] + S_ARRIVAL] + patience <= now:
            a[r + R_WAITING + c] -= 1
            abandon(a, rec, r, queue_pop(a, q, S_NEXT))
        if a[q] != 0:
            give_up = min(give_up, a[a[q] + S_ARRIVAL] + patience)
    a[r + R_GIVE_UP] = give_up


def join_decode(a: Row, r: int, s: int) -> None:
    """Add slot `s` to its tenant's decoding group and allocate its KV blocks; it decodes from the next iteration on.

    The tokens that a group delivers between joins and leaves are the rise of count times clock (in whole tokens). So
    `W_DELIVERED_TOKENS` is corrected here and in `leave_decode`, and not in every iteration.
    """
    g = a[r + R_GROUPS] + a[s + S_TENANT] * GROUP_SIZE
    size = a[g + G_COUNT] + 1
    a[g + G_COUNT] = size
    if size == 1:
        a[g + G_CLOCK] = 0
    clock = a[g + G_CLOCK]
    whole = clock >> 8
    a[W_DELIVERED_TOKENS] -= whole
    prompt = a[s + S_PROMPT]
    base = prompt + a[s + S_PRODUCED] - whole
    a[s + S_BASE] = base
    a[r + R_DECODING] += 1
    a[r + R_CONTEXT] += FP * base + clock
    a[r + R_GROWTH] += a[g + G_RATE]
    # the blocks of base - 1 tokens, since the newest token has no KV yet; the phase is the rest of the division
    a[r + R_BLOCKS] += base + 14 >> 4
    a[a[g + G_PHASE] + (base + 14 & 15)] += 1
    heap_rise(a, a[g + G_HEAP], size, a[s + S_OUTPUT] + prompt - base << SLOT_BITS | s)


def leave_decode(a: Row, r: int, g: int, s: int, place: int) -> int:
    """Remove slot `s` from its group, free its KV blocks and return its context. `place` is its index in the heap."""
    base = a[s + S_BASE]
    clock = a[g + G_CLOCK]
    whole = clock >> 8
    a[W_DELIVERED_TOKENS] += whole
    heap_remove(a, a[g + G_HEAP], a[g + G_COUNT], place)
    a[g + G_COUNT] -= 1
    a[r + R_DECODING] -= 1
    a[r + R_CONTEXT] -= FP * base + clock
    a[r + R_GROWTH] -= a[g + G_RATE]
    a[r + R_BLOCKS] -= base + 14 >> 4
    a[a[g + G_PHASE] + (base + 14 & 15)] -= 1
    return base + whole


def finish(a: Row, rec: Row, r: int, s: int, now: int) -> None:
    """Count slot `s`, which has delivered its last token, as finished; its blocks are freed already."""
    ring_drop(a, s)
    a[r + R_RUNNING] -= 1
    c = a[s + S_CLASS]
    a[W_DUE + c] += 1
    first = a[s + S_FIRST]
    if first - a[s + S_ARRIVAL] <= a[H_TTFT + c] + a[s + S_PROMPT] * a[H_TTFT_TOKEN]:
        output = a[s + S_OUTPUT]
        if output == 1 or (now - first) // (output - 1) <= a[H_TPOT + c]:
            a[W_MET + c] += 1
            a[W_GOOD_TOKENS + a[s + S_TENANT]] += output
    if a[H_RECORDING] != 0:
        record_slot(a, rec, s, FINISHED, now, a[r + R_INDEX])
    free_slot(a, s)


def finish_due(a: Row, rec: Row, r: int, g: int, now: int) -> None:
    """Finish the sequences of a group whose finish clock has been reached; their freed blocks stay cached."""
    clock = a[g + G_CLOCK] >> 8
    top = a[g + G_HEAP] + 1
    entry = a[top]
    while entry >> SLOT_BITS <= clock:
        s = entry & SLOT_MASK
        a[W_DELIVERED_TOKENS] -= clock - (entry >> SLOT_BITS)
        a[r + R_CACHED] += leave_decode(a, r, g, s, 1) + 14 >> 4  # its last token has no KV
        finish(a, rec, r, s, now)
        entry = a[top]


def preempt(a: Row, r: int, s: int) -> None:
    """Preempt running slot `s`: free its KV blocks and put it at the front of its waiting queue, to be recomputed."""
    # the blocks freed here hold no reusable prefix, so the cached blocks are first cut to those that are free now
    a[r + R_CACHED] = min(a[r + R_CACHED], num_free_blocks(a, r))
    ring_drop(a, s)
    a[r + R_RUNNING] -= 1
    if a[s + S_TARGET] > 0:
        a[r + R_BLOCKS] -= blocks_of(a[s + S_TARGET])
        queue_drop(a, r + R_PREFILLS, S_CHAIN, s)
        a[s + S_TARGET] = 0
    else:
        if a[s + S_STORED] != 0:  # it joined in the iteration in flight and has delivered nothing here yet
            queue_drop(a, r + R_JOINERS, S_CHAIN, s)
            a[s + S_STORED] = 0
        else:
            a[s + S_LAST] = a[r + R_LAST_END]
        g = a[r + R_GROUPS] + a[s + S_TENANT] * GROUP_SIZE
        place = 1  # a search through the heap: preemptions are rare
        while a[a[g + G_HEAP] + place] & SLOT_MASK != s:
            place += 1
        a[s + S_PRODUCED] = leave_decode(a, r, g, s, place) - a[s + S_PROMPT]
    a[s + S_COMPUTED] = 0
    a[s + S_PREEMPTIONS] += 1
    c = a[s + S_CLASS]
    a[r + R_WAITING + c] += 1
    if a[s + S_FIRST] >= 0:
        queue_push_front(a, r + R_RESUMED + c * ENDS, S_NEXT, s)
    else:
        queue_push_front(a, r + R_FRESH + c * ENDS, S_NEXT, s)
        if a[H_PATIENCE] > 0:
            a[r + R_GIVE_UP] = min(a[r + R_GIVE_UP], a[s + S_ARRIVAL] + a[H_PATIENCE])


def num_free_blocks(a: Row, r: int) -> int:
    """Return the blocks that no request holds at the end of the iteration in flight; 0 if the pool is too small."""
    return max(0, a[r + R_POOL] - num_used_blocks(a, r, 0 if a[r + R_UNTIL] < 0 else 1))


def victim(a: Row, r: int) -> int:
    """Return the running slot to preempt next: the newest; with priority routing, standard ones first."""
    priority = a[r + R_ACTIVE + 1]
    standard = a[r + R_ACTIVE + ENDS + 1]
    if standard == r + R_ACTIVE + ENDS:
        return priority
    if priority == r + R_ACTIVE or a[PLAN_PRIORITY] != 0 or a[standard + S_SEQ] > a[priority + S_SEQ]:
        return standard
    return priority


def next_queue(a: Row, r: int) -> int:
    """Return the waiting queue whose head is admitted next; at least one queue must not be empty."""
    r0 = r + R_RESUMED
    r1 = r0 + ENDS
    f0 = r + R_FRESH
    f1 = f0 + ENDS
    if a[PLAN_PRIORITY] != 0:
        if a[r0] != 0:
            return r0
        if a[f0] != 0:
            return f0
        return f1 if a[r1] == 0 else r1
    if a[r0] == 0 and a[r1] == 0:
        r0 = f0
        r1 = f1
    if a[r1] == 0 or (a[r0] != 0 and a[a[r0] + S_SEQ] < a[a[r1] + S_SEQ]):
        return r0
    return r1
