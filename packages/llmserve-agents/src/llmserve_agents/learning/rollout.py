"""Rollouts: the episodes that an update learns from, played with exploration, in this process or in several.

The episodes are always cut into the same shards, each with a random generator of its own, so results do not depend on
the number of processes. The module needs numpy only, so that the processes load no torch.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from multiprocessing.sharedctypes import RawArray
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np

from llmserve_agents.executors import WorkerPool
from llmserve_agents.learning.features import FEATURES, FeatureHistory, vectors_of
from llmserve_agents.learning.network import HEAD_SIZES, KEEP_KNOBS, MLPPolicy, configuration_in_force, to_grid
from llmserve_sim.batch import ServingBatch
from llmserve_sim.grid import GRID_SIZES, QUANTIZATION_TIER

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.tasks import Task

    Ints = NDArray[np.int64]
    Singles = NDArray[np.float32]

__all__ = ["ROLLOUT_SHARDS", "TRIAL_WINDOWS", "Rollout", "RolloutWorker", "RolloutWorkers", "Timer"]

ROLLOUT_SHARDS: Final = 2
"""Shards that the episodes are cut into; fewer where there are fewer groups of episodes."""
TRIAL_WINDOWS: Final = (8, 32)
"""Shortest and longest trial, windows: long enough for a change of tier or split to pay off."""


@dataclass(slots=True)
class Timer:
    """Seconds spent on each part of a job, by the part's name."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time that a ``with`` block takes to a part."""
        begin = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begin


@dataclass(slots=True)
class Rollout:
    """What one update learns from: arrays [windows, envs, ...], and the inputs after the last window."""

    inputs: Singles
    """[windows, envs, features], not normalised."""
    actions: Ints
    """[windows, envs, heads], KEEP included."""
    logprobs: Singles
    """[windows, envs, heads], under the policy that acted."""
    rewards: Singles
    """[windows, envs]"""
    trial_knob: Ints
    """[windows, envs]: the knob that a trial changed in this window; -1: none."""
    in_trial: NDArray[np.bool_]
    """[windows, envs]: whether a trial, and not the policy, sets tier and split in this window."""
    next_inputs: Singles
    """[envs, features]: the inputs after the last window, for the bootstrapped value."""

    @classmethod
    def from_buffer(cls, memory: Any, windows: int, envs: int) -> Self:
        """Return a rollout whose arrays lie one after the other in a buffer of `nbytes(windows, envs)` bytes."""
        arrays, start = {}, 0
        for name, (shape, kind) in _array_specs(windows, envs).items():
            count = math.prod(shape)
            arrays[name] = np.frombuffer(memory, dtype=kind, count=count, offset=start).reshape(shape)
            start += count * np.dtype(kind).itemsize
        return cls(**arrays)

    @staticmethod
    def nbytes(windows: int, envs: int) -> int:
        """Return the bytes that a rollout takes."""
        return sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in _array_specs(windows, envs).values())

    def shard(self, envs: slice) -> Rollout:
        """Return the rollout of some of the environments; it shares memory with this one."""
        return Rollout(
            **{name: array[envs] if name == "next_inputs" else array[:, envs] for name, array in self._arrays()}
        )

    def copy(self) -> Rollout:
        """Return a copy with memory of its own."""
        return Rollout(**{name: array.copy() for name, array in self._arrays()})

    def _arrays(self) -> list[tuple[str, Any]]:
        return [(column.name, getattr(self, column.name)) for column in fields(self)]


def _array_specs(windows: int, envs: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and type of every array of a rollout. The largest items come first, so that all are aligned."""
    return {
        "actions": ((windows, envs, len(HEAD_SIZES)), np.int64),
        "trial_knob": ((windows, envs), np.int64),
        "inputs": ((windows, envs, len(FEATURES)), np.float32),
        "logprobs": ((windows, envs, len(HEAD_SIZES)), np.float32),
        "rewards": ((windows, envs), np.float32),
        "next_inputs": ((envs, len(FEATURES)), np.float32),
        "in_trial": ((windows, envs), np.bool_),
    }


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """What a worker is asked to play."""

    shard: int
    policy: MLPPolicy
    episode_seeds: tuple[int, ...]
    """One per episode."""
    trial_share: float
    """Share of the windows that lie in trials."""
    rng_seed: int
    """Seed of actions and trials."""


class RolloutWorker:
    """Plays whole episodes of a task side by side, with sampled actions."""

    def __init__(self, task: Task, size: int, *, threads: int = 1) -> None:
        self.windows = task.windows
        self.batch = ServingBatch(task, size, threads=threads)
        self._history = FeatureHistory(size)
        self._trial_knobs = KEEP_KNOBS if self.batch.can_split else (QUANTIZATION_TIER,)

    def collect(self, request: RolloutRequest, rollout: Rollout) -> dict[str, float]:
        """Play episodes into `rollout`; return the seconds spent on each part."""
        rng, timer = np.random.default_rng(request.rng_seed), Timer()
        size, policy = self.batch.size, request.policy
        remaining = np.zeros(size, dtype=np.int64)
        rollout.trial_knob[:], rollout.in_trial[:] = -1, False
        self._history.reset()
        with timer.measure("generate"):
            outcome = self.batch.start(request.episode_seeds)
        for window in range(self.windows):
            with timer.measure("features"):
                inputs = rollout.inputs[window] = self._history.push(vectors_of(outcome, size))
            with timer.measure("act"):
                actions, rollout.logprobs[window] = policy.sample(inputs, rng)
                if request.trial_share and window > 0:  # in window 0 nothing is in force that a trial could change
                    in_force = configuration_in_force(inputs)
                    self._apply_trials(actions, in_force, rollout, window, remaining, request.trial_share, rng)
                rollout.actions[window] = actions
                indices = to_grid(actions, inputs)
            with timer.measure("simulate"):
                outcome = self.batch.advance(indices)
            rollout.rewards[window] = outcome.reward
        rollout.next_inputs[:] = self._history.push(vectors_of(outcome, size))
        return dict(timer.seconds)

    def _apply_trials(
        self,
        actions: Ints,
        in_force: Ints,
        rollout: Rollout,
        window: int,
        remaining: Ints,
        share: float,
        rng: np.random.Generator,
    ) -> None:
        """Continue trials that have `remaining` windows, begin new ones, and write both into `actions` and `rollout`.

        A trial changes tier or split in its first window, and keeps both until its end.
        """
        # Trials of `mean` windows that begin with this chance in every free window fill `share` of all windows.
        mean = sum(TRIAL_WINDOWS) / 2
        chance = share / (mean * (1.0 - share))
        starts = np.flatnonzero((remaining == 0) & (rng.random(len(remaining)) < chance))
        remaining[starts] = rng.integers(TRIAL_WINDOWS[0], TRIAL_WINDOWS[1] + 1, len(starts))
        in_trial = rollout.in_trial[window] = remaining > 0
        for knob in KEEP_KNOBS:  # KEEP holds both during a trial; in its first window, one is then overwritten
            actions[in_trial, knob] = GRID_SIZES[knob]
        knobs = rng.choice(self._trial_knobs, len(starts))
        for knob in self._trial_knobs:
            envs = starts[knobs == knob]
            # A step of at least 1 around the knob's choices never ends where it began.
            step = rng.integers(1, GRID_SIZES[knob], len(envs))
            actions[envs, knob] = (in_force[envs, knob] + step) % GRID_SIZES[knob]
            rollout.trial_knob[window, envs] = knob
        remaining[in_trial] -= 1

    def close(self) -> None:
        """Stop the simulator's threads, if there are any."""
        self.batch.close()


class RolloutWorkers:
    """Plays `size` episodes at a time, in up to `ROLLOUT_SHARDS` processes.

    `threads` are shared out evenly among the processes, for their simulators. With one thread, everything is played in
    this process. The episodes of a group, which follow one another and face the same traffic, stay in one shard.
    """

    def __init__(self, task: Task, size: int, *, group_size: int = 1, threads: int = 1) -> None:
        groups = size // group_size
        edges = sorted({groups * shard // ROLLOUT_SHARDS * group_size for shard in range(ROLLOUT_SHARDS)} | {size})
        self._shards = [slice(start, stop) for start, stop in pairwise(edges)]
        processes = min(threads, len(self._shards))  # a shard is never split
        nbytes = Rollout.nbytes(task.windows, size)
        # The processes share memory: sending rollouts through a pipe would take longer than the policy takes to act.
        memory: Any = RawArray(ctypes.c_byte, nbytes) if processes > 1 else bytearray(nbytes)
        self._rollout = Rollout.from_buffer(memory, task.windows, size)
        self._pool: WorkerPool | None = None
        self._local: list[_Worker] = []
        arguments = (task, size, memory, self._shards, threads // processes)
        if processes > 1:
            self._pool = WorkerPool(processes, _init_process, arguments)
        else:
            self._local = _make_workers(*arguments)

    def collect(
        self, policy: MLPPolicy, seeds: Sequence[int], trials: float, rng: np.random.Generator
    ) -> tuple[Rollout, dict[str, float]]:
        """Play an episode for each seed; return the rollout, and the elapsed seconds of each part of the work."""
        begin = time.perf_counter()
        rng_seeds = rng.integers(2**63, size=len(self._shards)).tolist()
        requests = [
            RolloutRequest(index, policy, tuple(seeds[envs]), trials, rng_seed)
            for index, (envs, rng_seed) in enumerate(zip(self._shards, rng_seeds, strict=True))
        ]
        here = partial(_collect, self._local)
        timings = list(map(here, requests)) if self._pool is None else self._pool.map(_collect_in_process, requests)
        rollout = self._rollout.copy()  # the next call overwrites the shared one
        # With several processes, their times add up to more than what elapsed, so they are scaled to it.
        elapsed, spent = time.perf_counter() - begin, sum(sum(seconds.values()) for seconds in timings)
        return rollout, {part: elapsed * sum(seconds[part] for seconds in timings) / spent for part in timings[0]}

    def close(self) -> None:
        """End the processes and threads; nothing can be played afterwards."""
        if self._pool is not None:
            self._pool.close()
        for worker, _ in self._local:
            worker.close()


_Worker: TypeAlias = tuple[RolloutWorker, Rollout]
"""A worker, and the shard of the rollout that it writes."""
_PROCESS_WORKERS: Final[list[_Worker]] = []
"""The workers of all shards, in a process of `RolloutWorkers`."""


def _make_workers(task: Task, size: int, memory: Any, shards: Sequence[slice], threads: int) -> list[_Worker]:
    rollout = Rollout.from_buffer(memory, task.windows, size)
    return [(RolloutWorker(task, envs.stop - envs.start, threads=threads), rollout.shard(envs)) for envs in shards]


def _init_process(*arguments: Any) -> None:
    _PROCESS_WORKERS.extend(_make_workers(*arguments))


def _collect_in_process(request: RolloutRequest) -> dict[str, float]:
    return _collect(_PROCESS_WORKERS, request)


def _collect(workers: Sequence[_Worker], request: RolloutRequest) -> dict[str, float]:
    worker, rollout = workers[request.shard]
    return worker.collect(request, rollout)
