"""A request's way through one replica: waiting, running, preempted, finished, given up; and the blocks it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import BLOCK_TOKENS, FP
from llmserve_sim.engine.kernel.linked import heap_push, heap_remove, list_prepend, list_remove
from llmserve_sim.engine.layout import (
    ABANDONED,
    BY_BATCH,
    BY_LINE,
    FINISHED,
    H_FREE,
    H_PATIENCE,
    H_PLAN,
    H_RECORDING,
    H_RECORDS,
    H_TOTAL_ABANDONED,
    H_TOTAL_FINISHED,
    H_TPOT,
    H_TTFT,
    H_TTFT_TOKEN,
    H_UNFINISHED,
    HEAP_SIZE,
    L_ACTIVE,
    L_CACHED,
    L_CLOCK,
    L_CONTEXT,
    L_COUNT,
    L_DECODING,
    L_FRESH,
    L_GIVE_UP,
    L_GROWTH,
    L_HEAPS,
    L_INDEX,
    L_JOINED,
    L_JOINERS,
    L_LAST_END,
    L_LOAD,
    L_PHASE,
    L_POOL,
    L_PREFILLS,
    L_RATE,
    L_RESUMED,
    L_RUNNING,
    L_TAKEN,
    L_UNTIL,
    L_USED,
    LIST,
    NEVER,
    P_PRIORITY,
    R_FIRST,
    R_ID,
    R_LAST,
    R_PREEMPTIONS,
    R_REPLICA,
    R_SCHEDULED,
    R_STATUS,
    RECORD_SIZE,
    S_ARRIVAL,
    S_CLASS,
    S_COMPUTED,
    S_FIRST,
    S_ID,
    S_JOIN,
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
    W_DELIVERED,
    W_DUE,
    W_FINISHED,
    W_GOOD,
    W_MET,
)

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return (tokens + 15) >> 4


def release(a: Row, ln: int, blocks: int, keep: int) -> None:
    """Give blocks back; `keep` leaves their text in the prefix cache."""
    cached = min(a[ln + L_CACHED], max(0, a[ln + L_POOL] - a[ln + L_USED]))
    if keep != 0:
        cached += blocks
    a[ln + L_CACHED] = cached
    a[ln + L_USED] -= blocks


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
    give_up = NEVER
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
        if s != 0:
            give_up = min(give_up, a[s + S_ARRIVAL] + patience)
    a[ln + L_GIVE_UP] = give_up


def join_decode(a: Row, ln: int, s: int) -> None:
    """Let slot `s` decode from its replica's next iteration on."""
    t = a[s + S_TENANT]
    if a[ln + L_COUNT + t] == 0:
        a[ln + L_CLOCK + t] = 0
    clock = a[ln + L_CLOCK + t] >> 8
    tokens = a[s + S_PROMPT] + a[s + S_PRODUCED]
    a[s + S_JOIN] = clock
    a[ln + L_CONTEXT] += FP * (tokens - clock) + a[ln + L_CLOCK + t]
    a[ln + L_GROWTH] += a[ln + L_RATE + t]
    a[ln + L_PHASE + t * BLOCK_TOKENS + (tokens - 1 - clock & 15)] += 1
    a[ln + L_COUNT + t] += 1
    a[ln + L_DECODING] += 1
    heap_push(a, a[ln + L_HEAPS] + t * HEAP_SIZE, clock + a[s + S_OUTPUT] - a[s + S_PRODUCED], s)


def leave_decode(a: Row, ln: int, s: int) -> int:
    """Take slot `s` out of the decoding set; returns the tokens it has produced (uncapped)."""
    t = a[s + S_TENANT]
    tokens = a[s + S_PROMPT] + a[s + S_PRODUCED]
    joined = a[s + S_JOIN]
    a[ln + L_CONTEXT] -= FP * (tokens - joined) + a[ln + L_CLOCK + t]
    a[ln + L_GROWTH] -= a[ln + L_RATE + t]
    a[ln + L_PHASE + t * BLOCK_TOKENS + (tokens - 1 - joined & 15)] -= 1
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


def finish_due(a: Row, rec: Row, ln: int, t: int, hp: int, now: int) -> None:
    """Finish tenant t's sequences whose finish clock has been reached; their heap is at `hp`."""
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
        if a[ln + L_UNTIL] >= 0 and a[ln + L_TAKEN] != 0:  # the iteration in flight holds room for its tokens already
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
        if a[H_PATIENCE] > 0:
            a[ln + L_GIVE_UP] = min(a[ln + L_GIVE_UP], a[s + S_ARRIVAL] + a[H_PATIENCE])


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
