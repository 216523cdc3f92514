"""Many episodes of one task in lock step: what `ServingEnv.advance` does, for all of them in one call.

The formulas are those of the single environment (`metrics.py`, `reward.py`, `configuration.py`), computed on arrays; the
windows run in one compiled call (`engine/kernel/batch.py`). `select` copies episodes by the hundred, so that a search can try many
continuations of one at once; `gather` takes up running environments. This module knows nothing about Gymnasium.
"""

from __future__ import annotations

from copy import copy
from dataclasses import fields
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, cast

import numpy as np

from llmserve_sim.arithmetic import ARRAYS
from llmserve_sim.configuration import TIER_INDEX, Configurator, EpisodeConditions, Requirement
from llmserve_sim.engine import KernelEngine
from llmserve_sim.engine.interface import PS_PER_S, WindowStats
from llmserve_sim.engine.kernel.batch import KernelBatch
from llmserve_sim.engine.kernel.layout import (
    P_BATCH_CAP,
    P_DEPTH,
    P_END_PS,
    P_HIT_HALF_BLOCKS,
    P_HIT_Q10,
    P_POOL_BLOCKS,
    P_PRIORITY,
    P_RESIZED,
    P_SPLIT,
    P_TIER,
    P_TOKENS_PER_STEP,
    PLAN_SIZE,
    STAT_COLUMNS,
)
from llmserve_sim.env import Outcome, ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES
from llmserve_sim.memory import MemoryRequirement
from llmserve_sim.metrics import Measurement, Meter, WindowFacts
from llmserve_sim.reward import RewardMeter
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task
from llmserve_sim.workload.scenario import generate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llmserve_sim.engine.kernel.engine import Backend
    from llmserve_sim.hardware import Deployment
    from llmserve_sim.tasks import Task

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Actions: TypeAlias = Sequence[ServeAction] | NDArray[np.integer]

__all__ = ["ServingBatch"]

_KNOBS: Final = P_PRIORITY + 1
"""The knobs are the first columns of a plan; the first of them is the window's end."""
_FRACTION: Final = "kv_budget_fraction"
_NEEDS: Final = ("wanted_blocks", "block_bytes", "weight_bytes", "draft_bytes", "activation_bytes")


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
        self.engine = KernelBatch(fleet, self.configurator.slo, size, backend=backend, threads=threads)
        """The fleets of all episodes."""
        self._swap_ps = np.array(fleet.swap_ps, dtype=np.int64)
        self._window = 0
        self._course: _Courses | None = None
        self._knobs: Ints | None = None
        self._wanted: Ints = np.zeros(size, dtype=np.int64)
        self._stall_ps: Ints = np.zeros(size, dtype=np.int64)

    @property
    def window(self) -> int:
        """Windows behind the episodes."""
        return self._window

    @property
    def episode_length(self) -> int:
        """Windows in an episode."""
        return self._course.windows if self._course else self.task.windows

    @property
    def can_split(self) -> bool:
        """Whether `prefill_decode_split` is possible on this deployment."""
        return self.configurator.deployment.can_split

    def start(self, seeds: Sequence[int]) -> Outcome:
        """Start all episodes anew, one per seed; the outcome is that of queues before any action."""
        if len(seeds) != self.size:
            raise InvalidInputError("seeds", f"must be {self.size} seeds, one for each episode", got=len(seeds))
        once = {seed: generate(self.task, seed) for seed in dict.fromkeys(seeds)}
        scenarios = [once[seed] for seed in seeds]
        courses = [EpisodeConditions.of(scenario) for scenario in scenarios]
        for index, scenario in enumerate(scenarios):
            self.engine.load(index, scenario.traffic)
        self._course = _Courses(courses)
        self._window, self._knobs = 0, None
        task, usd_per_s = self.task, self.configurator.usd_per_s
        seconds = scenarios[0].window_s
        self._meter = Meter(seconds, courses[0].windows, usd_per_s, ARRAYS)
        self._rewards = RewardMeter(task.reward, task.priority.weight, usd_per_s * seconds, ARRAYS)
        demand = np.array([self.configurator.cotenant_gb(course) for course in courses])
        return Outcome(self._meter.initial(cast("float", demand)), None, done=False)

    @classmethod
    def gather(cls, envs: Sequence[ServingEnv]) -> Self:
        """Return a batch in which the running episodes of `envs` go on: one task, one window, nothing of `envs` changes.

        Raises `InvalidInputError` for environments that differ in task, deployment or window, or that run the reference
        scheduler.
        """
        standings = [env.snapshot() for env in envs]
        if not standings:
            raise InvalidInputError("envs", "must be at least one environment")
        first = standings[0]
        engines = [one.engine for one in standings if isinstance(one.engine, KernelEngine)]
        if len(engines) < len(standings):
            raise InvalidInputError("envs", "must run the kernel: the reference scheduler has no batches")
        alike = {(env.task.digest, env.deployment, one.window) for env, one in zip(envs, standings, strict=True)}
        if len(alike) > 1:
            raise InvalidInputError("envs", "must run one task on one deployment, at the same window")
        batch = cls(envs[0].task, len(envs), deployment=envs[0].deployment, backend=engines[0].backend)
        for index, engine in enumerate(engines):
            batch.engine.adopt(index, engine)
        batch._course = _Courses([one.conditions for one in standings])
        batch._window = first.window
        lasts = [one.meter.last for one in standings]
        measured: dict[str, Any] = {name: np.array([getattr(last, name) for last in lasts]) for name in _MEASURED}
        meter = Meter(first.meter.window_s, first.meter.episode_length, first.meter.usd_per_s, ARRAYS)
        batch._meter = meter.recall(Measurement(**measured))
        meters = [one.rewards.memory for one in standings]
        offered, delivered = (tuple(map(np.array, zip(*(memory[i] for memory in meters), strict=True))) for i in (0, 1))
        usd = first.rewards.usd_per_window
        rewards = RewardMeter(batch.task.reward, batch.task.priority.weight, usd, ARRAYS)
        batch._rewards = rewards.recall((offered, delivered))
        settings = [one.setting for one in standings if one.setting is not None]
        if settings:
            rows = [(0, p.batch_cap, p.depth, p.tier, p.split, p.priority) for p in (s.plan for s in settings)]
            batch._knobs = np.array(rows, dtype=np.int64)
            batch._wanted = np.array([setting.wanted_blocks for setting in settings])
            batch._stall_ps = np.array([setting.stall_ps for setting in settings])
        return batch

    def select(self, indices: Sequence[int] | Ints, *, into: Self | None = None) -> Self:
        """Return independent copies of the episodes at `indices`, in this order and with repeats, facing the same future.

        `into` is an earlier selection that nobody needs any more: its memory, 200 KB an episode, is used again where the
        size is the same, which is many times faster than asking for new memory. Raises `EpisodeStateError` before the start and `InvalidInputError` for an index that there is not.
        """
        course = self._running()
        at = np.asarray(indices, dtype=np.int64)
        if at.ndim != 1 or not len(at) or at.min() < 0 or at.max() >= self.size:
            raise InvalidInputError("indices", f"must be a row of integers in 0..{self.size - 1}", got=indices)
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.size = len(at)
        twin.engine = self.engine.select(at, None if into is None else into.engine)
        twin._course = course.select(at)
        twin._knobs = None if self._knobs is None else self._knobs[at]
        twin._wanted, twin._stall_ps = self._wanted[at], self._stall_ps[at]
        last = self._meter.last
        picked: dict[str, Any] = {name: _pick(getattr(last, name), at) for name in _MEASURED}
        twin._meter = self._meter.recall(Measurement(**picked))
        offered, delivered = self._rewards.memory
        twin._rewards = self._rewards.recall(
            (tuple(_pick(one, at) for one in offered), tuple(_pick(one, at) for one in delivered))
        )
        return twin

    def advance(self, actions: Actions) -> Outcome:
        """Simulate one window of every episode, each under its own action.

        `actions` are one `ServeAction` per episode, or int[size, 6] indices on `grid.ACTION_GRID`, which cost no Python per
        episode. Raises `InvalidInputError` for an action that cannot be carried out, and `EpisodeStateError` before the
        start and after the end; nothing has changed then.
        """
        course = self._running()
        if self._window >= course.windows:
            raise EpisodeStateError("there are no running episodes: start first")
        if len(actions) != self.size:
            raise InvalidInputError("actions", f"must be {self.size} actions, one for each episode", got=len(actions))
        knobs, fractions, need = self._read_grid(actions) if isinstance(actions, np.ndarray) else self._read(actions)
        plans, facts = self._plan(course, knobs, fractions, need)
        # A copy: the arena goes on changing, and the meters remember.
        stats = _stats(self.engine.step(plans).copy())
        quality = course.quality(self._window, knobs[:, P_TIER])
        self._window += 1
        self._knobs = knobs
        measurement = self._meter.read(stats, facts)
        terms = self._rewards.read(stats, facts.memory_pressure, tuple(quality.T))
        return Outcome(measurement, terms, done=self._window >= course.windows)

    def close(self) -> None:
        """Stop the threads, if there are any."""
        self.engine.close()

    def _running(self) -> _Courses:
        if self._course is None:
            raise EpisodeStateError("there are no running episodes: start first")
        return self._course

    def _read(self, actions: Sequence[ServeAction]) -> tuple[Ints, Floats, Requirement]:
        """Return the knobs as the first columns of plans, the KV fractions, and what they need of the memory."""
        rows: list[tuple[int, ...]] = []
        needs: list[Requirement] = []
        for action in actions:
            self.configurator.check(action)
            tier, depth = TIER_INDEX[action.quantization_tier], action.speculation_depth
            rows.append((0, action.batch_cap, depth, tier, action.prefill_decode_split, action.priority_routing))
            needs.append(self.configurator.requirement(tier, action.kv_budget_fraction, depth > 0))
        fractions = np.array([action.kv_budget_fraction for action in actions])
        return np.array(rows, dtype=np.int64), fractions, _needs(needs)

    def _read_grid(self, indices: NDArray[np.integer]) -> tuple[Ints, Floats, Requirement]:
        """Do what `_read` does for indices on the grid."""
        if indices.shape != (self.size, len(GRID_SIZES)) or indices.dtype.kind not in "iu":
            raise InvalidInputError("actions", f"must be integers of shape {(self.size, len(GRID_SIZES))}", got=indices)
        if (indices < 0).any() or (indices >= _GRID_SIZES).any():
            for (name, choices), column in zip(ACTION_GRID.items(), indices.T, strict=True):
                if column.min() < 0 or column.max() >= len(choices):
                    raise InvalidInputError(name, f"index must be in 0..{len(choices) - 1}", got=column)
        cap, kv, depth, tier, split, priority = indices.T
        if split.any():
            self.configurator.check(ServeAction(prefill_decode_split=True))
        knobs = np.zeros((self.size, _KNOBS), dtype=np.int64)
        knobs[:, P_BATCH_CAP] = _CAPS[cap]
        knobs[:, P_DEPTH], knobs[:, P_TIER], knobs[:, P_SPLIT], knobs[:, P_PRIORITY] = depth, tier, split, priority
        table = _grid_needs(self.configurator)
        where = np.ravel_multi_index((tier, kv, (depth > 0).astype(np.int64)), _NEED_SHAPE)
        memory = MemoryRequirement(**{name: getattr(table.memory, name)[where] for name in _NEEDS})
        return (
            knobs,
            _FRACTIONS[kv],
            Requirement(memory, _pick(table.reserved_gb, where), _pick(table.half_blocks, where)),
        )

    def _plan(self, course: _Courses, knobs: Ints, fractions: Floats, need: Requirement) -> tuple[Ints, WindowFacts]:
        """Return the engine's plans and the facts of the window; remembers pools and stalls for the next."""
        window = self._window
        claim = self.configurator.allocate(ARRAYS, need, course.cotenant_bytes(window))
        resized: Any = np.zeros(self.size, dtype=np.bool_)
        stall_ps: Ints = np.zeros(self.size, dtype=np.int64)
        tier, last = knobs[:, P_TIER], self._knobs
        if last is not None:
            resized, stall_ps = self.configurator.transition(
                ARRAYS,
                swapped=tier != last[:, P_TIER],
                swap_ps=self._swap_ps[tier],
                moved=knobs[:, P_SPLIT] != last[:, P_SPLIT],
                pool_changed=claim.wanted_blocks != self._wanted,
                stall_ps=self._stall_ps,
                window_ps=course.window_ps,
            )
        self._wanted, self._stall_ps = np.asarray(claim.wanted_blocks), stall_ps
        plans = np.empty((self.size, PLAN_SIZE), dtype=np.int64)
        plans[:, :_KNOBS] = knobs
        plans[:, P_END_PS] = (window + 1) * course.window_ps
        plans[:, P_POOL_BLOCKS] = claim.pool_blocks
        plans[:, P_RESIZED] = resized
        plans[:, P_HIT_Q10] = self.configurator.hit_q10
        plans[:, P_HIT_HALF_BLOCKS] = claim.half_blocks
        plans[:, P_TOKENS_PER_STEP:] = course.tokens_per_step(window)
        facts: dict[str, Any] = {
            "batch_cap": knobs[:, P_BATCH_CAP],
            _FRACTION: fractions,
            "speculation_depth": knobs[:, P_DEPTH],
            "tier": tier,
            "split": knobs[:, P_SPLIT],
            "priority": knobs[:, P_PRIORITY],
            "stall_s": stall_ps / PS_PER_S,
            "memory_pressure": claim.pressure,
            "reserved_gb": claim.reserved_gb,
            "pool_gb": claim.pool_gb,
            "cotenant_gb": claim.cotenant_gb,
        }
        return plans, WindowFacts(**facts)


class _Courses:
    """The courses of all episodes: episode i takes row `rows[i]` of the stacked arrays, which selections share."""

    def __init__(self, courses: Sequence[EpisodeConditions]) -> None:
        self.windows, self.window_ps = courses[0].windows, courses[0].window_ps
        self.rows: Ints = np.arange(len(courses))
        self._cotenant = np.array([course.cotenant_bytes for course in courses], dtype=np.int64)
        self._tokens = np.stack([course.tokens_per_step.reshape(course.windows, -1) for course in courses])
        self._quality = np.stack([course.quality for course in courses])

    def select(self, at: Ints) -> _Courses:
        twin = copy(self)
        twin.rows = self.rows[at]
        return twin

    def cotenant_bytes(self, window: int) -> Ints:
        """[size] what the co-tenant demands per GPU."""
        demand: Ints = self._cotenant[self.rows, window]
        return demand

    def tokens_per_step(self, window: int) -> Ints:
        """[size, tenant class x depth] fixed-point tokens per step."""
        tokens: Ints = self._tokens[self.rows, window]
        return tokens

    def quality(self, window: int, tier: Ints) -> Floats:
        """[size, tenant class] factors under each episode's tier."""
        factors: Floats = self._quality[self.rows, window, tier]
        return factors


_GRID_SIZES: Final = np.array(GRID_SIZES)
_CAPS: Final = np.array(ACTION_GRID["batch_cap"], dtype=np.int64)
_FRACTIONS: Final = np.array(ACTION_GRID[_FRACTION], dtype=np.float64)
_NEED_SHAPE: Final = (len(TIER_INDEX), len(_FRACTIONS), 2)
_MEASURED: Final = tuple(field.name for field in fields(Measurement))


@lru_cache(maxsize=64)
def _grid_needs(configurator: Configurator) -> Requirement:
    """The needs of every point of the grid that matters to them: tier, KV fraction and whether anything is drafted."""
    return _needs(
        [
            configurator.requirement(tier, float(fraction), bool(speculating))
            for tier in range(_NEED_SHAPE[0])
            for fraction in _FRACTIONS.tolist()
            for speculating in range(2)
        ]
    )


def _needs(needs: Sequence[Requirement]) -> Requirement:
    """Needs as one, whose entries are arrays."""
    memory: dict[str, Any] = {name: np.array([getattr(need.memory, name) for need in needs]) for name in _NEEDS}
    reserved: Any = np.array([need.reserved_gb for need in needs])
    half: Any = np.array([need.half_blocks for need in needs])
    return Requirement(MemoryRequirement(**memory), reserved, half)


def _pick(values: Any, at: Ints) -> Any:
    """Entries of an array; what is one number for all episodes stays so."""
    return values[at] if np.ndim(values) else values


def _stats(matrix: Ints) -> WindowStats:
    """Return the engine's columns under the names of `WindowStats`: arrays, or tuples of arrays."""
    columns: dict[str, Any] = {}
    for name, where in STAT_COLUMNS.items():
        values = matrix[:, where]
        columns[name] = values if isinstance(where, int) else tuple(values.T)
    return cast("WindowStats", SimpleNamespace(**columns))
