"""Queues and rings linked through the slots of a row, and heaps of finish clocks. They know nothing of what they order.

A queue is its first and its last slot; the last of an empty queue is the queue itself, as far as its link goes. A ring
is a slot's two links: with itself in the circle, no slot in it ever lacks a neighbour.
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
    """Take out the first slot of queue `q`, which is not empty."""
    s = a[q]
    following = a[s + link]
    a[q] = following
    if following == 0:
        a[q + 1] = q - link
    return s


def queue_drop(a: Row, q: int, link: int, s: int) -> None:
    """Take slot `s` out of queue `q`, wherever it stands in it."""
    before = q - link
    while a[before + link] != s:
        before = a[before + link]
    a[before + link] = a[s + link]
    if a[q + 1] == s:
        a[q + 1] = before


def ring_push(a: Row, ring: int, s: int) -> None:
    """Put slot `s` last into a ring."""
    last = a[ring + 1]
    a[s] = ring
    a[s + 1] = last
    a[last] = s
    a[ring + 1] = s


def ring_drop(a: Row, s: int) -> None:
    """Take slot `s` out of its ring."""
    following = a[s]
    before = a[s + 1]
    a[before] = following
    a[following + 1] = before


def heap_rise(a: Row, hp: int, i: int, entry: int) -> None:
    """Put `entry` at place `i` of the heap at `hp`, or nearer to the top, so that order holds."""
    while i > 1:
        above = a[hp + (i >> 1)]
        if above <= entry:
            break
        a[hp + i] = above
        i >>= 1
    a[hp + i] = entry


def heap_sink(a: Row, hp: int, size: int, i: int, entry: int) -> None:
    """Put `entry` at place `i` of the heap at `hp`, or farther from the top, so that order holds."""
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
    """Take the entry at place `i` out of the heap at `hp`."""
    last = a[hp + size]
    a[hp + size] = NEVER
    if i == size:
        return
    if i > 1 and last < a[hp + (i >> 1)]:
        heap_rise(a, hp, i, last)
    else:
        heap_sink(a, hp, size - 1, i, last)
