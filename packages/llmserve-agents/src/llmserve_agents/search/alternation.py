"""A probe: whether a policy that looks at nothing beats the best fixed configuration.

    python -m llmserve_agents.search.alternation TASK [--budget WINDOWS]

Each candidate holds the best fixed configuration, except for one knob that alternates between two of its values: every
knob, every pair of values on the action grid (and the configuration's own), periods of 2 to 12 windows. A period begins
with the first value; an odd one has one window more of it, so there both orders are tried. The candidates are compared
on training seeds in rounds that keep the best third, and the best of each knob, on twice the seeds. Those that remain
then play validation seeds, on which nothing was chosen, against the fixed configuration: mean differences per window,
paired by seed, with 95 % intervals.

A gain means that the fixed configuration was not the best one, or that the reward pays for alternating. The program
exits with 1 if a gain is above `--bar`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_agents.search.grid import MAX_BATCH_SIZE, mean_rewards
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import action_grid
from llmserve_sim.references import load_references
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.env import Outcome
    from llmserve_sim.tasks import Task

    Floats = NDArray[np.float64]

__all__ = ["PERIODS", "Alternation", "Gain", "alternations", "evaluate_alternations", "main", "probe"]

PERIODS: Final = range(2, 13)
"""Lengths of a period, windows."""
BUDGET: Final = 4_000_000
"""Default number of simulated windows."""
_FIRST_ROUND: Final = 0.4
"""Share of the budget that the first round may take."""
_KEPT: Final = 1 / 3
_FINALISTS: Final = 12
_Z: Final = 1.96
"""Half-width of a 95 % interval in standard errors, for means over dozens of seeds."""


@dataclass(frozen=True, slots=True)
class Alternation:
    """A knob that alternates between two values."""

    knob: str
    first: ServeAction
    second: ServeAction
    period: int
    """Windows."""

    def at(self, window: int) -> ServeAction:
        """Return the action of a window: the first half of a period, rounded up, has the first value."""
        return self.first if window % self.period < (self.period + 1) // 2 else self.second

    def __str__(self) -> str:
        values = [getattr(action, self.knob) for action in (self.first, self.second)]
        return f"{self.knob} {values[0]}/{values[1]}, period {self.period}"


@dataclass(frozen=True, slots=True)
class Gain:
    """What an alternation earns beyond the fixed configuration, per window."""

    alternation: Alternation
    mean: float
    half_width: float
    """Of the 95 % interval, paired by seed."""
    seeds: int


def alternations(fixed: ServeAction, *, can_split: bool) -> list[Alternation]:
    """Return every candidate around a fixed configuration."""
    found = []
    for knob, choices in action_grid(can_split=can_split).items():
        if len(choices) == 1:
            continue
        values = sorted({*choices, getattr(fixed, knob)})
        held = [ServeAction.model_validate(fixed.model_dump() | {knob: value}) for value in values]
        for a, b in combinations(held, 2):
            found += [Alternation(knob, a, b, period) for period in PERIODS]
            found += [Alternation(knob, b, a, period) for period in PERIODS if period % 2]
    return found


def evaluate_alternations(task: Task, candidates: Sequence[Alternation], seeds: Sequence[int]) -> Floats:
    """Return float64[candidates, seeds]: the mean reward per window of each."""
    values = np.empty((len(candidates), len(seeds)))
    first = ServingBatch(task, len(seeds))
    first.start(seeds)
    each = max(1, MAX_BATCH_SIZE // len(seeds))
    for begin in range(0, len(candidates), each):
        part = candidates[begin : begin + each]
        batch = first.select(np.tile(np.arange(len(seeds)), len(part)))
        values[begin : begin + len(part)] = _play(batch, part, len(seeds)).reshape(len(part), len(seeds))
    return values


def _play(batch: ServingBatch, part: Sequence[Alternation], repeats: int) -> Floats:
    def act(window: int, _outcome: Outcome | None) -> list[ServeAction]:
        return [action for one in part for action in [one.at(window)] * repeats]

    return mean_rewards(batch, act)


def probe(
    task: Task,
    fixed: ServeAction,
    *,
    budget: int = BUDGET,
    seeds: int = 64,
    seed: int = 0,
    log: Callable[[str], object] = lambda _: None,
) -> list[Gain]:
    """Return the gains of the candidates that remain, the largest first, measured on `seeds` validation seeds.

    `budget` is the number of windows that may be simulated, `seed` shifts the training seeds. Deterministic. Raises
    `InvalidInputError` for a budget too small to play every candidate on one seed and the last ones on all, and for a
    number of seeds that the task's validation range does not have.
    """
    validation, train = task.seeds.validation, task.seeds.train
    if not 2 <= seeds <= len(validation):
        raise InvalidInputError("seeds", f"must be an integer in 2..{len(validation)}", got=seeds)
    candidates = alternations(fixed, can_split=ServingBatch(task, 1).can_split)
    knobs = dict.fromkeys(one.knob for one in candidates)
    last = (_FINALISTS + len(knobs) + 1) * seeds * task.windows
    once = (len(candidates) + 1) * task.windows
    if budget < last + once:
        raise InvalidInputError("budget", f"must be at least {last + once} windows", got=budget)
    constant = Alternation(next(iter(knobs)), fixed, fixed, 2)
    left = budget - last
    count = min(max(1, int(_FIRST_ROUND * left / once)), len(train))
    begin = train.start + seed % max(1, len(train) - count)
    while True:
        played = [train.start + (begin - train.start + i) % len(train) for i in range(count)]
        left -= (len(candidates) + 1) * count * task.windows
        values = evaluate_alternations(task, [constant, *candidates], played)
        gains = values[1:].mean(axis=1) - values[0].mean()
        order = (-gains).argsort(kind="stable").tolist()
        log(
            f"{task.id}: {len(candidates)} alternations on {count} seeds, best {gains.max():+.4f}: {candidates[order[0]]}"
        )
        keep = max(_FINALISTS, int(_KEPT * len(candidates)))
        best = {knob: next(i for i in order if candidates[i].knob == knob) for knob in knobs}
        kept = list(dict.fromkeys([*order[:keep], *best.values()]))
        finished = len(kept) >= len(candidates)
        candidates, count = [candidates[i] for i in kept], min(2 * count, len(train))
        if finished or left < (len(candidates) + 1) * count * task.windows:
            break
    finalists = _finalists(candidates, knobs)
    played = list(range(validation.start, validation.start + seeds))
    values = evaluate_alternations(task, [constant, *finalists], played)
    found = []
    for one, difference in zip(finalists, values[1:] - values[0], strict=True):
        error = difference.std(ddof=1) / seeds**0.5
        found.append(Gain(one, float(difference.mean()), float(_Z * error), seeds))
    return sorted(found, key=lambda gain: -gain.mean)


def _finalists(candidates: Sequence[Alternation], knobs: Sequence[str] | dict[str, None]) -> list[Alternation]:
    """Return the first candidates, and the first of each knob."""
    best = [next(one for one in candidates if one.knob == knob) for knob in knobs]
    return list(dict.fromkeys([*candidates[:_FINALISTS], *best]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe a task and print the gains; return 1 if one is above the bar."""
    parser = argparse.ArgumentParser(
        prog="python -m llmserve_agents.search.alternation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", help="a task's id, or the path of a task file")
    parser.add_argument("--action", help="the fixed configuration as JSON, by default that of the task's references")
    parser.add_argument("--budget", type=int, default=BUDGET, help=f"simulated windows, at most ({BUDGET})")
    parser.add_argument("--seeds", type=int, default=64, help="validation seeds of the reported gains (64)")
    parser.add_argument("--seed", type=int, default=0, help="shifts the training seeds that the rounds play (0)")
    parser.add_argument("--bar", type=float, default=0.002, help="largest gain that is accepted (0.002)")
    options = parser.parse_args(arguments)
    task = load_task(options.task)
    if options.action is not None:
        fixed = ServeAction.model_validate_json(options.action)
    elif (known := load_references(task.id, task.digest)) is not None:
        fixed = known.best_static_action
    else:
        parser.error(f"--action: is required, {task.id} has no references")
    try:
        gains = probe(
            task, fixed, budget=options.budget, seeds=options.seeds, seed=options.seed, log=_told(sys.stderr.write)
        )
    except InvalidInputError as error:
        parser.error(f"--{error}")
    for gain in gains:
        low, high = gain.mean - gain.half_width, gain.mean + gain.half_width
        sys.stdout.write(f"{gain.mean:+.4f} [{low:+.4f}, {high:+.4f}]  {gain.alternation}\n")
    return 1 if gains[0].mean > options.bar else 0


def _told(write: Callable[[str], object]) -> Callable[[str], object]:
    return lambda line: write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
