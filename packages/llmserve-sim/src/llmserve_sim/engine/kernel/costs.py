"""The time of an iteration, from the integer tables, and how many iterations of a leap fit into a span of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.kernel.layout import (
    PIECE_SIZE,
    TB_MIX_AMP,
    TB_MIX_CTX,
    TB_MIX_SEQ,
    TB_PF_COEF,
    TB_PF_CRIT,
    TB_PF_OFF,
    TB_PF_T0,
    TB_PF_TILE,
)

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def decode_piece(tb: Row, n: int, x: int, piece: int) -> int:
    """Return the piece of the decode table for n sequences with context sum x; the search starts at `piece`."""
    while n * tb[piece] > x:
        piece -= PIECE_SIZE
    while n * tb[piece + PIECE_SIZE] <= x:
        piece += PIECE_SIZE
    return piece


def prefill_units(tb: Row, t0: int, new: int, before: int) -> int:
    """Return the attention work of a chunk of `new` tokens after `before` computed ones."""
    tile = tb[t0 + TB_PF_TILE]
    return (new + tile - 1) // tile * (2 * before + new + tb[t0 + TB_PF_OFF])


def mixed_ps(tb: Row, t0: int, units: int, longest: int, n: int, x: int, alone: int) -> int:
    """Return the attention time (ps) of an iteration with prefill chunks and n decoding sequences with context sum x.

    The chunks are `units` of work and the longest sequence among them has `longest` tokens. `alone` is the time (ps)
    that the decoding sequences would take without them.
    """
    work = tb[t0 + TB_PF_COEF] * units >> 10
    critical = tb[t0 + TB_PF_CRIT] * longest >> 10
    time = tb[t0 + TB_PF_T0] + (max(critical, work))
    if n > 0:
        mixed = n * tb[t0 + TB_MIX_SEQ] + (tb[t0 + TB_MIX_CTX] * x >> 10)
        floor = tb[t0 + TB_MIX_AMP] * x >> 10
        mixed = max(mixed, floor)
        time += max(alone, mixed)
    return time


def steps_within(first: int, rise: int, budget: int, most: int) -> int:
    """Return how many of the durations first, first + rise, first + 2·rise, … fit into `budget`, at most `most`."""
    if first > budget:
        return 0
    high = min(most, budget // first)
    if high * first + rise * (high * (high - 1) >> 1) <= budget:
        return high
    low = 1
    while high - low > 1:
        mid = (low + high) >> 1
        if mid * first + rise * (mid * (mid - 1) >> 1) <= budget:
            low = mid
        else:
            high = mid
    return low
