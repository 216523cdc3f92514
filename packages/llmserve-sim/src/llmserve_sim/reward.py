"""The reward of a window: four named terms, each a weight of the task times a share.

    reward = w_throughput · throughput + w_slo · slo - w_memory · memory - w_cost · cost

A task has one of two definitions of the shares. *By window*, each in 0..1:

- throughput: quality-weighted output tokens of the requests that finished within their SLO, over the mean tokens
  *offered* per window in this window and the two before (completions lag arrivals by about that much, and an agent
  cannot gain by failing many requests in one window), at most 1; 1 when nothing was offered. A token of tenant class t
  counts 1 - stake_t · loss(tier).
- slo: priority-weighted share of due requests that met their targets; a window in which none was due is compliant.
- memory: memory pressure, the share of usable memory over the shared cap.
- cost: fleet cost per output token delivered over this window and the two before, relative to the task's reference
  cost, at most 1; 1 when nothing was delivered.

*By counts*, if the task gives `requests_per_s` and `output_tokens_per_s`, the expected load:

- throughput: the same quality-weighted tokens, over output_tokens_per_s · window_s.
- slo: priority-weighted requests that met their targets, over requests_per_s · window_s.
- memory: as above.
- cost: 1 - delivered / B, where B is the tokens that the fleet's price of a window buys at the task's reference cost.

Counts are linear: a request that meets its targets is worth the same in whatever window it ends, a window that is
written off earns nothing, and the mean over an episode does not depend on the window's length. So these shares have no
bound: a window in which more than the expected load is served has shares above 1, and a cost below 0.

Offered tokens, arrivals and the expected load never depend on actions, so no denominator can be gamed. The module reads
the engine's counts; scores are in `grader.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

from llmserve_sim.arithmetic import SCALAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmserve_sim.arithmetic import Arithmetic
    from llmserve_sim.engine.interface import WindowStats
    from llmserve_sim.tasks import Task
    from llmserve_sim.tasks.model import RewardWeights

__all__ = ["HISTORY_WINDOWS", "CountedTerms", "RewardCounts", "RewardMeter", "RewardTerms"]

HISTORY_WINDOWS: Final = 3
"""Windows over which offered tokens and cost are averaged: a request takes about 5-10 s, two windows."""


@dataclass(frozen=True, slots=True)
class RewardCounts:
    """What a window adds to an episode's sums: of these, counted rewards and the grader's components are made."""

    met: float
    """Requests that met their targets, priority-weighted."""
    due: float
    """Requests that finished, were abandoned or were rejected, priority-weighted."""
    good_tokens: float
    """Output tokens of the requests that met their targets."""
    quality_tokens: float
    """The same, each times its quality factor."""
    offered_tokens: float
    """Output tokens that arrivals asked for."""
    delivered_tokens: float
    bought_tokens: float
    """Tokens that the fleet's price of the window buys at the task's reference cost."""


@dataclass(frozen=True, slots=True)
class RewardTerms:
    """Signed, weighted terms (they sum to the reward) and the unweighted shares behind them.

    By window, each share is in 0..1. By counts, throughput, slo and cost have no bound.
    """

    throughput: float
    slo: float
    memory: float
    cost: float
    throughput_share: float
    slo_share: float
    memory_share: float
    cost_share: float
    quality: float
    """Mean quality factor of the window's good tokens; of the tier in force when there were none."""

    @property
    def total(self) -> float:
        """The reward."""
        return self.throughput + self.slo + self.memory + self.cost

    def weighted(self) -> dict[str, float]:
        """Return the four terms by name."""
        return {"throughput": self.throughput, "slo": self.slo, "memory": self.memory, "cost": self.cost}

    def shares(self) -> dict[str, float]:
        """Return the unweighted shares and the quality, by name."""
        return {
            "throughput": self.throughput_share,
            "slo": self.slo_share,
            "memory": self.memory_share,
            "cost": self.cost_share,
            "quality": self.quality,
        }


@dataclass(frozen=True, slots=True)
class CountedTerms(RewardTerms):
    """The terms of a reward that counts."""

    counts: RewardCounts
    """What the shares were counted from."""


@dataclass(slots=True)
class RewardMeter:
    """Scores windows one after the other; remembers the last two windows' offered and delivered tokens."""

    weights: RewardWeights
    priority_weight: float
    """How many standard requests a priority request counts for in the SLO term."""
    usd_per_window: float
    """Price of the whole fleet for one window."""
    arithmetic: Arithmetic = SCALAR
    """With `ARRAYS`, counts, pressure, quality and terms hold one entry per environment."""
    expected_requests: float | None = None
    """Priority-weighted requests that a window is expected to bring; None: the terms are by window."""
    expected_tokens: float | None = None
    """Output tokens that a window's arrivals are expected to ask for; given with `expected_requests`."""
    _offered: tuple[int, ...] = ()
    _delivered: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, task: Task, usd_per_window: float, window_s: float, arithmetic: Arithmetic = SCALAR, *, share: float = 1.0
    ) -> Self:
        """Return the meter of a task for windows of `window_s` seconds; `share` is the share of its requests served."""
        w = task.reward
        load_s = window_s * share
        return cls(
            w,
            task.priority.weight,
            usd_per_window,
            arithmetic,
            None if w.requests_per_s is None else w.requests_per_s * load_s,
            None if w.output_tokens_per_s is None else w.output_tokens_per_s * load_s,
        )

    def fork(self) -> RewardMeter:
        """Return an independent copy of this meter."""
        return replace(self)

    @property
    def memory(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Tokens offered and delivered in the last windows, in order of time."""
        return self._offered, self._delivered

    def recall(self, memory: tuple[tuple[Any, ...], tuple[Any, ...]]) -> RewardMeter:
        """Return an independent copy of this meter that remembers `memory` instead."""
        return replace(self, _offered=memory[0], _delivered=memory[1])

    def recount(self, offered: Sequence[int]) -> RewardMeter:
        """Return an independent copy of this meter; `offered` replaces the tokens that past windows offered."""
        return replace(self, _offered=tuple(offered[len(offered) - len(self._offered) :]))

    def read(self, stats: WindowStats, memory_pressure: float, quality: Sequence[float]) -> RewardTerms:
        """Return the terms of the window; `quality` holds the factor 1 - stake · loss of each tenant class."""
        w = self.weights
        ratio, at_most = self.arithmetic.ratio, self.arithmetic.at_most
        self._offered = offered = (*self._offered, stats.offered_tokens)[-HISTORY_WINDOWS:]
        self._delivered = delivered = (*self._delivered, stats.delivered_tokens)[-HISTORY_WINDOWS:]
        tokens = stats.good_tokens
        good = tokens[0] * quality[0] + tokens[1] * quality[1] + tokens[2] * quality[2] + tokens[3] * quality[3]
        due = self.priority_weight * stats.due[0] + stats.due[1]
        met = self.priority_weight * stats.met[0] + stats.met[1]
        bought = self.usd_per_window * 1000.0 / w.cost_scale_usd_per_1k
        if self.expected_requests is None or self.expected_tokens is None:
            throughput = at_most(ratio(good * len(offered), sum(offered), 1.0), 1.0)
            slo = ratio(met, due, 1.0)
            usd = self.usd_per_window * len(delivered)
            cost = at_most(ratio(usd * 1000.0 / w.cost_scale_usd_per_1k, sum(delivered), 1.0), 1.0)
        else:
            throughput = good / self.expected_tokens
            slo = met / self.expected_requests
            # A fleet without a price costs nothing, whatever it delivers.
            cost = 1.0 - stats.delivered_tokens / bought if bought else 0.0 * good
        terms = {
            "throughput": w.throughput * throughput,
            "slo": w.slo * slo,
            "memory": -w.memory * memory_pressure,
            "cost": -w.cost * cost,
            "throughput_share": throughput,
            "slo_share": slo,
            "memory_share": memory_pressure,
            "cost_share": cost,
            "quality": ratio(good, sum(tokens), (quality[0] + quality[1] + quality[2] + quality[3]) / 4.0),
        }
        if self.expected_requests is None:
            return RewardTerms(**terms)
        counts = RewardCounts(met, due, sum(tokens), good, stats.offered_tokens, stats.delivered_tokens, bought)
        return CountedTerms(**terms, counts=counts)
