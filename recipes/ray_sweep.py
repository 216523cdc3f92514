"""A sweep over training seeds and tasks, on one machine or on a Ray cluster of many.

    python recipes/ray_sweep.py --task bursty_workload --task static_workload --seeds 5 --steps 2000000
    python recipes/ray_sweep.py --task bursty_workload --seeds 20 --steps 2000000 --address auto

Needs llmserve-agents[cli,fast,ray,train], on every machine of a cluster. A run takes one processor and one thread. The
machines need no shared folder: each run returns its policy, card and learning curve, which are written below
`--output`. Call an interrupted sweep again to go on: a run is not repeated if its card names the same configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from llmserve_agents.errors import WeightsMismatchError
from llmserve_agents.executors import EXECUTORS, Executor, RayExecutor, make_executor
from llmserve_agents.learning.config import PPOConfig, with_current_names
from llmserve_agents.learning.features import features_hash
from llmserve_agents.learning.training import compare, run
from llmserve_agents.weights import CARD, POLICY, check_card
from llmserve_sim.commandline.terminal import progress_bar
from llmserve_sim.errors import LLMServeError
from llmserve_sim.tasks import list_tasks, load_task

SUMMARY = "sweep.json"
"""File beside a card: rewards on validation seeds, of the run's policy and of what it should beat, and where it ran."""


@dataclass(frozen=True)
class Trained:
    """A finished run: its files by name."""

    config: PPOConfig
    files: dict[str, bytes]


def train(config: PPOConfig) -> Trained:
    """Train in a temporary folder, compare on validation seeds, and return the files to keep."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = run(config, folder, tensorboard=False)
        found = asdict(compare(load_task(config.task), result))
        found |= {"seconds": time.monotonic() - start, "machine": platform.node(), "process": os.getpid()}
        (folder / SUMMARY).write_text(json.dumps(found) + "\n", encoding="utf-8")
        kept = [path for path in folder.iterdir() if path.suffix in {".json", ".png", ".safetensors"}]
        return Trained(config, {path.name: path.read_bytes() for path in kept})


def folder_of(config: PPOConfig, output: Path) -> Path:
    """Return the folder of a run."""
    return output / config.task / f"seed{config.seed}"


def is_done(config: PPOConfig, output: Path) -> bool:
    """Return whether the same run is there already, of this version of the simulator and the task."""
    folder = folder_of(config, output)
    if not all((folder / name).is_file() for name in (POLICY, CARD, SUMMARY)):
        return False
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    try:
        check_card(card, features_hash=features_hash())
    except WeightsMismatchError:
        return False
    return with_current_names(card["config"]) == asdict(config)


def keep(trained: Trained, output: Path) -> None:
    """Write a run's files; `SUMMARY` comes last, since it marks the run as done."""
    folder = folder_of(trained.config, output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    for name in sorted(trained.files, key=SUMMARY.__eq__):
        (folder / name).write_bytes(trained.files[name])


def show(configs: Sequence[PPOConfig], output: Path) -> None:
    """Print every run, and each task's mean and range over its seeds."""
    table = Table(box=None, pad_edge=False)
    for column in ("task", "seed", "mean reward", "best fixed", "random", "score", "minutes"):
        table.add_column(column, justify="left" if column == "task" else "right")
    by_task = defaultdict(list)
    for config in configs:
        found = json.loads((folder_of(config, output) / SUMMARY).read_text(encoding="utf-8"))
        by_task[config.task].append(found["policy"])
        cells = [
            "-" if found[name] is None else f"{found[name]:.4f}"
            for name in ("policy", "best_static", "random", "score")
        ]
        table.add_row(config.task, str(config.seed), *cells, f"{found['seconds'] / 60:.1f}")
    console = Console()
    console.print(table)
    for task, values in by_task.items():
        console.print(
            f"{task}: {np.mean(values):.4f} over {len(values)} seeds, from {min(values):.4f} to {max(values):.4f}, "
            "on validation seeds",
            soft_wrap=True,
        )
    console.print(f"policies, cards and curves: {output}", soft_wrap=True)


def executor_of(options: argparse.Namespace) -> Executor:
    """Return what runs the trainings."""
    if options.executor == "ray":
        return RayExecutor(options.workers, address=options.address)
    return make_executor(options.executor, options.workers)


def main() -> None:
    """Parse, train the runs that are missing, show all."""
    tasks = [task.id for task in list_tasks()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--task", action="append", choices=tasks, help="repeat for several (all three of the benchmark)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="training seeds, from --first-seed on (5)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2_000_000, help="windows of each run (2000000)")
    parser.add_argument("--executor", default="ray", choices=EXECUTORS, help="where runs take place (ray)")
    parser.add_argument("--workers", type=int, help="runs at a time where no cluster says (as many as processors)")
    parser.add_argument(
        "--address", help="of a Ray cluster, auto for this machine's; by default $RAY_ADDRESS, else a local one"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/sweep"), help="folder of the runs (runs/sweep)")
    options = parser.parse_args()

    if options.seeds < 1:
        parser.error(f"argument --seeds: must be at least 1, got {options.seeds}")
    chosen = options.task or [task.id for task in list_tasks() if not task.extended]
    try:
        executor = executor_of(options)
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        configs = [PPOConfig(task=task, steps=options.steps, seed=seed) for task in chosen for seed in seeds]
        missing = [config for config in configs if not is_done(config, options.output)]
        print(
            f"{len(configs)} runs, of which {len(missing)} are to be trained, {executor.workers} at a time", flush=True
        )
        with progress_bar("runs") as advance:
            for done, trained in enumerate(executor.map(train, missing) if missing else (), 1):
                keep(trained, options.output)
                name = f"{trained.config.task}, seed {trained.config.seed}"
                advance(name, done, len(missing))
                if not sys.stderr.isatty():
                    print(f"{name}: {done} of {len(missing)} done", flush=True)
    except LLMServeError as error:
        parser.error(str(error))
    show(configs, options.output)


if __name__ == "__main__":
    main()
