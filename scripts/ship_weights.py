"""Puts trained policies where they are shipped from: `weights/<task>/seeds/<seed>`, and the best one in `weights/<task>`.

    python scripts/ship_weights.py runs/bursty_workload/seed0 runs/bursty_workload/seed1

A run's card names its task and seed. A task's best policy is the one with the highest mean reward on 200 validation seeds that
no run was validated on: a run's own validation is the best of many on the same few seeds. Unfinished runs are refused, and runs of
a task that is not built in, of different configurations, or of another version of the task.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from llmserve_agents.errors import WeightsMismatchError
from llmserve_agents.learning.agent import play
from llmserve_agents.learning.checkpoint import read
from llmserve_agents.learning.config import with_current_names
from llmserve_agents.weights import CARD, POLICY
from llmserve_sim.tasks.registry import catalogue_task

WEIGHTS: Final = Path(__file__).resolve().parents[1] / "weights"
_FILES: Final = (POLICY, CARD, "learning.json")
EPISODES: Final = 200
"""Validation seeds that the best is chosen by."""
_SHARED: Final = ("task_digest", "features_hash", "simulator_version", "steps")


def card_of(folder: Path) -> dict[str, Any]:
    """Return a run's card."""
    content: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return content


def unlike(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of the settings, other than the seed, in which two cards differ."""
    settings = [{**with_current_names(card["config"]), "seed": 0} for card in (one, other)]
    return [name for name in _SHARED if one.get(name) != other.get(name)] + [
        f"config.{name}" for name in settings[0] if settings[0][name] != settings[1].get(name)
    ]


def mean_reward(run: Path, seeds: Sequence[int]) -> float:
    """Return the mean reward per window of a run's policy on some seeds of its task."""
    checkpoint = read(run / POLICY)
    return float(play(checkpoint.policy, catalogue_task(checkpoint.card["task_id"]), seeds).mean())


def fresh_seeds(cards: Sequence[dict[str, Any]], task: str) -> range:
    """Return the first `EPISODES` validation seeds of a task after those that its runs were validated on.

    Raises `ValueError` where the task has not so many left.
    """
    first = max(card["validation_seeds"][1] for card in cards)
    stop = catalogue_task(task).seeds.validation.stop
    if first + EPISODES > stop:
        raise ValueError(f"{task}: must have {EPISODES} validation seeds from {first} on, and ends at {stop - 1}")
    return range(first, first + EPISODES)


def ship(runs: list[Path], weights: Path, measure: Callable[[Path, Sequence[int]], float] = mean_reward) -> list[str]:
    """Copy runs below `weights` and choose each task's best by what `measure` says; return a line per task.

    Raises `ValueError`, and has copied nothing, for runs that cannot be shipped, or not together, and `WeightsMismatchError` for
    policies that do not fit this installation.
    """
    for run in runs:
        if missing := [name for name in _FILES if not (run / name).is_file()]:
            raise ValueError(f"{run} must be a finished run, and has no {', '.join(missing)}")
    cards = {run: card_of(run) for run in runs}
    tasks: dict[str, list[Path]] = {}
    for run, card in cards.items():
        tasks.setdefault(card["task_id"], []).append(run)
    chosen = {}
    for task, some in sorted(tasks.items()):
        catalogue_task(task)
        there = {path.parent.name: path.parent for path in (weights / task / "seeds").glob(f"*/{CARD}")}
        candidates = there | {str(cards[run]["seed"]): run for run in some}
        for other in [*some, *candidates.values()]:
            if differences := unlike(cards[some[0]], card_of(other)):
                raise ValueError(f"{other} and {some[0]} of {task} differ in {', '.join(differences)}")
        seeds = fresh_seeds([card_of(run) for run in candidates.values()], task)
        values = {seed: measure(run, seeds) for seed, run in sorted(candidates.items())}
        best = max(values, key=values.__getitem__)
        shown = ", ".join(f"{value:.4f}" for value in values.values())
        line = f"{task}: seed {best} of {len(values)} ({shown} on validation seeds {seeds[0]}..{seeds[-1]})"
        chosen[task] = best, line
    for run, card in cards.items():
        _copy(run, weights / card["task_id"] / "seeds" / str(card["seed"]), _FILES)
    for task, (best, _) in chosen.items():
        _copy(weights / task / "seeds" / best, weights / task, _FILES[:2])
    return [line for _, line in chosen.values()]


def _copy(folder: Path, to: Path, names: Sequence[str]) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(folder / name, to / name)


def main() -> int:
    """Parse, ship, print."""
    parser = argparse.ArgumentParser(
        prog="python scripts/ship_weights.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders that llmserve train wrote")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder to ship to")
    options = parser.parse_args()
    try:
        lines = ship(options.runs, options.weights)
    except (ValueError, WeightsMismatchError) as error:
        parser.error(str(error))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
