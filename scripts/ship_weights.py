"""Puts trained policies where they are shipped from: `weights/<task>/seeds/<seed>`, and the best one in `weights/<task>`.

    python scripts/ship_weights.py runs/bursty_workload/seed0 runs/bursty_workload/seed1

A run's card says which task and seed it is. The best is the one with the highest mean reward on validation seeds among all
that are shipped for the task. Refused are runs that were not finished, of a task that is not built in, of different
configurations, or of another version of the task.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from llmserve_agents.checkpoint import CARD, POLICY
from llmserve_sim.tasks.registry import catalogue_task

WEIGHTS: Final = Path(__file__).resolve().parents[1] / "weights"
_FILES: Final = (POLICY, CARD, "learning.json")
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


def ship(runs: list[Path], weights: Path) -> list[str]:
    """Copy runs below `weights` and choose each task's best; return a line per task.

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
        _ship(task, {str(cards[run]["seed"]): run for run in some}, weights / task)
        for task, some in sorted(tasks.items())
    ]


def _ship(task: str, runs: dict[str, Path], home: Path) -> str:
    for seed, run in runs.items():
        to = home / "seeds" / seed
        to.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            shutil.copyfile(run / name, to / name)
    values = {path.parent: card_of(path.parent)["validation_mean_reward"] for path in home.glob(f"seeds/*/{CARD}")}
    best = max(sorted(values), key=values.__getitem__)
    for name in _FILES[:2]:
        shutil.copyfile(best / name, home / name)
    shown = ", ".join(f"{values[folder]:.4f}" for folder in sorted(values))
    return f"{task}: seed {best.name} of {len(values)} ({shown})"


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
