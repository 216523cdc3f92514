"""`TierTables`: what an iteration costs, as integer tables. Built by `llmserve_sim.performance.tables`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from llmserve_sim.bounds import Between, Checked, Column
from llmserve_sim.engine.units import (
    DEPTHS,
    FP,
    MAX_PRODUCT,
    SEQS_MAX,
    Coefficient,
    Cost,
    CostColumn,
    Ints,
)

__all__ = ["TierTables"]


@dataclass(frozen=True, eq=False)
class TierTables(Checked):
    """Integer cost model of one replica at one weight format.

    The time of an iteration with n decoding sequences at depth k, context sum X (fixed-point tokens), prefill chunks
    of q new after c cached tokens, f of which complete their prompt, is

        gemm[n(k+1) + Σq] + head[n(k+1) + f] + cpu_seq·(n + chunks) + [k > 0 and n > 0](k·draft_step + n·spec_seq)
        + (no chunks:         dec_t0 + D
           no sequences:      pf_t0 + P
           both:              pf_t0 + P + max(n·mix_seq + (mix_ctx·X >> 10), mix_amp·X >> 10, D))

    with D = n·dec_h[j] + dec_s[j]·(X − n·dec_x[j]) on the last piece j whose left edge n·dec_x[j] is at most X, and
    P = max(pf_coef·Σu >> 10, pf_crit·max(c + q) >> 10), u = ⌈q/pf_tile⌉·(2c + q + pf_off).
    """

    budget: Annotated[int, Between(1, 1 << 20, "tokens")]
    """Most tokens in one iteration (vLLM's `max_num_batched_tokens`)."""
    gemm: CostColumn
    """[budget + 1] ps, by token count: all costs that depend only on it, and the constant CPU time; [0] is unused."""
    head: CostColumn
    """[budget + 1] ps of the output head, by number of sampled rows."""
    cpu_seq: Cost
    """ps per sequence in the batch."""
    dec_t0: Cost
    """ps, start-up of decode attention over all layers."""
    dec_x: Annotated[Ints, Column(Between(0, 1 << 50, "1/256 token"), sorted=True)]
    """[J] left edges of the pieces, fixed-point tokens of mean context; dec_x[0] = 0."""
    dec_h: CostColumn
    """[J] ps per sequence at the left edge."""
    dec_s: CostColumn
    """[J] ps per fixed-point token within the piece."""
    pf_t0: Cost
    """ps, start-up of prefill attention over all layers."""
    pf_tile: Annotated[int, Between(1, 65_536, "tokens")]
    """Query tokens per tile (1 for the FLOP form)."""
    pf_off: Annotated[int, Between(0, 1 << 24, "tokens")]
    """Tokens added to 2c + q."""
    pf_coef: Coefficient
    """ps/1024 per unit."""
    pf_crit: Coefficient
    """ps/1024 per token of the longest single context (0 if no critical path is modelled)."""
    mix_seq: Cost
    """ps per decoding sequence in a mixed iteration."""
    mix_ctx: Coefficient
    """ps/1024 per fixed-point token of decode context in a mixed iteration."""
    mix_amp: Coefficient
    """ps/1024 per fixed-point token: the floor of the above."""
    draft_step: Cost
    """ps per drafted position."""
    spec_seq: Cost
    """ps per decoding sequence when speculating."""

    def _relations(self) -> None:
        for name in ("gemm", "head"):
            if len(getattr(self, name)) != self.budget + 1:
                self._refuse(name, f"must have budget + 1 = {self.budget + 1} entries")
        if self.gemm[1:].min() < 1:
            self._refuse("gemm", "must be at least 1 ps from one token on, so that time passes")
        if len(self.dec_x) < 1 or self.dec_x[0] != 0 or np.any(self.dec_x[1:] == self.dec_x[:-1]):
            self._refuse("dec_x", "must increase from 0")
        for name in ("dec_h", "dec_s"):
            if len(getattr(self, name)) != len(self.dec_x):
                self._refuse(name, f"must be as long as dec_x, which has {len(self.dec_x)} entries")

    def longest_iteration_ps(self, max_len: int) -> int:
        """An upper bound of an iteration's time, with every product that the engine forms on the way to it below 2^62.

        Raises:
            InvalidInputError: a product is not.
        """
        sequences, context = SEQS_MAX, SEQS_MAX * (max_len + 2 * DEPTHS) * FP
        units = (self.budget // self.pf_tile + SEQS_MAX) * (2 * max_len + self.pf_off)
        decode = sequences * int(self.dec_h.max()) + context * int(self.dec_s.max())
        scaled = {
            "pf_coef": units * self.pf_coef,
            "pf_crit": max_len * self.pf_crit,
            "mix_ctx": context * self.mix_ctx,
            "mix_amp": context * self.mix_amp,
            "dec_s": decode,
        }
        for name, product in scaled.items():
            if product > MAX_PRODUCT:
                self._refuse(name, f"must be less for contexts of {max_len} tokens: the engine counts to 2^62")
        attention = decode + self.dec_t0 + self.pf_t0 + sequences * self.mix_seq + sum(scaled.values()) // 1024
        host = (sequences + self.budget) * self.cpu_seq + DEPTHS * self.draft_step + sequences * self.spec_seq
        return int(self.gemm.max()) + int(self.head.max()) + attention + host
