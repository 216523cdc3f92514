"""Linked lists through the slots of a row, and heaps of finish clocks. They know nothing of what they order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.layout import S_HEAP, SLOT_BITS, SLOT_MASK

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


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
