"""Many episodes of one task in lock-step: one call of `advance` simulates a window of all of them.

The formulas are those of the single environment (`metrics.py`, `reward.py`, `configuration.py`), computed on arrays.
The windows run in one compiled call (`engine/kernel/batch.py`). `select` copies hundreds of episodes, so that a search
can try many continuations at once. `gather` makes a batch of running environments. Nothing here depends on Gymnasium.
"""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import fields, replace
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
"""Number of plan columns up to the last knob: the window's end, then the knobs."""
_FRACTION: Final = "kv_budget_fraction"
_MEMORY_FIELDS: Final = ("wanted_blocks", "block_bytes", "weight_bytes", "draft_bytes", "activation_bytes")


class ServingBatch:
    """`size` episodes of one task, all at the same window.

    The figures of an `Outcome` are arrays with one entry per episode. A copy (`copy.copy`, `copy.deepcopy`, pickle)
    continues identically and shares nothing with the original; `select` copies faster.
    """

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
        """The simulated fleets, one per episode."""
        self._swap_ps = np.array(fleet.swap_ps, dtype=np.int64)
        self._window = 0
        self._conditions: _BatchConditions | None = None
        self._knobs: Ints | None = None
        self._wanted: Ints = np.zeros(size, dtype=np.int64)
        self._stall_ps: Ints = np.zeros(size, dtype=np.int64)

    @property
    def window(self) -> int:
        """Number of windows simulated so far."""
        return self._window

    @property
    def episode_length(self) -> int:
        """Number of windows in an episode."""
        return self._conditions.windows if self._conditions else self.task.windows

    @property
    def can_split(self) -> bool:
        """Whether the deployment allows `prefill_decode_split`."""
        return self.configurator.deployment.can_split

    def start(self, seeds: Sequence[int]) -> Outcome:
        """Start all episodes anew, one per seed. The outcome shows the state before the first action."""
        if len(seeds) != self.size:
            raise InvalidInputError("seeds", f"must be {self.size} seeds, one for each episode", got=len(seeds))
        once = {seed: generate(self.task, seed) for seed in dict.fromkeys(seeds)}
        scenarios = [once[seed] for seed in seeds]
        episodes = [EpisodeConditions.of(scenario) for scenario in scenarios]
        for index, scenario in enumerate(scenarios):
            self.engine.load(index, scenario.traffic)
        self._conditions = _BatchConditions(episodes)
        self._window, self._knobs = 0, None
        task, usd_per_s = self.task, self.configurator.usd_per_s
        seconds = scenarios[0].window_s
        self._meter = Meter(seconds, episodes[0].windows, usd_per_s, ARRAYS)
        self._rewards = RewardMeter.of(task, usd_per_s * seconds, seconds, ARRAYS)
        demand = np.array([self.configurator.cotenant_gb(episode) for episode in episodes])
        return Outcome(self._meter.initial(cast("float", demand)), None, done=False)

    @classmethod
    def gather(cls, envs: Sequence[ServingEnv]) -> Self:
        """Return a batch that continues the running episodes of `envs`, which stay unchanged.

        Raises:
            InvalidInputError: the environments differ in task, deployment or window, or run the reference scheduler.
        """
        snapshots = [env.snapshot() for env in envs]
        if not snapshots:
            raise InvalidInputError("envs", "must be at least one environment")
        first = snapshots[0]
        engines = [snapshot.engine for snapshot in snapshots if isinstance(snapshot.engine, KernelEngine)]
        if len(engines) < len(snapshots):
            raise InvalidInputError("envs", "must run the kernel: the reference scheduler has no batches")
        alike = {
            (env.task.digest, env.deployment, snapshot.window) for env, snapshot in zip(envs, snapshots, strict=True)
        }
        if len(alike) > 1:
            raise InvalidInputError("envs", "must run one task on one deployment, at the same window")
        batch = cls(envs[0].task, len(envs), deployment=envs[0].deployment, backend=engines[0].backend)
        for index, engine in enumerate(engines):
            batch.engine.adopt(index, engine)
        batch._conditions = _BatchConditions([snapshot.conditions for snapshot in snapshots])
        batch._window = first.window
        lasts = [snapshot.meter.last for snapshot in snapshots]
        measured: dict[str, Any] = {name: np.array([getattr(last, name) for last in lasts]) for name in _MEASURED}
        meter = Meter(first.meter.window_s, first.meter.episode_length, first.meter.usd_per_s, ARRAYS)
        batch._meter = meter.recall(Measurement(**measured))
        meters = [snapshot.rewards.memory for snapshot in snapshots]
        offered, delivered = (tuple(map(np.array, zip(*(memory[i] for memory in meters), strict=True))) for i in (0, 1))
        batch._rewards = replace(first.rewards, arithmetic=ARRAYS).recall((offered, delivered))
        settings = [snapshot.setting for snapshot in snapshots if snapshot.setting is not None]
        if settings:
            rows = [(0, p.batch_cap, p.depth, p.tier, p.split, p.priority) for p in (s.plan for s in settings)]
            batch._knobs = np.array(rows, dtype=np.int64)
            batch._wanted = np.array([setting.wanted_blocks for setting in settings])
            batch._stall_ps = np.array([setting.stall_ps for setting in settings])
        return batch

    def select(self, indices: Sequence[int] | Ints, *, into: Self | None = None) -> Self:
        """Return independent copies of the episodes at `indices`, in this order and with repeats, with the same future.

        `into` is an earlier selection that is no longer needed. If the size is the same, its memory (200 KB an episode)
        is reused, which is many times faster than allocating new memory.

        Raises:
            EpisodeStateError: the episodes have not started.
            InvalidInputError: an index is out of range.
        """
        conditions = self._running()
        at = np.asarray(indices, dtype=np.int64)
        if at.ndim != 1 or not len(at) or at.min() < 0 or at.max() >= self.size:
            raise InvalidInputError("indices", f"must be a row of integers in 0..{self.size - 1}", got=indices)
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone.size = len(at)
        clone.engine = self.engine.select(at, None if into is None else into.engine)
        clone._conditions = conditions.select(at)
        clone._knobs = None if self._knobs is None else self._knobs[at]
        clone._wanted, clone._stall_ps = self._wanted[at], self._stall_ps[at]
        last = self._meter.last
        picked: dict[str, Any] = {name: _pick(getattr(last, name), at) for name in _MEASURED}
        clone._meter = self._meter.recall(Measurement(**picked))
        offered, delivered = self._rewards.memory
        clone._rewards = self._rewards.recall(
            (tuple(_pick(one, at) for one in offered), tuple(_pick(one, at) for one in delivered))
        )
        return clone

    def advance(self, actions: Actions) -> Outcome:
        """Simulate one window of every episode, each under its own action.

        `actions` is one `ServeAction` per episode, or int[size, 6] of indices on `grid.ACTION_GRID`. Indices are
        faster, because they need no Python loop over episodes. After an error the state is unchanged.

        Raises:
            InvalidInputError: an action cannot be carried out.
            EpisodeStateError: the episodes have not started, or have ended.
        """
        conditions = self._running()
        if self._window >= conditions.windows:
            raise EpisodeStateError("there are no running episodes: start first")
        if len(actions) != self.size:
            raise InvalidInputError("actions", f"must be {self.size} actions, one for each episode", got=len(actions))
        knobs, fractions, requirement = (
            self._read_grid(actions) if isinstance(actions, np.ndarray) else self._read(actions)
        )
        plans, facts = self._plan(conditions, knobs, fractions, requirement)
        # A copy, because the meters keep the figures and the next window overwrites the arena.
        stats = _stats(self.engine.step(plans).copy())
        quality = conditions.quality(self._window, knobs[:, P_TIER])
        self._window += 1
        self._knobs = knobs
        measurement = self._meter.read(stats, facts)
        terms = self._rewards.read(stats, facts.memory_pressure, tuple(quality.T))
        return Outcome(measurement, terms, done=self._window >= conditions.windows)

    def close(self) -> None:
        """Drop the episodes and stop the threads. The batch can be started again; closing twice is allowed."""
        self._conditions = None
        self.engine.close()

    def __copy__(self) -> Self:
        return deepcopy(self)

    def _running(self) -> _BatchConditions:
        if self._conditions is None:
            raise EpisodeStateError("there are no running episodes: start first")
        return self._conditions

    def _read(self, actions: Sequence[ServeAction]) -> tuple[Ints, Floats, Requirement]:
        """Return the knobs as the first columns of plans, the KV fractions and the memory requirements."""
        rows: list[tuple[int, ...]] = []
        requirements: list[Requirement] = []
        for action in actions:
            self.configurator.check(action)
            tier, depth = TIER_INDEX[action.quantization_tier], action.speculation_depth
            rows.append((0, action.batch_cap, depth, tier, action.prefill_decode_split, action.priority_routing))
            requirements.append(self.configurator.requirement(tier, action.kv_budget_fraction, depth > 0))
        fractions = np.array([action.kv_budget_fraction for action in actions])
        return np.array(rows, dtype=np.int64), fractions, _stack_requirements(requirements)

    def _read_grid(self, indices: NDArray[np.integer]) -> tuple[Ints, Floats, Requirement]:
        """Return what `_read` does, for indices on the grid."""
        if indices.shape != (self.size, len(GRID_SIZES)) or indices.dtype.kind not in "iu":
            raise InvalidInputError("actions", f"must be integers of shape {(self.size, len(GRID_SIZES))}", got=indices)
        if (indices < 0).any() or (indices >= _GRID_SIZES).any():
            for (name, choices), column in zip(ACTION_GRID.items(), indices.T, strict=True):
                if column.min() < 0 or column.max() >= len(choices):
                    raise InvalidInputError(name, f"index must be in 0..{len(choices) - 1}", got=column)
        cap, kv, depth, tier, split, priority = indices.T
        if split.any():
            self.configurator.check_split()
        for name in self.configurator.memory.refusals:
            if (tier == TIER_INDEX[name]).any():
                self.configurator.memory.check(name)
        knobs = np.zeros((self.size, _KNOBS), dtype=np.int64)
        knobs[:, P_BATCH_CAP] = _CAPS[cap]
        knobs[:, P_DEPTH], knobs[:, P_TIER], knobs[:, P_SPLIT], knobs[:, P_PRIORITY] = depth, tier, split, priority
        table = _grid_requirements(self.configurator)
        where = np.ravel_multi_index((tier, kv, (depth > 0).astype(np.int64)), _GRID_SHAPE)
        memory = MemoryRequirement(**{name: getattr(table.memory, name)[where] for name in _MEMORY_FIELDS})
        return (
            knobs,
            _FRACTIONS[kv],
            Requirement(memory, _pick(table.reserved_gb, where), _pick(table.half_blocks, where)),
        )

    def _plan(
        self, conditions: _BatchConditions, knobs: Ints, fractions: Floats, requirement: Requirement
    ) -> tuple[Ints, WindowFacts]:
        """Return the engine's plans and the facts of the window; store pools and stalls for the next window."""
        window = self._window
        allocation = self.configurator.allocate(ARRAYS, requirement, conditions.cotenant_bytes(window))
        resized: Any = np.zeros(self.size, dtype=np.bool_)
        stall_ps: Ints = np.zeros(self.size, dtype=np.int64)
        tier, last = knobs[:, P_TIER], self._knobs
        if last is not None:
            resized, stall_ps = self.configurator.transition(
                ARRAYS,
                swapped=tier != last[:, P_TIER],
                swap_ps=self._swap_ps[tier],
                moved=knobs[:, P_SPLIT] != last[:, P_SPLIT],
                pool_changed=allocation.wanted_blocks != self._wanted,
                stall_ps=self._stall_ps,
                window_ps=conditions.window_ps,
            )
        self._wanted, self._stall_ps = np.asarray(allocation.wanted_blocks), stall_ps
        plans = np.empty((self.size, PLAN_SIZE), dtype=np.int64)
        plans[:, :_KNOBS] = knobs
        plans[:, P_END_PS] = (window + 1) * conditions.window_ps
        plans[:, P_POOL_BLOCKS] = allocation.pool_blocks
        plans[:, P_RESIZED] = resized
        plans[:, P_HIT_Q10] = self.configurator.hit_q10
        plans[:, P_HIT_HALF_BLOCKS] = allocation.half_blocks
        plans[:, P_TOKENS_PER_STEP:] = conditions.tokens_per_step(window)
        facts: dict[str, Any] = {
            "batch_cap": knobs[:, P_BATCH_CAP],
            _FRACTION: fractions,
            "speculation_depth": knobs[:, P_DEPTH],
            "tier": tier,
            "split": knobs[:, P_SPLIT],
            "priority": knobs[:, P_PRIORITY],
            "stall_s": stall_ps / PS_PER_S,
            "memory_pressure": allocation.pressure,
            "reserved_gb": allocation.reserved_gb,
            "pool_gb": allocation.pool_gb,
            "cotenant_gb": allocation.cotenant_gb,
        }
        return plans, WindowFacts(**facts)


class _BatchConditions:
    """The conditions of all episodes, stacked. Episode i uses row `rows[i]` of the arrays, which selections share."""

    def __init__(self, episodes: Sequence[EpisodeConditions]) -> None:
        self.windows, self.window_ps = episodes[0].windows, episodes[0].window_ps
        self.rows: Ints = np.arange(len(episodes))
        self._cotenant = np.array([episode.cotenant_bytes for episode in episodes], dtype=np.int64)
        self._tokens = np.stack([episode.tokens_per_step.reshape(episode.windows, -1) for episode in episodes])
        self._quality = np.stack([episode.quality for episode in episodes])

    def select(self, at: Ints) -> _BatchConditions:
        clone = copy(self)
        clone.rows = self.rows[at]
        return clone

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
_GRID_SHAPE: Final = (len(TIER_INDEX), len(_FRACTIONS), 2)
_MEASURED: Final = tuple(field.name for field in fields(Measurement))


@lru_cache(maxsize=64)
def _grid_requirements(configurator: Configurator) -> Requirement:
    """Return the requirements by tier, KV fraction and whether speculation is on: nothing else on the grid matters."""
    return _stack_requirements(
        [
            configurator.requirement(tier, float(fraction), bool(speculating))
            for tier in range(_GRID_SHAPE[0])
            for fraction in _FRACTIONS.tolist()
            for speculating in range(2)
        ]
    )


def _stack_requirements(requirements: Sequence[Requirement]) -> Requirement:
    """Return the requirements as one whose fields are arrays."""
    memory: dict[str, Any] = {
        name: np.array([getattr(requirement.memory, name) for requirement in requirements]) for name in _MEMORY_FIELDS
    }
    reserved: Any = np.array([requirement.reserved_gb for requirement in requirements])
    half: Any = np.array([requirement.half_blocks for requirement in requirements])
    return Requirement(MemoryRequirement(**memory), reserved, half)


def _pick(values: Any, at: Ints) -> Any:
    """Return the entries `at` of an array; return a number that holds for all episodes as it is."""
    return values[at] if np.ndim(values) else values


def _stats(matrix: Ints) -> WindowStats:
    """Return the engine's columns under the names of `WindowStats`: arrays, or tuples of arrays."""
    columns: dict[str, Any] = {}
    for name, where in STAT_COLUMNS.items():
        values = matrix[:, where]
        columns[name] = values if isinstance(where, int) else tuple(values.T)
    return cast("WindowStats", SimpleNamespace(**columns))
