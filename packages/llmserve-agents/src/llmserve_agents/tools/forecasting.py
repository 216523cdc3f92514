"""What a plan would bring, by the environment's own forecast: the plan is simulated on several drawn futures.

A future is `ServingEnv.fork(forecast=seed)`: everything not yet seen, drawn anew from the task's distributions. The
seeds are this module's own and depend only on the window, so an answer tells nothing of the true future, and two plans
of one window are compared on the same futures (common random numbers).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Final

from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ServeAction, ServeObservation

__all__ = ["FIGURES", "FUTURES", "Forecast", "Spread", "forecast"]

FUTURES: Final = 8
"""Futures that a plan is simulated on."""
FIGURES: Final = (
    "reward",
    "request_arrival_rate",
    "queue_depth",
    "p99_ttft_ms",
    "slo_compliance_rate",
    "throughput_tps",
    "kv_cache_occupancy",
)
"""The fields of an observation that a forecast holds."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the futures."""

    mean: float
    deviation: float
    """Standard deviation over the futures, in the figure's unit."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a plan brings on the drawn futures."""

    futures: int
    """Futures that were drawn."""
    first_window: int
    """`step_index` of the first window that was simulated."""
    actions: tuple[ServeAction, ...]
    """The configuration of each window."""
    reward_per_window: tuple[float, ...]
    """Mean reward per window of the plan, on each future."""
    windows: tuple[dict[str, Spread], ...]
    """For each window the spread of each of `FIGURES`."""


def forecast(env: ServingEnv, plan: Sequence[ServeAction], *, futures: int = FUTURES) -> Forecast:
    """Simulate `plan`, one configuration a window, on drawn futures of the episode; the episode does not change.

    A plan that goes on after the episode's end is cut there. Raises `EpisodeStateError` before a reset and after the
    end, `InvalidInputError` for a configuration that the deployment refuses.
    """
    window = env.state().step_count
    plan = tuple(plan)[: env.episode_length - window]
    played = [_play(env.fork(forecast=_seed(window, number)), plan) for number in range(futures)]
    return Forecast(
        futures=futures,
        first_window=window + 1,
        actions=plan,
        reward_per_window=tuple(fmean(seen.reward for seen in future) for future in played),
        windows=tuple(
            {name: _spread([getattr(seen, name) for seen in seen_here]) for name in FIGURES}
            for seen_here in zip(*played, strict=True)
        ),
    )


def _play(future: ServingEnv, plan: Sequence[ServeAction]) -> list[ServeObservation]:
    return [future.step(action) for action in plan]


def _spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), pstdev(values))


def _seed(window: int, number: int) -> int:
    """Return a seed that no episode has: with an episode's own seed, a forecast would draw the true future."""
    digest = hashlib.sha256(f"forecast tool {window} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
