"""Linked queues and rings of slots, and heaps of finish clocks, all inside a row.

A queue `q` is a pair of entries: its first slot (0 if empty) and its last slot. `link` is the field of a slot that
names the next one. The last slot of an empty queue is `q - link`, so that writing to its link sets the first slot. A
ring is circular and includes its own pair of entries as S_NEXT and S_PREV, so every slot in it has two neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.kernel.layout import NEVER

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def queue_clear(a: Row, q: int, link: int) -> None:
    """Empty queue `q`."""
    a[q] = 0
    a[q + 1] = q - link


def queue_push(a: Row, q: int, link: int, s: int) -> None:
    """Put slot `s` at the end of queue `q`."""
    a[s + link] = 0
    a[a[q + 1] + link] = s
    a[q + 1] = s


def queue_push_front(a: Row, q: int, link: int, s: int) -> None:
    """Put slot `s` at the front of queue `q`."""
    if a[q] == 0:
        a[q + 1] = s
    a[s + link] = a[q]
    a[q] = s


def queue_pop(a: Row, q: int, link: int) -> int:
    """Remove and return the first slot of queue `q`, which is not empty."""
    s = a[q]
    following = a[s + link]
    a[q] = following
    if following == 0:
        a[q + 1] = q - link
    return s


def queue_drop(a: Row, q: int, link: int, s: int) -> None:
    """Remove slot `s` from queue `q`, at any position."""
    before = q - link
    while a[before + link] != s:
        before = a[before + link]
    a[before + link] = a[s + link]
    if a[q + 1] == s:
        a[q + 1] = before


def ring_push(a: Row, ring: int, s: int) -> None:
    """Put slot `s` at the end of a ring."""
    last = a[ring + 1]
    a[s] = ring
    a[s + 1] = last
    a[last] = s
    a[ring + 1] = s


def ring_drop(a: Row, s: int) -> None:
    """Remove slot `s` from its ring."""
    following = a[s]
    before = a[s + 1]
    a[before] = following
    a[following + 1] = before


def heap_rise(a: Row, hp: int, i: int, entry: int) -> None:
    """Sift `entry` up from index `i` of the heap at `hp`."""
    while i > 1:
        above = a[hp + (i >> 1)]
        if above <= entry:
            break
        a[hp + i] = above
        i >>= 1
    a[hp + i] = entry


def heap_sink(a: Row, hp: int, size: int, i: int, entry: int) -> None:
    """Sift `entry` down from index `i` of the heap at `hp`, which has `size` entries."""
    child = i + i
    while child <= size:
        below = a[hp + child]
        other = a[hp + child + 1]
        if other < below:
            below = other
            child += 1
        if entry <= below:
            break
        a[hp + i] = below
        i = child
        child += child
    a[hp + i] = entry


def heap_remove(a: Row, hp: int, size: int, i: int) -> None:
    """Remove the entry at index `i` of the heap at `hp`."""
    last = a[hp + size]
    a[hp + size] = NEVER
    if i == size:
        return
    if i > 1 and last < a[hp + (i >> 1)]:
        heap_rise(a, hp, i, last)
    else:
        heap_sink(a, hp, size - 1, i, last)
