"""Episodes that training learns from, played with exploration: one part after the other, or the parts in processes of their own.

What is played at once is always cut into the same parts, each with draws of its own: the number of processes changes no number.
Needs numpy only, so that the processes load no torch.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from llmserve_agents.executors import WorkerPool
from llmserve_agents.features import FEATURES, FeatureHistory, vectors_of
from llmserve_agents.network import HEADS, KEEP_KNOBS, TIER, MLPPolicy, standing, to_grid
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
    def blank(cls, windows: int, envs: int) -> Self:
        """Return a rollout that nothing has happened in yet."""
        return cls(
            inputs=np.empty((windows, envs, len(FEATURES)), dtype=np.float32),
            choices=np.empty((windows, envs, len(HEADS)), dtype=np.int64),
            logp=np.empty((windows, envs, len(HEADS)), dtype=np.float32),
            rewards=np.empty((windows, envs), dtype=np.float32),
            drawn=np.full((windows, envs), -1),
            held=np.zeros((windows, envs), dtype=np.bool_),
            last_inputs=np.empty((envs, len(FEATURES)), dtype=np.float32),
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the episodes of all parts, side by side."""
        names = [column.name for column in fields(cls)]
        arrays = {name: [getattr(part, name) for part in parts] for name in names}
        return cls(
            **{name: np.concatenate(some, axis=0 if name == "last_inputs" else 1) for name, some in arrays.items()}
        )


@dataclass(frozen=True, slots=True)
class Game:
    """What a player is to play."""

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

    def play(self, game: Game) -> tuple[Rollout, dict[str, float]]:
        """Return the episodes, and the seconds that went to each part of playing them."""
        rng, clock = np.random.default_rng(game.draws), Clock()
        size, policy = self.batch.size, game.policy
        rollout, left = Rollout.blank(self.windows, size), np.zeros(size, dtype=np.int64)
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
        return rollout, dict(clock.seconds)

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
        sizes = sorted({part.stop - part.start for part in self._parts})
        processes = min(threads, len(self._parts))
        self._pool: WorkerPool | None = None
        self._here: dict[int, Player] = {}
        if processes > 1:
            self._pool = WorkerPool(processes, _sit_down, (task, sizes, threads // processes))
        else:
            self._here = {size: Player(task, size, threads=threads) for size in sizes}

    def play(
        self, policy: MLPPolicy, seeds: Sequence[int], trials: float, rng: np.random.Generator
    ) -> tuple[Rollout, dict[str, float]]:
        """Return an episode for each seed, and the seconds that each part of playing took: shares of what passed by the clock."""
        begin = time.perf_counter()
        draws = rng.integers(2**63, size=len(self._parts)).tolist()
        games = [Game(policy, tuple(seeds[part]), trials, draw) for part, draw in zip(self._parts, draws, strict=True)]
        if self._pool is None:
            played = [self._here[len(game.seeds)].play(game) for game in games]
        else:
            played = self._pool.map(_play, games)
        rollout = Rollout.joined([part for part, _ in played])
        passed, spent = time.perf_counter() - begin, sum(sum(seconds.values()) for _, seconds in played)
        shares = {what: sum(seconds[what] for _, seconds in played) / spent for what in played[0][1]}
        return rollout, {what: passed * share for what, share in shares.items()}

    def close(self) -> None:
        """End the processes and threads; nothing can be played afterwards."""
        if self._pool is not None:
            self._pool.close()
        for player in self._here.values():
            player.close()


_SEATED: Final[dict[int, Player]] = {}
"""In a process of `Players`: a player for each number of episodes."""


def _sit_down(task: Any, sizes: Sequence[int], threads: int) -> None:
    _SEATED.update({size: Player(task, size, threads=threads) for size in sizes})


def _play(game: Game) -> tuple[Rollout, dict[str, float]]:
    return _SEATED[len(game.seeds)].play(game)
