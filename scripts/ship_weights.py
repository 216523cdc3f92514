"""Puts trained policies where they are shipped from: `weights/<task>/seeds/<seed>`, and the best one in `weights/<task>`.

    python scripts/ship_weights.py runs/bursty_workload/seed0 runs/bursty_workload/seed1

A run's card says which task and seed it is. The best among all that are shipped for the task is the one with the highest mean
reward on 200 validation seeds that no run was validated on: what a run says of itself is the best of many looks at the same few
seeds. Refused are runs that were not finished, of a task that is not built in, of different
configurations, or of another version of the task.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from llmserve_agents.checkpoint import CARD, POLICY, read
from llmserve_agents.learned import play
from llmserve_sim.tasks import load_task
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
    """Return in what two cards differ that only their seeds should tell apart."""
    settings = [{**card["config"], "seed": 0} for card in (one, other)]
    return [name for name in _SHARED if one.get(name) != other.get(name)] + [
        f"config.{name}" for name in settings[0] if settings[0][name] != settings[1].get(name)
    ]


def mean_reward(run: Path, seeds: Sequence[int]) -> float:
    """Return the mean reward per window of a run's policy on some seeds of its task."""
    checkpoint = read(run / POLICY)
    return float(play(checkpoint.policy, load_task(checkpoint.card["task_id"]), seeds).mean())


def fresh_seeds(cards: Sequence[dict[str, Any]], task: str) -> range:
    """Return the first `EPISODES` validation seeds of a task after those that its runs were validated on."""
    first = max(card["validation_seeds"][1] for card in cards)
    return range(first, min(first + EPISODES, load_task(task).seeds.validation.stop))


def ship(runs: list[Path], weights: Path, measure: Callable[[Path, Sequence[int]], float] = mean_reward) -> list[str]:
    """Copy runs below `weights` and choose each task's best by what `measure` says; return a line per task.

    Raises `ValueError`, and has copied nothing, for runs that cannot be shipped, or not together.
    """
    for run in runs:
        if missing := [name for name in _FILES if not (run / name).is_file()]:
            raise ValueError(f"{run} must be a finished run, and has no {', '.join(missing)}")
    cards = {run: card_of(run) for run in runs}
    tasks: dict[str, list[Path]] = {}
    for run, card in cards.items():
        tasks.setdefault(card["task_id"], []).append(run)
    for task, some in tasks.items():
        catalogue_task(task)
        replaced = {str(cards[run]["seed"]) for run in some}
        there = {path.parent for path in (weights / task / "seeds").glob(f"*/{CARD}")}
        for other in [*some[1:], *sorted(folder for folder in there if folder.name not in replaced)]:
            if differences := unlike(cards[some[0]], card_of(other)):
                raise ValueError(f"{other} and {some[0]} of {task} differ in {', '.join(differences)}")
    return [
        _ship(task, {str(cards[run]["seed"]): run for run in some}, weights / task, measure)
        for task, some in sorted(tasks.items())
    ]


def _ship(task: str, runs: dict[str, Path], home: Path, measure: Callable[[Path, Sequence[int]], float]) -> str:
    for seed, run in runs.items():
        to = home / "seeds" / seed
        to.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            shutil.copyfile(run / name, to / name)
    folders = sorted(path.parent for path in home.glob(f"seeds/*/{CARD}"))
    seeds = fresh_seeds([card_of(folder) for folder in folders], task)
    values = {folder: measure(folder, seeds) for folder in folders}
    best = max(folders, key=values.__getitem__)
    for name in _FILES[:2]:
        shutil.copyfile(best / name, home / name)
    shown = ", ".join(f"{values[folder]:.4f}" for folder in folders)
    return f"{task}: seed {best.name} of {len(folders)} ({shown} on validation seeds {seeds[0]}..{seeds[-1]})"


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
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
