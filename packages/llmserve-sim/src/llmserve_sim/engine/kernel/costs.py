"""Time of an iteration, read from the integer tables, and how many of a leap's iterations fit into a span."""

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
    """The piece of the decode-attention table that holds n sequences with context sum x; the search starts at `piece`."""
    while n * tb[piece] > x:
        piece -= PIECE_SIZE
    while n * tb[piece + PIECE_SIZE] <= x:
        piece += PIECE_SIZE
    return piece


def prefill_units(tb: Row, t0: int, new: int, before: int) -> int:
    """Attention work of a chunk of `new` tokens after `before` computed ones."""
    tile = tb[t0 + TB_PF_TILE]
    return (new + tile - 1) // tile * (2 * before + new + tb[t0 + TB_PF_OFF])


def mixed_ps(tb: Row, t0: int, units: int, longest: int, n: int, x: int, alone: int) -> int:
    """Attention of prefill chunks and of the n decoding sequences, with context sum x, that share their iteration.

    The chunks are `units` of work, the longest sequence among them has `longest` tokens; without them the decoding
    sequences would take `alone`.
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
    """How many of at most `most` durations first, first + rise, first + 2·rise, … fit into `budget` together."""
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
