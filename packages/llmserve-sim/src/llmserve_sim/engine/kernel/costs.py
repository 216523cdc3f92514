"""Time of an iteration, read from the integer tables, and how many of a leap's iterations fit into a span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.layout import (
    TB_CPU_SEQ,
    TB_DEC_H,
    TB_DEC_S,
    TB_DEC_X,
    TB_DRAFT_STEP,
    TB_GEMM,
    TB_HEAD,
    TB_MIX_AMP,
    TB_MIX_CTX,
    TB_MIX_SEQ,
    TB_PF_COEF,
    TB_PF_CRIT,
    TB_PF_T0,
    TB_PIECES,
    TB_SPEC_SEQ,
)

if TYPE_CHECKING:
    from llmserve_sim.engine.kernel import Row


def decode_piece(tb: Row, t0: int, n: int, x: int, hint: int) -> int:
    """The piece of the decode-attention table that holds n sequences with context sum x (fixed-point tokens)."""
    edges = tb[t0 + TB_DEC_X]
    last = tb[t0 + TB_PIECES] - 1
    piece = min(hint, last)
    while n * tb[edges + piece] > x:
        piece -= 1
    while piece < last and n * tb[edges + piece + 1] <= x:
        piece += 1
    return piece


def decode_ps(tb: Row, t0: int, n: int, x: int, piece: int) -> int:
    """Decode attention of n sequences with context sum x, which lies in `piece`."""
    edge = n * tb[tb[t0 + TB_DEC_X] + piece]
    return n * tb[tb[t0 + TB_DEC_H] + piece] + tb[tb[t0 + TB_DEC_S] + piece] * (x - edge)


def base_ps(tb: Row, t0: int, n: int, k: int, new: int, chunks: int, ends: int) -> int:
    """All of an iteration but its attention: n sequences at depth k, `new` tokens in `chunks`, `ends` of them complete."""
    t = tb[tb[t0 + TB_GEMM] + n * (k + 1) + new] + tb[tb[t0 + TB_HEAD] + n * (k + 1) + ends]
    if k > 0 and n > 0:
        t += k * tb[t0 + TB_DRAFT_STEP] + n * tb[t0 + TB_SPEC_SEQ]
    return t + tb[t0 + TB_CPU_SEQ] * (n + chunks)


def prefill_ps(tb: Row, t0: int, units: int, longest: int) -> int:
    """Attention of an iteration's prefill chunks."""
    return tb[t0 + TB_PF_T0] + max(tb[t0 + TB_PF_COEF] * units >> 10, tb[t0 + TB_PF_CRIT] * longest >> 10)


def mixed_ps(tb: Row, t0: int, n: int, x: int, piece: int) -> int:
    """Attention of n decoding sequences that share their iteration with prefill chunks."""
    mixed = n * tb[t0 + TB_MIX_SEQ] + (tb[t0 + TB_MIX_CTX] * x >> 10)
    return max(mixed, tb[t0 + TB_MIX_AMP] * x >> 10, decode_ps(tb, t0, n, x, piece))


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
