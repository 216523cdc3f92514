"""The time of an iteration, computed from the integer tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import TierTables
    from llmserve_sim.engine.reference.request import Request

__all__ = ["IterationCosts"]


class IterationCosts:
    """Time of an iteration at one weight tier; `TierTables` gives the formula."""

    def __init__(self, tables: TierTables) -> None:
        self.tables = tables
        self.gemm: list[int] = tables.gemm.tolist()
        self.head: list[int] = tables.head.tolist()
        self.pieces: list[tuple[int, int, int]] = list(
            zip(tables.dec_x.tolist(), tables.dec_h.tolist(), tables.dec_s.tolist(), strict=True)
        )

    def iteration_ps(self, n: int, depth: int, context_fp: int, chunks: list[tuple[Request, int]]) -> int:
        """Return the time (ps) of an iteration of `n` decoding sequences with `context_fp` tokens in all, and `chunks`.

        `chunks` are (request, new tokens), in the state before the iteration. `depth` is the speculation depth.
        """
        t = self.tables
        tokens = n * (depth + 1) + sum(new for _, new in chunks)
        completing = sum(1 for request, new in chunks if request.computed + new >= request.target)
        time = self.gemm[tokens] + self.head[n * (depth + 1) + completing] + t.cpu_seq * (n + len(chunks))
        if not chunks:
            time += t.dec_t0 + self.decode_ps(n, context_fp)
        elif n == 0:
            time += t.pf_t0 + self.prefill_ps(chunks)
        else:
            mixed = n * t.mix_seq + (t.mix_ctx * context_fp >> 10)
            floor = t.mix_amp * context_fp >> 10
            time += t.pf_t0 + self.prefill_ps(chunks) + max(mixed, floor, self.decode_ps(n, context_fp))
        if depth > 0 and n > 0:
            time += depth * t.draft_step + n * t.spec_seq
        return time

    def decode_ps(self, n: int, context_fp: int) -> int:
        """Return the time of decode attention (ps), piecewise linear in the mean context."""
        edge, height, slope = next(piece for piece in reversed(self.pieces) if n * piece[0] <= context_fp)
        return n * height + slope * (context_fp - n * edge)

    def prefill_ps(self, chunks: list[tuple[Request, int]]) -> int:
        """Return the time of prefill attention (ps): all tiles, or the longest single context if that takes longer."""
        t = self.tables
        units = sum(-(-new // t.pf_tile) * (2 * request.computed + new + t.pf_off) for request, new in chunks)
        longest = max(request.computed + new for request, new in chunks)
        return max(t.pf_coef * units >> 10, t.pf_crit * longest >> 10)
