"""Episodes that training learns from, played with exploration: one part after the other, or the parts in processes of their own.

What is played at once is always cut into the same parts, each with draws of its own: the number of processes changes no number.
Needs numpy only, so that the processes load no torch.
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
from llmserve_agents.learning.network import HEADS, KEEP_KNOBS, TIER, MLPPolicy, standing, to_grid
from llmserve_sim.batch import ServingBatch
from llmserve_sim.grid import GRID_SIZES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.tasks import Task

    Ints = NDArray[np.int64]
    Singles = NDArray[np.float32]

__all__ = ["PARTS", "TRIAL_WINDOWS", "Clock", "Player", "Players", "Rollout"]

PARTS: Final = 2
"""Parts that the episodes are cut into, where twins allow it."""
TRIAL_WINDOWS: Final = (8, 32)
"""Shortest and longest trial, windows: long enough to pay for a change where it pays."""


@dataclass(slots=True)
class Clock:
    """Seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count the time of a block."""
        begin = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - begin


@dataclass(slots=True)
class Rollout:
    """What one update learns from: [windows, envs, ...] arrays, and the inputs after the last window."""

    inputs: Singles
    choices: Ints
    logp: Singles
    rewards: Singles
    drawn: Ints
    """The knob that a trial changed in this window; -1: none."""
    held: NDArray[np.bool_]
    """Where a trial holds tier and split: not the policy's choices."""
    last_inputs: Singles

    @classmethod
    def within(cls, memory: Any, windows: int, envs: int) -> Self:
        """Return a rollout whose arrays lie one after the other in a buffer of `room(windows, envs)` bytes."""
        arrays, start = {}, 0
        for name, (shape, kind) in _layout(windows, envs).items():
            count = math.prod(shape)
            arrays[name] = np.frombuffer(memory, dtype=kind, count=count, offset=start).reshape(shape)
            start += count * np.dtype(kind).itemsize
        return cls(**arrays)

    @staticmethod
    def room(windows: int, envs: int) -> int:
        """Return the bytes that a rollout takes."""
        return sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in _layout(windows, envs).values())

    def part(self, envs: slice) -> Rollout:
        """Return some of the episodes: views of the same memory."""
        return Rollout(
            **{name: array[envs if name == "last_inputs" else (slice(None), envs)] for name, array in self._arrays()}
        )

    def copy(self) -> Rollout:
        """Return the same in memory of its own."""
        return Rollout(**{name: array.copy() for name, array in self._arrays()})

    def _arrays(self) -> list[tuple[str, Any]]:
        return [(column.name, getattr(self, column.name)) for column in fields(self)]


def _layout(windows: int, envs: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of every array of a rollout; those with the longest entries first, so that all are aligned."""
    return {
        "choices": ((windows, envs, len(HEADS)), np.int64),
        "drawn": ((windows, envs), np.int64),
        "inputs": ((windows, envs, len(FEATURES)), np.float32),
        "logp": ((windows, envs, len(HEADS)), np.float32),
        "rewards": ((windows, envs), np.float32),
        "last_inputs": ((envs, len(FEATURES)), np.float32),
        "held": ((windows, envs), np.bool_),
    }


@dataclass(frozen=True, slots=True)
class Game:
    """What a player is to play."""

    part: int
    policy: MLPPolicy
    seeds: tuple[int, ...]
    """One per episode."""
    trials: float
    """Share of the windows that lie in trials."""
    draws: int
    """Seed of everything that is drawn."""


class Player:
    """Plays whole episodes of a task side by side, drawing its actions."""

    def __init__(self, task: Task, size: int, *, threads: int = 1) -> None:
        self.windows = task.windows
        self.batch = ServingBatch(task, size, threads=threads)
        self._history = FeatureHistory(size)
        self._tried = KEEP_KNOBS if self.batch.can_split else (TIER,)

    def play(self, game: Game, rollout: Rollout) -> dict[str, float]:
        """Play episodes into `rollout`; return the seconds that went to each part of it."""
        rng, clock = np.random.default_rng(game.draws), Clock()
        size, policy = self.batch.size, game.policy
        left = np.zeros(size, dtype=np.int64)
        rollout.drawn[:], rollout.held[:] = -1, False
        self._history.reset()
        with clock.on("generate"):
            outcome = self.batch.start(game.seeds)
        for window in range(self.windows):
            with clock.on("features"):
                inputs = rollout.inputs[window] = self._history.push(vectors_of(outcome, size))
            with clock.on("act"):
                choices, rollout.logp[window] = policy.sample(inputs, rng)
                if game.trials and window > 0:  # before, nothing is in force
                    self._try(choices, standing(inputs), rollout, window, left, game.trials, rng)
                rollout.choices[window] = choices
                indices = to_grid(choices, inputs)
            with clock.on("simulate"):
                outcome = self.batch.advance(indices)
            rollout.rewards[window] = outcome.reward
        rollout.last_inputs[:] = self._history.push(vectors_of(outcome, size))
        return dict(clock.seconds)

    def _try(
        self,
        choices: Ints,
        indices: Ints,
        rollout: Rollout,
        window: int,
        left: Ints,
        share: float,
        rng: np.random.Generator,
    ) -> None:
        """Go on with the trials that have windows `left`, begin others, and put what they hold into `choices`.

        Trials of `mean` windows that begin with this chance in every free window fill `share` of all windows.
        """
        mean = sum(TRIAL_WINDOWS) / 2
        chance = share / (mean * (1.0 - share))
        begin = np.flatnonzero((left == 0) & (rng.random(len(left)) < chance))
        left[begin] = rng.integers(TRIAL_WINDOWS[0], TRIAL_WINDOWS[1] + 1, len(begin))
        held = rollout.held[window] = left > 0
        for knob in KEEP_KNOBS:
            choices[held, knob] = GRID_SIZES[knob]
        knobs = rng.choice(self._tried, len(begin))
        for knob in self._tried:
            where = begin[knobs == knob]
            step = rng.integers(1, GRID_SIZES[knob], len(where))
            choices[where, knob] = (indices[where, knob] + step) % GRID_SIZES[knob]
            rollout.drawn[window, where] = knob
        left[held] -= 1

    def close(self) -> None:
        """Stop the simulator's threads, if there are any."""
        self.batch.close()


class Players:
    """`size` episodes at a time, on up to `PARTS` processes and as many threads in each as are left over.

    With one thread everything is played in this process. Twins, neighbours that face the same traffic, stay in one part.
    """

    def __init__(self, task: Task, size: int, *, twins: int = 1, threads: int = 1) -> None:
        groups = size // twins
        edges = sorted({groups * part // PARTS * twins for part in range(PARTS)} | {size})
        self._parts = [slice(start, stop) for start, stop in pairwise(edges)]
        processes = min(threads, len(self._parts))
        room = Rollout.room(task.windows, size)
        # Memory that the processes share: through a pipe, what was played would take longer than the policy takes to act.
        memory: Any = RawArray(ctypes.c_byte, room) if processes > 1 else bytearray(room)
        self._rollout = Rollout.within(memory, task.windows, size)
        self._pool: WorkerPool | None = None
        self._table: list[Seat] = []
        seats = (task, size, memory, self._parts, threads // processes)
        if processes > 1:
            self._pool = WorkerPool(processes, _sit_down, seats)
        else:
            self._table = _seats(*seats)

    def play(
        self, policy: MLPPolicy, seeds: Sequence[int], trials: float, rng: np.random.Generator
    ) -> tuple[Rollout, dict[str, float]]:
        """Return an episode for each seed, and the seconds that each part of playing took: shares of what passed by the clock."""
        begin = time.perf_counter()
        draws = rng.integers(2**63, size=len(self._parts)).tolist()
        games = [
            Game(index, policy, tuple(seeds[part]), trials, draw)
            for index, (part, draw) in enumerate(zip(self._parts, draws, strict=True))
        ]
        alone = partial(_play_at, self._table)
        clocks = list(map(alone, games)) if self._pool is None else self._pool.map(_play, games)
        rollout = self._rollout.copy()
        passed, spent = time.perf_counter() - begin, sum(sum(seconds.values()) for seconds in clocks)
        return rollout, {what: passed * sum(seconds[what] for seconds in clocks) / spent for what in clocks[0]}

    def close(self) -> None:
        """End the processes and threads; nothing can be played afterwards."""
        if self._pool is not None:
            self._pool.close()
        for player, _ in self._table:
            player.close()


Seat: TypeAlias = tuple[Player, Rollout]
"""Who plays a part, and where it is written."""
_TABLE: Final[list[Seat]] = []
"""In a process of `Players`."""


def _seats(task: Task, size: int, memory: Any, parts: Sequence[slice], threads: int) -> list[Seat]:
    rollout = Rollout.within(memory, task.windows, size)
    return [(Player(task, part.stop - part.start, threads=threads), rollout.part(part)) for part in parts]


def _sit_down(*seats: Any) -> None:
    _TABLE.extend(_seats(*seats))


def _play(game: Game) -> dict[str, float]:
    return _play_at(_TABLE, game)


def _play_at(table: Sequence[Seat], game: Game) -> dict[str, float]:
    player, rollout = table[game.part]
    return player.play(game, rollout)
