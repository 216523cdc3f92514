"""vLLM's block pool, `engine.reference.blocks.HashedBlocks`, over stretches of blocks instead of single ones.

A *run* is a stretch of consecutive blocks of one request that the same requests hold. Blocks are found, shared, freed
and evicted in stretches, so a prefix costs what its runs cost, whatever its length and the size of the pool. The free
runs form a ring, the next one to be taken first; of a run the last block is taken first. A run is found by the identity
of its first block, in a table of buckets. What its other blocks are follows from the traffic.

Two properties of vLLM's pool make runs possible:

- Blocks are freed from the last to the first, so a block never leaves the pool before those behind it. Hence if the
  block at an index is not there, none behind it is.
- Equal hashes mean equal beginnings. Hence the common part of a run and a prompt is found by bisection.

And one rule keeps them exact: a block that several requests have computed is a run of its own in each copy. The copies
are in their bucket in the order in which they got their hash, because vLLM shares the oldest. So a block that a request
looks for is always the first of its run: it is if there are several, and if there is one, the run it lies in was split
where the request's way parts from it.

A request holds runs found at its admission, runs it has computed itself, and blocks without a hash (not full yet, or
slots for speculation), which are counted by the caller. Those found are not listed: the oldest copy stays the oldest
while it is held, so they are looked up again when they are freed.

Arguments: `e` the offset of a pool, `t` the offset of a request's block table, `b` the offset of a run; the others as in
the package's docstring. `tr` holds the block hashes as `Prefixes.packed` returns them.
"""
# ruff: noqa: PLR1730 - plain Python compares faster than it calls min() and max()

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.kernel.layout import (
    B_BEFORE,
    B_INDEX,
    B_KEY,
    B_NEXT,
    B_PREV,
    B_REQUEST,
    B_SAME,
    B_SIZE,
    B_STACK,
    B_USERS,
    BLANK,
    E_BUCKETS,
    E_CACHED,
    E_FREE,
    E_MADE,
    E_MASK,
    E_POOL,
    E_QUEUE,
    E_RECYCLED,
    E_UNHASHED_FIRST,
    E_USED,
    ENDS,
    POOL_HEADER,
    RUN_SIZE,
    T_HITS,
    T_NAMED,
    T_OWN,
    T_REQUEST,
)
from llmserve_sim.engine.kernel.linked import ring_drop, ring_push
from llmserve_sim.engine.prefixes import OWN_SHIFT

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


# -- identities ------------------------------------------------------------------------------------------------------


def identity(tr: Row, request: int, index: int) -> int:
    """Return the identity of the block at `index` of a request: its hash, or a number of its own."""
    at = 2 * request
    if index < tr[at + 1]:
        return tr[tr[at] + index]
    return -1 - (request << OWN_SHIFT | index)


def common_blocks(tr: Row, request: int, other: int, index: int, most: int) -> int:
    """Return how many of the `most` blocks from `index` on two requests have in common; the first one they have."""
    if request == other or identity(tr, request, index + most - 1) == identity(tr, other, index + most - 1):
        return most
    low = 1
    while most - low > 1:
        middle = (low + most) >> 1
        if identity(tr, request, index + middle - 1) == identity(tr, other, index + middle - 1):
            low = middle
        else:
            most = middle
    return low


# -- runs ------------------------------------------------------------------------------------------------------------


def bucket(a: Row, e: int, key: int) -> int:
    """Return the ring of runs in which those of a first identity are, the oldest first."""
    mixed = ((key ^ key >> 31) & 0x7FFFFFFF) * 0x9E3779B1  # Knuth's multiplicative hash; below 2^63
    return a[e + E_BUCKETS] + ((mixed >> 13 ^ mixed >> 37) & a[e + E_MASK]) * ENDS


def oldest(a: Row, e: int, key: int) -> int:
    """Return the oldest run that begins with an identity; 0 if there is none."""
    ring = bucket(a, e, key)
    link = a[ring]
    while link != ring:
        if a[link - B_SAME + B_KEY] == key:
            return link - B_SAME
        link = a[link]
    return 0


def is_copied(a: Row, e: int, b: int) -> bool:
    """Return whether other runs begin with the block that run `b` begins with."""
    key = a[b + B_KEY]
    ring = bucket(a, e, key)
    link = a[ring]
    while link != ring:
        if a[link - B_SAME + B_KEY] == key and link != b + B_SAME:
            return True
        link = a[link]
    return False


def new_run(a: Row, e: int, request: int, index: int, size: int, key: int) -> int:
    """Return a run of `size` blocks, the first of which is at `index` of `request`; nobody holds it."""
    b = a[e + E_RECYCLED]
    if b != 0:
        a[e + E_RECYCLED] = a[b]
    else:
        b = a[e + E_MADE]
        a[e + E_MADE] = b + RUN_SIZE
    a[b + B_REQUEST] = request
    a[b + B_INDEX] = index
    a[b + B_SIZE] = size
    a[b + B_KEY] = key
    a[b + B_USERS] = 0
    return b


def recycle(a: Row, e: int, b: int) -> None:
    """Give back a run that is in no ring."""
    a[b] = a[e + E_RECYCLED]
    a[e + E_RECYCLED] = b


def split(a: Row, tr: Row, e: int, b: int, size: int) -> int:
    """Cut the first `size` blocks off run `b` and return them as a run that the same requests hold."""
    front = new_run(a, e, a[b + B_REQUEST], a[b + B_INDEX], size, a[b + B_KEY])
    a[front + B_USERS] = a[b + B_USERS]
    link = b + B_SAME
    ring_push(a, link, front + B_SAME)  # it takes the run's place among the copies
    ring_drop(a, link)
    a[b + B_INDEX] += size
    a[b + B_SIZE] -= size
    a[b + B_KEY] = identity(tr, a[b + B_REQUEST], a[b + B_INDEX])
    ring_push(a, bucket(a, e, a[b + B_KEY]), link)  # the only copy, since it was not the first of its run
    if a[b + B_USERS] == 0:
        ring_push(a, a[b + B_NEXT], front)  # behind the rest, which is taken earlier
    else:
        a[front + B_BEFORE] = a[b + B_BEFORE]
        a[b + B_BEFORE] = front
    return front


# -- free blocks -----------------------------------------------------------------------------------------------------


def add_blank(a: Row, e: int, blocks: int, at: int) -> None:
    """Add blocks without a hash to the free ones, before run `at` (E_QUEUE: at the end)."""
    if blocks <= 0:
        return
    a[e + E_FREE] += blocks
    for near in (at, a[at + B_PREV]):
        if near != e + E_QUEUE and a[near + B_KEY] == BLANK:
            a[near + B_SIZE] += blocks
            return
    ring_push(a, at, new_run(a, e, 0, 0, blocks, BLANK))


def drop_free(a: Row, e: int, blocks: int) -> None:
    """Remove the first `blocks` free blocks with what they hold; there must be as many."""
    a[e + E_FREE] -= blocks
    while blocks > 0:
        b = a[e + E_QUEUE]
        size = a[b + B_SIZE]
        gone = min(size, blocks)
        blocks -= gone
        blank = a[b + B_KEY] == BLANK
        if not blank:
            a[e + E_CACHED] -= gone
        if gone < size:
            a[b + B_SIZE] = size - gone
        else:
            ring_drop(a, b)
            if not blank:
                ring_drop(a, b + B_SAME)
            recycle(a, e, b)


def fit_pool(a: Row, e: int) -> None:
    """Give up free blocks until the pool has its size or none is free."""
    over = a[e + E_USED] + a[e + E_FREE] - a[e + E_POOL]
    if over > 0:
        drop_free(a, e, min(over, a[e + E_FREE]))


# -- the pool --------------------------------------------------------------------------------------------------------


def clear_pool(a: Row, e: int, buckets: int, unhashed_first: int) -> None:
    """Make an empty pool without blocks; `buckets` is `layout.pool_buckets` of the most it will have."""
    a[e + E_QUEUE] = e + E_QUEUE
    a[e + E_QUEUE + 1] = e + E_QUEUE
    a[e + E_POOL] = 0
    a[e + E_FREE] = 0
    a[e + E_USED] = 0
    a[e + E_CACHED] = 0
    a[e + E_UNHASHED_FIRST] = unhashed_first
    a[e + E_RECYCLED] = 0
    a[e + E_BUCKETS] = e + POOL_HEADER
    a[e + E_MASK] = buckets - 1
    ring = e + POOL_HEADER
    for _ in range(buckets):
        a[ring] = ring
        a[ring + 1] = ring
        ring += ENDS
    a[e + E_MADE] = ring


def resize_pool(a: Row, e: int, blocks: int) -> None:
    """Set the size of a pool. It may leave fewer blocks than requests hold: the caller preempts until they fit."""
    add_blank(a, e, blocks - a[e + E_USED] - a[e + E_FREE], e + E_QUEUE)
    a[e + E_POOL] = blocks
    fit_pool(a, e)


def find_prefix(a: Row, tr: Row, e: int, request: int, most: int) -> tuple[int, int, int]:
    """Look up how many of the first `most` blocks of a request are there.

    Returns the blocks found, how many of them are free, and 1 if the last one is, else 0.
    """
    found = 0
    free = 0
    last = 0
    while found < most:
        b = oldest(a, e, identity(tr, request, found))
        if b == 0:
            break
        size = a[b + B_SIZE]
        if size > most - found:
            size = most - found
        size = common_blocks(tr, request, a[b + B_REQUEST], found, size)
        found += size
        last = 0
        if a[b + B_USERS] == 0:
            free += size
            last = 1
    return found, free, last


def share_prefix(a: Row, tr: Row, e: int, t: int, blocks: int) -> None:
    """Let the request of table `t`, which holds nothing, begin with its first `blocks` blocks, which were found."""
    request = a[t + T_REQUEST]
    at = 0
    while at < blocks:
        b = oldest(a, e, identity(tr, request, at))
        size = a[b + B_SIZE]
        if size > blocks - at:
            size = blocks - at
        size = common_blocks(tr, request, a[b + B_REQUEST], at, size)
        if size < a[b + B_SIZE]:
            b = split(a, tr, e, b, size)
        if a[b + B_USERS] == 0:
            ring_drop(a, b)
            a[e + E_FREE] -= size
            a[e + E_CACHED] -= size
            a[e + E_USED] += size
        a[b + B_USERS] += 1
        at += size
    a[t + T_HITS] = blocks
    a[t + T_NAMED] = blocks
    a[t + T_OWN] = 0


def take_blocks(a: Row, e: int, blocks: int) -> None:
    """Take free blocks, for one request or for all that grow in a leap; there must be as many."""
    drop_free(a, e, blocks)
    a[e + E_USED] += blocks


def name_blocks(a: Row, tr: Row, e: int, t: int, blocks: int) -> None:
    """Give the first `blocks` blocks of table `t` their hashes; they are full and taken."""
    request = a[t + T_REQUEST]
    index = a[t + T_NAMED]
    while index < blocks:
        key = identity(tr, request, index)
        own = a[t + T_OWN]
        other = oldest(a, e, key)
        size = 1
        if other == 0:  # then those behind it are not there either
            size = blocks - index
            if own != 0 and a[own + B_USERS] == 1 and (a[own + B_SIZE] > 1 or not is_copied(a, e, own)):
                a[own + B_SIZE] += size
                break
        elif a[other + B_SIZE] > 1:  # if there were several copies, each would be a run of its own already
            split(a, tr, e, other, 1)
        b = new_run(a, e, request, index, size, key)
        a[b + B_USERS] = 1
        a[b + B_BEFORE] = own
        a[t + T_OWN] = b
        ring_push(a, bucket(a, e, key), b + B_SAME)
        index += size
    if blocks > a[t + T_NAMED]:
        a[t + T_NAMED] = blocks


def free_run(a: Row, e: int, request: int, b: int) -> None:
    """Let `request` go of run `b`. A run that nobody holds joins the free ones, and the run freed before if it can."""
    a[b + B_USERS] -= 1
    if a[b + B_USERS] > 0:
        return
    size = a[b + B_SIZE]
    a[e + E_USED] -= size
    a[e + E_FREE] += size
    a[e + E_CACHED] += size
    behind = a[e + E_QUEUE + 1]
    if (
        behind != e + E_QUEUE
        and a[behind + B_REQUEST] == request
        and a[behind + B_INDEX] == a[b + B_INDEX] + size
        and a[behind + B_KEY] != BLANK
        and (size > 1 or not is_copied(a, e, b))
        and (a[behind + B_SIZE] > 1 or not is_copied(a, e, behind))
    ):
        a[b + B_SIZE] += a[behind + B_SIZE]
        ring_drop(a, behind)
        ring_drop(a, behind + B_SAME)
        recycle(a, e, behind)
    a[b + B_REQUEST] = request  # its blocks as well, and the following are its own
    ring_push(a, e + E_QUEUE, b)


def free_table(a: Row, tr: Row, e: int, t: int, held: int) -> None:
    """Free the `held` blocks of table `t`, the last first; the pool keeps what is in those that have a hash."""
    request = a[t + T_REQUEST]
    blank = held - a[t + T_NAMED]
    a[e + E_USED] -= blank
    add_blank(a, e, blank, a[e + E_QUEUE] if a[e + E_UNHASHED_FIRST] != 0 else e + E_QUEUE)
    b = a[t + T_OWN]
    while b != 0:
        before = a[b + B_BEFORE]
        free_run(a, e, request, b)
        b = before
    at = 0
    stack = 0
    while at < a[t + T_HITS]:
        b = oldest(a, e, identity(tr, request, at))
        a[b + B_STACK] = stack
        stack = b
        at += a[b + B_SIZE]
    while stack != 0:
        b = stack
        stack = a[b + B_STACK]
        free_run(a, e, request, b)
    a[t + T_HITS] = 0
    a[t + T_NAMED] = 0
    a[t + T_OWN] = 0
    fit_pool(a, e)


def forget_prefixes(a: Row, e: int) -> None:
    """Empty the prefix cache; no request may hold blocks."""
    free = a[e + E_FREE]
    drop_free(a, e, free)
    add_blank(a, e, free, e + E_QUEUE)
