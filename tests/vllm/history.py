"""What both sides write down, and the costs they share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import DEPTHS, FP, TENANTS
from llmserve_sim.hardware import get_deployment
from llmserve_sim.performance.tables import build_fleet

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import FleetSpec

__all__ = ["MAX_LEN", "History", "Step", "fleet_of", "rates_of"]

MAX_LEN = 16_384
"""Longer than any request: neither side ends one at its context."""


@dataclass(frozen=True)
class Step:
    """One step: when it started and ended, and the tokens computed for each request."""

    start_ps: int
    end_ps: int
    tokens: dict[int, int]


@dataclass
class History:
    """A run: its steps, and each request's times (ps) and preemptions."""

    steps: list[Step] = field(default_factory=list)
    requests: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    """By id: scheduled, first token, last token, preemptions."""

    def difference(self, other: History) -> str | None:
        """Return the first difference in words; None if the two are identical."""
        for index, (mine, theirs) in enumerate(zip(self.steps, other.steps, strict=False)):
            if mine != theirs:
                return f"step {index}:\n    vLLM      {mine}\n    reference {theirs}"
        if len(self.steps) != len(other.steps):
            return f"{len(self.steps)} steps in vLLM, {len(other.steps)} in the reference"
        for request in sorted(self.requests.keys() | other.requests.keys()):
            if self.requests.get(request) != other.requests.get(request):
                return f"request {request}: {self.requests.get(request)} in vLLM, {other.requests.get(request)}"
        return None


def rates_of(acceptance: float) -> tuple[tuple[int, ...], ...]:
    """Return fixed-point tokens per step, [tenant][depth]; each tenant accepts a little less than the one before."""
    return tuple(
        tuple(
            int(FP * sum((acceptance * (1 - 0.1 * tenant)) ** j for j in range(depth + 1))) for depth in range(DEPTHS)
        )
        for tenant in range(TENANTS)
    )


@cache
def fleet_of(budget: int) -> FleetSpec:
    """Return one replica of the default deployment with another token budget."""
    deployment = replace(get_deployment("a100-llama3.1-8b"), replicas=1, max_num_batched_tokens=budget)
    return build_fleet(deployment, max_len=MAX_LEN, max_unfinished=1 << 19)
