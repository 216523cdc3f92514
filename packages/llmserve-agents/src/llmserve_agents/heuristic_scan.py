"""Chooses the heuristic's thresholds as an engineer would: one at a time, on training seeds, a few values each.

    python -m llmserve_agents.heuristic_scan [--seeds N] [--passes N]

From the thresholds in force, each is tried at every value of `CANDIDATES` and kept where the mean reward per window over
the three validator tasks is best. The result is printed, with its mean on validation seeds; nothing is written, and test
seeds are never touched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from llmserve_agents.heuristic import HeuristicPolicy, Thresholds
from llmserve_sim.env import ServingEnv
from llmserve_sim.policies import Policy
from llmserve_sim.tasks import list_tasks
from llmserve_sim.tasks.model import SeedRange

__all__ = ["CANDIDATES", "main", "mean_rewards", "scan"]

CANDIDATES: Final[Mapping[str, Sequence[float]]] = {
    "cap_start": (24, 32, 48, 64, 96),
    "cap_low": (4, 8, 16, 32),
    "grow": (1.25, 1.5, 2.0),
    "shrink": (0.5, 0.75, 0.9),
    "queue_high": (0, 4, 16),
    "itl_quick_ms": (12.0, 15.0, 18.0, 22.0),
    "itl_slow_ms": (15.0, 18.0, 20.0, 25.0),
    "slo_slips": (0.0, 0.7, 0.8, 0.9, 0.95),
    "preemptions_high": (0, 4, 16, 1000),
    "kv_start": (0.3, 0.4, 0.6),
    "spare_gb": (0.0, 1.0, 3.0),
    "kv_reserve": (1.5, 2.0, 3.0, 4.0),
    "kv_step": (0.02, 0.05, 0.1, 0.15),
    "demand_calm_tps": (0.0, 500.0, 2000.0, 4000.0),
    "acceptance_shallow": (0.35, 0.4, 0.45, 0.5),
    "acceptance_deep": (0.65, 0.7, 0.75, 0.8, 0.85),
    "depth_shallow": (1, 2, 3),
    "depth_deep": (3, 4, 5),
    "few_requests": (0, 16, 32),
    "probe_windows": (3, 6, 10, 15),
    "depth_probe": (1, 2),
}
"""Values that a person would think of, in the order in which they are tried."""


def mean_rewards(policy: Policy, tasks: Sequence[str], seeds: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the mean reward per window of `policy` by task."""
    env = ServingEnv()
    found = {}
    for task in tasks:
        total = 0.0
        for seed in seeds[task]:
            observation = env.reset(seed, task)
            policy.reset(task, seed)
            while not observation.done:
                observation = env.step(policy.act(observation))
            total += env.state().total_reward / env.episode_length
        found[task] = total / len(seeds[task])
    return found


def scan(tasks: Sequence[str], seeds: Mapping[str, Sequence[int]], *, passes: int = 2) -> Thresholds:
    """Return the best thresholds found by coordinate sweeps over `CANDIDATES`; prints each that changes."""

    def value(limits: Thresholds) -> float:
        means = mean_rewards(HeuristicPolicy(limits), tasks, seeds)
        return sum(means.values()) / len(means)

    best = Thresholds()
    top = value(best)
    for _ in range(passes):
        before = best
        for name, options in CANDIDATES.items():
            for option in options:
                if option == getattr(best, name):
                    continue
                change: dict[str, Any] = {name: option}
                trial = replace(best, **change)
                reached = value(trial)
                if reached > top:
                    best, top = trial, reached
                    sys.stdout.write(f"{name} = {option:g}: {reached:.4f}\n")
                    sys.stdout.flush()
        if best == before:
            break
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scan and print what it found."""
    parser = argparse.ArgumentParser(prog="python -m llmserve_agents.heuristic_scan", description=__doc__)
    parser.add_argument("--seeds", type=int, default=16, help="training seeds per task (16)")
    parser.add_argument("--passes", type=int, default=2, help="sweeps over all thresholds (2)")
    options = parser.parse_args(arguments)
    tasks = {task.id: task for task in list_tasks(extended=False)}
    train = {name: _first(task.seeds.train, options.seeds) for name, task in tasks.items()}
    best = scan(list(tasks), train, passes=options.passes)
    sys.stdout.write(f"{best}\n")
    held_out = {name: _first(task.seeds.validation, 32) for name, task in tasks.items()}
    for name, limits in (("in force", Thresholds()), ("found", best)):
        means = mean_rewards(HeuristicPolicy(limits), list(tasks), held_out)
        row = ", ".join(f"{task} {mean:.4f}" for task, mean in means.items())
        sys.stdout.write(f"{name}, on 32 validation seeds: {row}\n")
    return 0


def _first(seeds: SeedRange, count: int) -> list[int]:
    return list(range(seeds.start, seeds.start + min(count, len(seeds))))


if __name__ == "__main__":
    sys.exit(main())
