"""Chooses the heuristic's default thresholds: one at a time, from a few values each, on training seeds.

    python -m llmserve_agents.rules.scan [--task TASK ...] [--seeds N] [--passes N]

The scan starts from the default thresholds. It tries each threshold at every value of `CANDIDATES` and keeps the value
with the best mean reward per window over the tasks (by default the validators' three). It prints the result and its
mean on validation seeds. It writes nothing and never uses test seeds. All values of a threshold run in one batch, so a
pass takes about a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from llmserve_agents.rules.evaluate import evaluate_thresholds
from llmserve_agents.rules.thresholds import Thresholds
from llmserve_sim.tasks import Task, list_tasks
from llmserve_sim.tasks.model import SeedRange

__all__ = ["CANDIDATES", "main", "scan"]

CANDIDATES: Final[Mapping[str, Sequence[float]]] = {
    "cap_start": (24, 32, 48, 64, 96, 128),
    "cap_low": (4, 8, 16, 32),
    "grow": (1.0, 1.25, 1.5, 2.0),
    "shrink": (0.5, 0.75, 0.9, 1.0),
    "queue_high": (0, 4, 16, 64),
    "itl_quick_ms": (12.0, 15.0, 18.0, 22.0, 26.0),
    "itl_slow_ms": (15.0, 18.0, 20.0, 25.0, 30.0),
    "slo_slips": (0.0, 0.7, 0.8, 0.9, 0.95),
    "preemptions_high": (0, 4, 16, 200),
    "kv_start": (0.2, 0.3, 0.4, 0.5, 0.6),
    "spare_gb": (0.0, 1.0, 3.0, 6.0),
    "kv_high": (0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    "kv_low": (0.1, 0.2, 0.3, 0.4, 0.5),
    "kv_reserve": (1.25, 1.5, 2.0, 3.0, 4.0),
    "kv_step": (0.05, 0.1, 0.15, 0.2, 0.3, 1.0),
    "tier_tight": (0, 1, 2),
    "neighbour_high_gb": (35.0, 45.0, 50.0, 55.0, 60.0, 80.0),
    "neighbour_gap_gb": (4.0, 8.0, 12.0),
    "demand_calm_tps": (100.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0),
    "demand_hysteresis": (1.5, 2.0, 3.0),
    "demand_smoothing": (0.05, 0.1, 0.3),
    "acceptance_shallow": (0.35, 0.4, 0.45, 0.5, 0.55),
    "acceptance_deep": (0.65, 0.7, 0.75, 0.8, 0.85, 1.01),
    "depth_shallow": (1, 2, 3),
    "depth_deep": (3, 4, 5, 6),
    "few_requests": (0, 16, 32, 64),
    "many_requests": (32, 48, 64, 96, 128, 256, 1024),
    "probe_windows": (2, 3, 6, 10, 15),
    "depth_probe": (1, 2),
    "priority_share_high": (-0.1, 0.3, 0.4, 0.5, 0.6, 1.0),
    "split_high": (0.6, 0.7, 0.8, 0.9, 1.0),
    "split_low": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01),
}
"""The values that are tried, in this order."""
_VALIDATION_SEEDS: Final = 64
"""Number of validation seeds that the result is measured on."""


def scan(tasks: Sequence[Task], seeds: Mapping[str, Sequence[int]], *, passes: int = 2) -> Thresholds:
    """Return the best thresholds found by coordinate sweeps over `CANDIDATES`; print every change."""

    def values(many: Sequence[Thresholds]) -> Any:
        return np.mean([evaluate_thresholds(task, many, seeds[task.id]).mean(axis=1) for task in tasks], axis=0)

    best = Thresholds()
    top = float(values([best])[0])
    sys.stdout.write(f"in force: {top:.4f}\n")
    for _ in range(passes):
        before = best
        for name, options in CANDIDATES.items():
            changes: list[dict[str, Any]] = [{name: option} for option in options if option != getattr(best, name)]
            reached = values([replace(best, **change) for change in changes])
            found = int(reached.argmax())
            if reached[found] > top:
                best, top = replace(best, **changes[found]), float(reached[found])
                sys.stdout.write(f"{name} = {getattr(best, name):g}: {top:.4f}\n")
                sys.stdout.flush()
        if best == before:
            break
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scan and print its result."""
    parser = argparse.ArgumentParser(
        prog="python -m llmserve_agents.rules.scan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = {task.id: task for task in list_tasks()}
    parser.add_argument("--task", action="append", choices=list(known), help="a task; by default the validators' three")
    parser.add_argument("--seeds", type=int, default=24, help="training seeds per task (24)")
    parser.add_argument("--passes", type=int, default=2, help="sweeps over all thresholds (2)")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.passes < 1:
        parser.error("--seeds, --passes: must be at least 1")
    tasks = [known[name] for name in options.task] if options.task else list(list_tasks(extended=False))
    best = scan(tasks, {task.id: _first(task.seeds.train, options.seeds) for task in tasks}, passes=options.passes)
    sys.stdout.write(f"{best}\n")
    for task in list_tasks():
        found = evaluate_thresholds(task, [Thresholds(), best], _first(task.seeds.validation, _VALIDATION_SEEDS)).mean(
            axis=1
        )
        sys.stdout.write(
            f"{task.id}, on {_VALIDATION_SEEDS} validation seeds: in force {found[0]:.4f}, found {found[1]:.4f}\n"
        )
    return 0


def _first(seeds: SeedRange, count: int) -> list[int]:
    return list(range(seeds.start, seeds.start + min(count, len(seeds))))


if __name__ == "__main__":
    sys.exit(main())
