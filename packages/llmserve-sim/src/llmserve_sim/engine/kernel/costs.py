"""Time of an iteration, read from the integer tables, and how many of a leap's iterations fit into a span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.layout import (
    PIECE_EDGE,
    PIECE_SIZE,
    PIECE_SLOPE,
    PIECE_VALUE,
    TB_CPU_SEQ,
    TB_DEC_T0,
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
    TB_SPEC_SEQ,
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


def decode_ps(tb: Row, n: int, x: int, piece: int) -> int:
    """Decode attention of n sequences with context sum x (fixed-point tokens), which lies in `piece`."""
    return n * tb[piece + PIECE_VALUE] + tb[piece + PIECE_SLOPE] * (x - n * tb[piece + PIECE_EDGE])


def base_ps(tb: Row, t0: int, n: int, depth: int, tokens: int, rows: int, members: int) -> int:
    """All of an iteration but its attention, n of whose `members` decode: `tokens` go in, `rows` are sampled."""
    time = tb[tb[t0 + TB_GEMM] + tokens] + tb[tb[t0 + TB_HEAD] + rows] + tb[t0 + TB_CPU_SEQ] * members
    if depth > 0 and n > 0:
        time += depth * tb[t0 + TB_DRAFT_STEP] + n * tb[t0 + TB_SPEC_SEQ]
    return time


def pure_ps(tb: Row, t0: int, n: int, x: int, piece: int) -> int:
    """Attention of an iteration in which n sequences decode and nothing else."""
    return tb[t0 + TB_DEC_T0] + decode_ps(tb, n, x, piece)


def prefill_units(tb: Row, t0: int, new: int, before: int) -> int:
    """Attention work of a chunk of `new` tokens after `before` computed ones."""
    tile = tb[t0 + TB_PF_TILE]
    return (new + tile - 1) // tile * (2 * before + new + tb[t0 + TB_PF_OFF])


def prefill_ps(tb: Row, t0: int, units: int, longest: int) -> int:
    """Attention of an iteration's prefill chunks."""
    return tb[t0 + TB_PF_T0] + max(tb[t0 + TB_PF_COEF] * units >> 10, tb[t0 + TB_PF_CRIT] * longest >> 10)


def mixed_ps(tb: Row, t0: int, n: int, x: int, piece: int) -> int:
    """Attention of n decoding sequences that share their iteration with prefill chunks."""
    mixed = n * tb[t0 + TB_MIX_SEQ] + (tb[t0 + TB_MIX_CTX] * x >> 10)
    return max(mixed, tb[t0 + TB_MIX_AMP] * x >> 10, decode_ps(tb, n, x, piece))


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
