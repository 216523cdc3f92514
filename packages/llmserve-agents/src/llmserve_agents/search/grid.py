"""Simulates many episodes in one batch, and searches for the best fixed configurations with it.

`rollout` is the one loop over a `ServingBatch`; searches, rules, the planner and PPO's evaluation all use it.
Configurations are rows of indices on `llmserve_sim.grid.ACTION_GRID`, int64[..., 6]. Values are mean rewards per
window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import combinations
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from llmserve_sim.batch import ServingBatch
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES, from_indices, to_indices
from llmserve_sim.schema import ServeAction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.batch import Actions
    from llmserve_sim.env import Outcome
    from llmserve_sim.tasks import Task

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

__all__ = [
    "MAX_BATCH_SIZE",
    "STARTS",
    "best_by_regime",
    "best_static",
    "evaluate_actions",
    "evaluate_static",
    "mean_rewards",
    "rollout",
    "simulate_plans",
]

MAX_BATCH_SIZE: Final = 512
"""Most episodes in one batch. More do not make a window cheaper, and each takes about 200 KB."""
STARTS: Final = tuple(
    ServeAction(
        batch_cap=cap, kv_budget_fraction=0.4, quantization_tier=tier, speculation_depth=depth, priority_routing=True
    )
    for tier in ("FP16", "INT8", "INT4")
    for cap, depth in ((32, 2), (128, 0))
)
"""Starts of the search for a fixed configuration: each tier, with small batches and a draft, and with large ones."""
_MIN_GAIN: Final = 1e-6
"""Smallest gain in reward per window for which a search moves."""
_SPLIT: Final = list(ACTION_GRID).index("prefill_decode_split")


Act: TypeAlias = "Callable[[int, Outcome | None], Actions]"
"""Chooses a window's actions from the window, counted from 0 in the rollout, and the outcome of the last one."""


def rollout(
    batch: ServingBatch, act: Act, *, outcome: Outcome | None = None, windows: int | None = None
) -> Iterator[Outcome]:
    """Simulate a batch to the end of its episodes, or for at most `windows` windows; yield the outcome of every window.

    `act` chooses the actions. `outcome` is what it gets in the first window: the outcome of `ServingBatch.start`, or
    None.
    """
    left = batch.episode_length - batch.window
    for window in range(left if windows is None else min(windows, left)):
        outcome = batch.advance(act(window, outcome))
        yield outcome


def mean_rewards(batch: ServingBatch, act: Act, *, outcome: Outcome | None = None) -> Floats:
    """Simulate whole episodes by `rollout`; return float64[size], the mean reward per window of each."""
    total = np.zeros(batch.size)
    for last in rollout(batch, act, outcome=outcome):
        total += last.reward
    return total / batch.episode_length


def simulate_plans(batch: ServingBatch, plans: Ints) -> Floats:
    """Simulate the next n windows under `plans` int64[size, n, 6]; return rewards float64[size, n].

    The result has fewer columns if the episodes end before.
    """
    windows = min(plans.shape[1], batch.episode_length - batch.window)
    rewards = np.empty((batch.size, windows))
    for window, outcome in enumerate(rollout(batch, lambda at, _: plans[:, at], windows=windows)):
        rewards[:, window] = outcome.reward
    return rewards


def evaluate_static(task: Task, configurations: Ints, seeds: Sequence[int]) -> Floats:
    """Return float64[n, seeds]: the mean reward per window of each of n configurations, held for whole episodes."""
    return _evaluate(task, len(configurations), seeds, lambda rows: configurations[rows])


def evaluate_actions(task: Task, actions: Sequence[ServeAction], seeds: Sequence[int]) -> Floats:
    """Return what `evaluate_static` does, for actions anywhere in their range."""
    return _evaluate(task, len(actions), seeds, lambda rows: [actions[row] for row in rows.tolist()])


def _evaluate(task: Task, count: int, seeds: Sequence[int], held: Callable[[Ints], Actions]) -> Floats:
    """Return float64[count, seeds]; `held` gives the actions of a batch whose episodes hold these configurations."""
    values = np.empty((count, len(seeds)))
    each = max(1, MAX_BATCH_SIZE // len(seeds))
    first, batch = _started(task, tuple(seeds)), None
    for begin in range(0, count, each):
        rows = np.arange(begin, min(begin + each, count))
        batch = first.select(np.tile(np.arange(len(seeds)), len(rows)), into=batch)
        actions = held(np.repeat(rows, len(seeds)))
        values[rows] = mean_rewards(batch, _holding(actions)).reshape(len(rows), len(seeds))
    return values


@lru_cache(maxsize=4)
def _started(task: Task, seeds: tuple[int, ...]) -> ServingBatch:
    """Return a batch at the start of these episodes, to select copies from: drawing its requests is not repeated."""
    batch = ServingBatch(task, len(seeds))
    batch.start(seeds)
    return batch


def _holding(actions: Actions) -> Act:
    return lambda _window, _outcome: actions


def best_static(
    task: Task,
    seeds: Sequence[int],
    *,
    starts: Iterable[ServeAction] = STARTS,
    pairs: bool = True,
    log: Callable[[str], object] | None = None,
) -> tuple[ServeAction, float]:
    """Return the best fixed configuration found and its mean reward per window over `seeds`.

    The search has two stages. From each start, it sweeps over one knob at a time, on a quarter of the seeds. Then it
    takes the best of all starts and results on all seeds, and sweeps over every pair of knobs until no pair improves
    it: some values are good only together, like a cap and a depth. With `pairs=False` the second stage sweeps over
    single knobs. The result is deterministic and never worse than a start. `log` receives lines of progress.
    """
    few = seeds[: max(2, len(seeds) // 4)]
    starts, ends = list(starts), []
    for start in starts:
        end, value = _climb(task, few, np.array(to_indices(start), dtype=np.int64), _knob_by_knob(task))
        _log(log, f"{task.id}: from {start.quantization_tier}, cap {start.batch_cap}: {value:.4f}")
        ends.append(end)
    known = np.array([*ends, *map(to_indices, starts)], dtype=np.int64)
    here = known[evaluate_static(task, known, seeds).mean(axis=1).argmax()]
    sweeps = _pair_by_pair(task) if pairs else _knob_by_knob(task)
    here, value = _climb(task, seeds, here, sweeps)
    _log(log, f"{task.id}: best fixed configuration {value:.4f}")
    return from_indices(here.tolist()), value


def _log(log: Callable[[str], object] | None, line: str) -> None:
    if log is not None:
        log(line)


Sweep: TypeAlias = "Callable[[Ints], Ints]"
"""Maps a configuration to those that a sweep compares; it is one of them."""


def _climb(task: Task, seeds: Sequence[int], here: Ints, sweeps: Sequence[Sweep]) -> tuple[Ints, float]:
    """Repeat the sweeps, moving to the best configuration each time, until a whole round improves nothing."""
    known: dict[tuple[int, ...], float] = {}

    def value(options: Ints) -> Floats:
        new = [key for key in dict.fromkeys(map(tuple, options.tolist())) if key not in known]
        if new:
            found = evaluate_static(task, np.array(new, dtype=np.int64), seeds).mean(axis=1)
            known.update(zip(new, found.tolist(), strict=True))
        return np.array([known[tuple(option)] for option in options.tolist()])

    at = float(value(here[None])[0])
    improved = True
    while improved:
        improved = False
        for sweep in sweeps:
            options = sweep(here)
            values = value(options)
            best = int(values.argmax())
            if values[best] > at + _MIN_GAIN:
                here, at, improved = options[best], float(values[best]), True
    return here, at


def _knob_by_knob(task: Task) -> list[Sweep]:
    can_split = ServingBatch(task, 1).can_split
    return [partial(_grid, first=i, second=i, can_split=can_split) for i in range(len(GRID_SIZES))]


def _pair_by_pair(task: Task) -> list[Sweep]:
    can_split = ServingBatch(task, 1).can_split
    pairs = combinations(range(len(GRID_SIZES)), 2)
    return [partial(_grid, first=i, second=j, can_split=can_split) for i, j in pairs]


def best_by_regime(
    task: Task,
    seeds: Sequence[int],
    regimes: Ints,
    start: ServeAction,
    *,
    groups: Sequence[Sequence[int]] = (),
    tied: Sequence[int] = (),
    rounds: int = 4,
) -> tuple[Ints, Floats]:
    """Return the best configuration of each regime, int64[n, 6], and their mean reward per window, float64[seeds].

    `regimes` int64[seeds, windows] is the regime (0..n-1) of each window. All regimes start with the configuration
    `start`. A sweep tries all values of one knob: in all regimes, in each group of `groups`, and in each regime. The
    sweeps repeat until nothing improves, `rounds` times at most. `tied` knobs have one value in all regimes.
    """
    count = int(regimes.max()) + 1
    table = np.tile(np.array(to_indices(start), dtype=np.int64), (count, 1))
    can_split = ServingBatch(task, 1).can_split
    first = ServingBatch(task, len(seeds))
    first.start(seeds)
    reusable: dict[int, ServingBatch] = {}

    def values(tables: Ints) -> Floats:
        rows = np.tile(np.arange(len(seeds)), len(tables))
        batch = reusable[len(rows)] = first.select(rows, into=reusable.get(len(rows)))
        plans = tables[:, regimes].reshape(len(rows), regimes.shape[1], len(GRID_SIZES))
        earned: Floats = simulate_plans(batch, plans).mean(axis=1).reshape(len(tables), len(seeds))
        return earned

    at = values(table[None])[0]
    for _ in range(rounds):
        before = at.mean()
        for knob, size in enumerate(GRID_SIZES):
            if knob == _SPLIT and not can_split:
                continue
            together = [list(range(count))]
            for where in together if knob in tied else [*together, *map(list, groups), *([i] for i in range(count))]:
                options = np.repeat(table[None], size, axis=0)
                options[:, where, knob] = np.arange(size)[:, None]
                reached = values(options)
                best = int(reached.mean(axis=1).argmax())
                if reached[best].mean() > at.mean() + _MIN_GAIN:
                    table, at = options[best], reached[best]
        if at.mean() <= before + _MIN_GAIN:
            break
    return table, at


def _grid(here: Ints, *, first: int, second: int, can_split: bool) -> Ints:
    """Return `here` with all combinations of values of two knobs, or all values of one knob, given twice."""
    if first == second:
        options = np.repeat(here[None], GRID_SIZES[first], axis=0)
        options[:, first] = np.arange(GRID_SIZES[first])
        return options if can_split else options[options[:, _SPLIT] == 0]
    a, b = np.meshgrid(np.arange(GRID_SIZES[first]), np.arange(GRID_SIZES[second]), indexing="ij")
    options = np.repeat(here[None], a.size, axis=0)
    options[:, first], options[:, second] = a.ravel(), b.ravel()
    return options if can_split else options[options[:, _SPLIT] == 0]
