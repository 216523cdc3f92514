"""`Latencies`: those of all simulated windows, by task, in vLLM's histograms.

The bucket bounds are those of vLLM's `PrometheusStatLogger` (vllm/v1/metrics/loggers.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmserve_sim.engine import LatencySums

__all__ = ["E2E_BOUNDS_S", "ITL_BOUNDS_S", "TTFT_BOUNDS_S", "Latencies", "Series"]

TTFT_BOUNDS_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
"""Bucket bounds of vllm:time_to_first_token_seconds."""
ITL_BOUNDS_S: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
"""Bucket bounds of vllm:inter_token_latency_seconds; those of vllm:time_per_output_token_seconds before its renaming."""
E2E_BOUNDS_S: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
"""Bucket bounds of vllm:e2e_request_latency_seconds."""


@dataclass(frozen=True, slots=True)
class Series:
    """One histogram of one task, as Prometheus has it."""

    task_id: str
    buckets: list[tuple[str, float]]
    """(bound, number of values up to it), the last one "+Inf"."""
    total: float
    """Sum of the values, in seconds."""


class Latencies:
    """The latencies of all windows that were stepped, by task."""

    def __init__(self) -> None:
        self._tasks: dict[str, LatencySums] = {}

    def of(self, task_id: str) -> LatencySums:
        """Return the sums to which a task's windows are added."""
        sums = self._tasks.get(task_id)
        return self._tasks.setdefault(task_id, LatencySums(E2E_BOUNDS_S)) if sums is None else sums

    def ttft(self) -> list[Series]:
        """Return the time to first token."""
        return [_series(task_id, TTFT_BOUNDS_S, sums.ttft(TTFT_BOUNDS_S)) for task_id, sums in self._sorted()]

    def itl(self) -> list[Series]:
        """Return the time between tokens."""
        return [_series(task_id, ITL_BOUNDS_S, sums.itl(ITL_BOUNDS_S)) for task_id, sums in self._sorted()]

    def e2e(self) -> list[Series]:
        """Return the time from a request's arrival to its last token."""
        return [_series(task_id, E2E_BOUNDS_S, sums.e2e()) for task_id, sums in self._sorted()]

    def _sorted(self) -> list[tuple[str, LatencySums]]:
        return sorted(self._tasks.copy().items())


def _series(task_id: str, bounds_s: tuple[float, ...], found: tuple[list[float], float]) -> Series:
    within, total = found
    return Series(task_id, list(zip([*map(str, bounds_s), "+Inf"], within, strict=True)), total)
