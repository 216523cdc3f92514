"""Many episodes of one task in lock step: what `ServingEnv.advance` does, for all of them in one call.

The formulas are those of the single environment (`metrics.py`, `reward.py`, `configuration.py`), computed on arrays; the
windows run in one compiled call (`engine/batch.py`). This module knows nothing about Gymnasium.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from llmserve_sim.arithmetic import ARRAYS
from llmserve_sim.configuration import TIER_INDEX, Claim, Configurator, Course
from llmserve_sim.engine.batch import KernelBatch
from llmserve_sim.engine.interface import PS_PER_S, WindowStats
from llmserve_sim.engine.layout import (
    P_CAP,
    P_DEPTH,
    P_END,
    P_HALF,
    P_HIT,
    P_POOL,
    P_PRIORITY,
    P_RATES,
    P_RESIZED,
    P_SPLIT,
    P_TIER,
    PLAN_SIZE,
    STAT_AT,
    STAT_WIDTHS,
)
from llmserve_sim.env import Outcome
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.metrics import Meter, WindowFacts
from llmserve_sim.reward import RewardMeter
from llmserve_sim.tasks import load_task
from llmserve_sim.workload.scenario import generate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llmserve_sim.engine.simulator import Backend
    from llmserve_sim.hardware import Deployment
    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

    Ints = NDArray[np.int64]

__all__ = ["ServingBatch"]

_COLUMNS: Final = {
    name: STAT_AT[name] if width == 1 else slice(STAT_AT[name], STAT_AT[name] + width)
    for name, width in STAT_WIDTHS.items()
}


class ServingBatch:
    """`size` episodes of one task, all at the same window. Numbers in outcomes are arrays with one entry per episode."""

    def __init__(
        self,
        task: str | Path | Task,
        size: int,
        *,
        deployment: str | Deployment | None = None,
        backend: Backend = "auto",
        threads: int = 1,
    ) -> None:
        self.task = load_task(task)
        self.size = size
        self.configurator = Configurator.build(self.task, deployment)
        fleet = self.configurator.fleet
        self._engine = KernelBatch(fleet, self.configurator.slo, size, backend=backend, threads=threads)
        self._swap_ps = np.array(fleet.swap_ps, dtype=np.int64)
        self._courses: list[Course] = []
        self._window = 0
        self._knobs: Ints | None = None
        self._wanted: Ints = np.zeros(size, dtype=np.int64)
        self._stall_ps: Ints = np.zeros(size, dtype=np.int64)

    def start(self, seeds: Sequence[int]) -> Outcome:
        """Start all episodes anew, one per seed; the outcome is that of queues before any action."""
        if len(seeds) != self.size:
            raise InvalidInputError("seeds", f"must be {self.size} seeds, one for each episode", got=len(seeds))
        scenarios = [generate(self.task, seed) for seed in seeds]
        courses = [Course.of(scenario) for scenario in scenarios]
        for index, scenario in enumerate(scenarios):
            self._engine.load(index, scenario.traffic)
        self._courses = courses
        self._window, self._knobs = 0, None
        task, usd_per_s = self.task, self.configurator.usd_per_s
        seconds = scenarios[0].window_s
        self._meter = Meter(seconds, courses[0].windows, usd_per_s, ARRAYS)
        self._rewards = RewardMeter(task.reward, task.priority.weight, usd_per_s * seconds, ARRAYS)
        demand = np.array([self.configurator.cotenant_gb(course) for course in courses])
        return Outcome(self._meter.initial(cast("float", demand)), None, done=False)

    def advance(self, actions: Sequence[ServeAction]) -> Outcome:
        """Simulate one window of every episode, each under its own action.

        Raises `InvalidInputError` for an action that cannot be carried out, and `EpisodeStateError` before the start and
        after the end; nothing has changed then.
        """
        if not self._courses or self._window >= self._courses[0].windows:
            raise EpisodeStateError("there are no running episodes: start first")
        if len(actions) != self.size:
            raise InvalidInputError("actions", f"must be {self.size} actions, one for each episode", got=len(actions))
        for action in actions:
            self.configurator.check(action)
        knobs, fractions, claims = self._read(actions)
        plans, facts = self._plan(knobs, fractions, claims)
        # A copy: the arena goes on changing, and the meters remember.
        stats = _stats(self._engine.step(plans).copy())
        tiers = knobs[:, P_TIER].tolist()
        quality = np.array([c.quality[self._window, t] for c, t in zip(self._courses, tiers, strict=True)])
        self._window += 1
        self._knobs = knobs
        measurement = self._meter.read(stats, facts)
        terms = self._rewards.read(stats, facts.memory_pressure, tuple(quality.T))
        return Outcome(measurement, terms, done=self._window >= self._courses[0].windows)

    def close(self) -> None:
        """Stop the threads, if there are any."""
        self._engine.close()

    def _read(self, actions: Sequence[ServeAction]) -> tuple[Ints, NDArray[np.float64], dict[str, Any]]:
        """Return the knobs as the first columns of plans, the KV fractions, and memory claims by field."""
        claim, window = self.configurator.claim, self._window
        rows: list[tuple[int, ...]] = []
        claims: list[Claim] = []
        for action, course in zip(actions, self._courses, strict=True):
            tier, depth = TIER_INDEX[action.quantization_tier], action.speculation_depth
            rows.append((0, action.batch_cap, depth, tier, action.prefill_decode_split, action.priority_routing))
            claims.append(claim(tier, action.kv_budget_fraction, depth > 0, course.cotenant_bytes[window]))
        columns = zip(*claims, strict=True)
        by_field = {name: np.array(column) for name, column in zip(Claim._fields, columns, strict=True)}
        fractions = np.array([action.kv_budget_fraction for action in actions])
        return np.array(rows, dtype=np.int64), fractions, by_field

    def _plan(self, knobs: Ints, fractions: NDArray[np.float64], claims: dict[str, Any]) -> tuple[Ints, WindowFacts]:
        """Return the engine's plans and the facts of the window; remembers pools and stalls for the next."""
        course, window = self._courses[0], self._window
        resized: Any = np.zeros(self.size, dtype=np.bool_)
        stall_ps: Ints = np.zeros(self.size, dtype=np.int64)
        tier, last = knobs[:, P_TIER], self._knobs
        if last is not None:
            resized, stall_ps = self.configurator.transition(
                ARRAYS,
                swapped=tier != last[:, P_TIER],
                swap_ps=self._swap_ps[tier],
                moved=knobs[:, P_SPLIT] != last[:, P_SPLIT],
                pool_changed=claims["wanted_blocks"] != self._wanted,
                stall_ps=self._stall_ps,
                window_ps=course.window_ps,
            )
        self._wanted, self._stall_ps = claims["wanted_blocks"], stall_ps
        plans = np.empty((self.size, PLAN_SIZE), dtype=np.int64)
        plans[:, : knobs.shape[1]] = knobs
        plans[:, P_END] = (window + 1) * course.window_ps
        plans[:, P_POOL] = claims["pool_blocks"]
        plans[:, P_RESIZED] = resized
        plans[:, P_HIT] = self.configurator.hit_q10
        plans[:, P_HALF] = claims["half_blocks"]
        for index, one in enumerate(self._courses):
            plans[index, P_RATES:] = one.tokens_per_step[window].ravel()
        facts: dict[str, Any] = {
            "batch_cap": knobs[:, P_CAP],
            "kv_budget_fraction": fractions,
            "speculation_depth": knobs[:, P_DEPTH],
            "tier": tier,
            "split": knobs[:, P_SPLIT],
            "priority": knobs[:, P_PRIORITY],
            "stall_s": stall_ps / PS_PER_S,
            "memory_pressure": claims["pressure"],
        }
        facts |= {name: claims[name] for name in ("reserved_gb", "pool_gb", "cotenant_gb")}
        return plans, WindowFacts(**facts)


def _stats(matrix: Ints) -> WindowStats:
    """Return the engine's columns under the names of `WindowStats`: arrays, or tuples of arrays."""
    columns: dict[str, Any] = {}
    for name, where in _COLUMNS.items():
        values = matrix[:, where]
        columns[name] = values if isinstance(where, int) else tuple(values.T)
    return cast("WindowStats", SimpleNamespace(**columns))
