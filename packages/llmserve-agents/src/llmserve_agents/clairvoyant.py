"""The clairvoyant search: plans for an agent that knows the episode's future, found by simulating its copies.

A plan is one configuration per window. The search improves it window by window. It tries every change of one knob, for
several numbers of windows, and simulates each to a few windows after its end; the present plan is simulated on the same
future. It takes the change that gains most. Passes over the episode repeat until one gains nothing. The result is never
worse than the plans that the search starts from (the best fixed configuration, the actions of other agents). It is a
lower bound of the optimum, so the search is thorough.

Only references, evaluations and the page's "what if" may use this module, because it copies the true future.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_agents.search import MAX_BATCH_SIZE, simulate_plans
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

__all__ = ["Budget", "SearchResult", "clairvoyant", "evaluate_plans", "improve", "nearest_indices"]

_AMOUNTS: Final = {"batch_cap", "kv_budget_fraction"}
"""Knobs that also take values between the grid's points."""
_NAMES: Final = list(ACTION_GRID)
_SPLIT: Final = _NAMES.index("prefill_decode_split")
_SLOW: Final = {_NAMES.index("quantization_tier"), _SPLIT}
"""Knobs whose change costs seconds, so that only a change for many windows can pay."""
_FEW: Final = 3
"""All values of a knob are tried if it has at most this many."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How thorough the search is."""

    passes: int = 3
    """Most passes over the episode. The search ends after a pass that gains nothing."""
    strides: tuple[int, ...] = (1, 2, 4)
    """Steps on the grid by which a knob is moved, up and down."""
    holds: tuple[int, ...] = (1, 4)
    """Numbers of windows for which a change is tried."""
    slow_holds: tuple[int, ...] = (6, 12, 24)
    """The same for the knobs whose change costs seconds."""
    beyond: int = 3
    """Windows simulated after the end of a change, to count its after-effects (queue, cache, swaps back)."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The best plans found, and their values."""

    plans: Ints
    """int64[seeds, windows, 6] indices on the action grid."""
    values: Floats
    """float64[seeds] mean reward per window, never below that of a start."""


def clairvoyant(
    task: Task,
    seeds: Sequence[int],
    starts: Sequence[tuple[Ints, Floats]],
    budget: Budget | None = None,
    *,
    progress: Callable[[int, int, float], object] | None = None,
) -> SearchResult:
    """Return the best plans found for episodes whose future is known.

    `starts` are pairs of plans int64[seeds, windows, 6] and mean rewards per window float64[seeds]: of a fixed
    configuration, or of any agent. The plans are the nearest points of the grid, the rewards are those of the agent's
    own actions. In each episode the search starts from the best of the plans. `progress` is called as in `improve`.
    """
    if not starts:
        raise InvalidInputError("starts", "must be at least one plan to begin with")
    rewards = np.stack([earned for _, earned in starts])
    on_grid = np.stack([evaluate_plans(task, seeds, plans) for plans, _ in starts])
    first = on_grid.argmax(axis=0)
    plans = np.stack([plans for plans, _ in starts])[first, np.arange(len(seeds))]
    plans, values = improve(task, seeds, plans, budget, progress=progress)
    # An agent whose actions lie between the grid's points may have earned more than the search found on the grid.
    return SearchResult(plans, np.maximum(values, rewards.max(axis=0)))


def nearest_indices(actions: Sequence[ServeAction]) -> Ints:
    """Return int64[n, 6]: the point of the grid that is nearest to each action."""
    rows = np.empty((len(actions), len(GRID_SIZES)), dtype=np.int64)
    for column, (name, choices) in enumerate(ACTION_GRID.items()):
        values = [getattr(action, name) for action in actions]
        if name in _AMOUNTS:
            distance = np.abs(np.array(values, dtype=np.float64)[:, None] - np.array(choices, dtype=np.float64))
            rows[:, column] = distance.argmin(axis=1)
        else:
            rows[:, column] = [choices.index(value) for value in values]
    return rows


def evaluate_plans(task: Task, seeds: Sequence[int], plans: Ints) -> Floats:
    """Return float64[seeds]: mean reward per window of `plans` int64[seeds, windows, 6]."""
    values = np.empty(len(seeds))
    for begin in range(0, len(seeds), MAX_BATCH_SIZE):
        batch = ServingBatch(task, len(seeds[begin : begin + MAX_BATCH_SIZE]))
        batch.start(seeds[begin : begin + MAX_BATCH_SIZE])
        values[begin : begin + MAX_BATCH_SIZE] = simulate_plans(batch, plans[begin : begin + MAX_BATCH_SIZE]).mean(
            axis=1
        )
    return values


def improve(
    task: Task,
    seeds: Sequence[int],
    plans: Ints,
    budget: Budget | None = None,
    *,
    frozen: Sequence[int] = (),
    progress: Callable[[int, int, float], object] | None = None,
) -> tuple[Ints, Floats]:
    """Return plans int64[seeds, windows, 6] at least as good as those given, and their mean rewards per window.

    `frozen` knobs keep their values in the plans. `progress(pass, window, value)` is called after every window; `value`
    is the mean of all plans before this pass.
    """
    budget = Budget() if budget is None else budget
    best, value = plans.copy(), evaluate_plans(task, seeds, plans)
    moves = _moves(budget, frozen, can_split=ServingBatch(task, 1).can_split)
    going = np.arange(len(seeds))
    for number in range(budget.passes):
        tried = best[going].copy()
        if not moves:
            break
        group = max(1, MAX_BATCH_SIZE // max(len(m) for m in moves.values()))
        for begin in range(0, len(going), group):
            rows = slice(begin, begin + group)
            tried[rows] = _pass(
                task,
                [seeds[i] for i in going[rows].tolist()],
                tried[rows],
                moves,
                budget.beyond,
                None if progress is None else partial(_relay, progress, number, float(value.mean())),
            )
        reached = evaluate_plans(task, [seeds[i] for i in going.tolist()], tried)
        better = reached > value[going]
        best[going[better]], value[going[better]] = tried[better], reached[better]
        # Further passes search only the episodes that this pass improved.
        going = going[better]
        if not len(going):
            break
    return best, value


def _relay(progress: Callable[[int, int, float], object], number: int, value: float, window: int) -> None:
    progress(number, window, value)


def _moves(budget: Budget, frozen: Sequence[int], *, can_split: bool) -> dict[int, Ints]:
    """Return, by number of windows that a change is held, int64[n, 2]: a knob, and the step by which it is moved."""
    moves: dict[int, list[tuple[int, int]]] = {}
    for knob, size in enumerate(GRID_SIZES):
        if knob in frozen or (knob == _SPLIT and not can_split):
            continue
        steps = [sign * step for step in budget.strides if step < size for sign in (1, -1)]
        if size <= _FEW:  # these wrap around, so a step up and a step down can reach the same value
            steps = list(dict.fromkeys(step % size for step in steps))
        for hold in budget.slow_holds if knob in _SLOW else budget.holds:
            moves.setdefault(hold, []).extend((knob, step) for step in steps)
    return {hold: np.array(some, dtype=np.int64) for hold, some in sorted(moves.items()) if some}


def _pass(
    task: Task,
    seeds: Sequence[int],
    plans: Ints,
    moves: dict[int, Ints],
    beyond: int,
    progress: Callable[[int], object] | None,
) -> Ints:
    """Improve the plans of some episodes in one pass over their windows; return the new plans."""
    plans = plans.copy()
    trunk = ServingBatch(task, len(seeds))
    trunk.start(seeds)
    everyone = np.arange(len(seeds))
    reusable: dict[int, ServingBatch] = {}
    for window in range(trunk.episode_length):
        gains = np.zeros(len(seeds))
        chosen = plans[:, window:].copy()
        baseline = simulate_plans(trunk.select(everyone), plans[:, window : window + max(moves) + beyond])
        for hold, options in moves.items():
            found, changed = _try(trunk, plans[:, window : window + hold + beyond], options, hold, baseline, reusable)
            better = found > gains + 1e-9
            gains[better] = found[better]
            chosen[better] = plans[better, window:]
            chosen[better, : changed.shape[1]] = changed[better]
        plans[:, window:] = chosen
        trunk.advance(plans[:, window])
        if progress is not None:
            progress(window)
    return plans


def _try(
    trunk: ServingBatch, ahead: Ints, options: Ints, hold: int, baseline: Floats, reusable: dict[int, ServingBatch]
) -> tuple[Floats, Ints]:
    """Try every option for `hold` windows; return the best gain of each episode, and the plan that has it.

    `ahead` int64[episodes, windows, 6] is the rest of the present plans, `baseline` their rewards. `reusable` holds
    earlier copies by size, whose memory is used again.
    """
    episodes, windows = ahead.shape[:2]
    rows = np.repeat(np.arange(episodes), len(options))
    tried = ahead[rows]
    knob, step = np.tile(options, (episodes, 1)).T
    # The knob has one value in all these windows. Knobs with two or three values wrap, so that each value is tried.
    size = np.array(GRID_SIZES)[knob]
    value = tried[np.arange(len(rows)), 0, knob] + step
    value = np.where(size <= _FEW, value % size, np.clip(value, 0, size - 1))
    tried[np.arange(len(rows))[:, None], np.arange(min(hold, windows))[None, :], knob[:, None]] = value[:, None]
    batch = reusable[len(rows)] = trunk.select(rows, into=reusable.get(len(rows)))
    rewards = simulate_plans(batch, tried)
    gain = rewards.sum(axis=1) - baseline[rows, : rewards.shape[1]].sum(axis=1)
    by_episode = gain.reshape(episodes, len(options))
    best = by_episode.argmax(axis=1)
    at = np.arange(episodes) * len(options) + best
    return gain[at], tried[at]
