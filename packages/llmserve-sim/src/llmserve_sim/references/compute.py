"""Computes provisional references of the built-in tasks and writes them beside this module.

    python -m llmserve_sim.references.compute [TASK ...]

Random policy; best fixed configuration, found by coordinate sweeps over the action grid on training seeds; clairvoyant,
a greedy search per episode on forks of the true future. "Provisional": a larger search will replace them, and the
clairvoyant value is a lower bound of the optimum. The simulator itself only reads the files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from llmserve_sim.__about__ import __version__
from llmserve_sim.env import ServingEnv
from llmserve_sim.grid import GRID_SIZES, from_indices, to_indices
from llmserve_sim.policies import Policy, RandomPolicy, StaticPolicy, ThresholdPolicy
from llmserve_sim.references import write_references
from llmserve_sim.schema import ReferenceScores, ServeAction
from llmserve_sim.tasks import list_tasks

__all__ = ["best_static", "compute", "greedy", "main", "mean_reward"]

REFERENCE_SEEDS: Final = 12
"""Episodes that every mean is over: the first of the task's reference range."""
SEARCH_SEEDS: Final = 8
"""Training episodes that a fixed configuration is judged on during the search."""
HORIZON_WINDOWS: Final = 8
"""How far the greedy search looks ahead: longer than a tier swap takes to pay."""
HOLDS_WINDOWS: Final = (2, 6)
"""How long a change is held before the plan resumes."""
STARTS: Final = tuple(
    ServeAction(batch_cap=128, kv_budget_fraction=0.7, quantization_tier=tier, priority_routing=True)
    for tier in ("FP16", "INT8", "INT4")
)


def mean_reward(env: ServingEnv, policy: Policy, seeds: list[int]) -> float:
    """Return the mean reward per window of a policy over whole episodes."""
    total = 0.0
    for seed in seeds:
        observation = env.reset(seed)
        policy.reset(env.task.id, seed)
        while not observation.done:
            observation = env.step(policy.act(observation))
        total += env.state().total_reward
    return total / (len(seeds) * env.episode_length)


def best_static(env: ServingEnv, seeds: list[int]) -> ServeAction:
    """Return the best fixed configuration found: coordinate sweeps over the grid from one start per tier."""
    found: dict[tuple[int, ...], float] = {}

    def value(indices: tuple[int, ...]) -> float:
        if indices not in found:
            found[indices] = _static_value(env, from_indices(indices), seeds)
        return found[indices]

    for start in STARTS:
        here = to_indices(start)
        while True:
            before = here
            for knob in range(len(GRID_SIZES)):
                options: list[tuple[int, ...]] = _neighbours(here, knob, env)
                here = max(options, key=value)
            if here == before:
                break
    winner: tuple[int, ...] = max(found, key=lambda indices: found[indices])
    return from_indices(winner)


def greedy(env: ServingEnv, seed: int, start: ServeAction) -> float:
    """Return the mean reward of an episode whose plan is improved window by window, knowing its future.

    The plan begins as `start` throughout. In each window every change of one knob is tried on a fork, held for each of
    `HOLDS_WINDOWS` and then followed by the plan; the best over `HORIZON_WINDOWS` becomes the plan.
    Never less than what `start` earns.
    """
    env.start(seed)
    length = env.episode_length
    plan = [start] * length
    total = 0.0
    for window in range(length):
        rest = plan[window : window + HORIZON_WINDOWS]
        here = to_indices(plan[window])
        moves = [move for knob in range(len(GRID_SIZES)) for move in _neighbours(here, knob, env)[1:]]
        options = [rest] + [
            [from_indices(move)] * hold + plan[window + hold : window + HORIZON_WINDOWS]
            for move in moves
            for hold in HOLDS_WINDOWS
        ]
        best = max(options, key=lambda option: _value_ahead(env, option))
        plan[window : window + HORIZON_WINDOWS] = best[: length - window]
        total += env.advance(plan[window]).reward
    return max(total / length, _static_value(env, start, [seed]))


def compute(task_id: str) -> ReferenceScores:
    """Return provisional references of a built-in task."""
    env = ServingEnv(task_id)
    first, train = env.task.seeds.reference.start, env.task.seeds.train.start
    seeds = list(range(first, first + REFERENCE_SEEDS))
    fixed = best_static(env, list(range(train, train + SEARCH_SEEDS)))
    env.start(first)
    digest = env.state().task_digest
    return ReferenceScores(
        random=mean_reward(env, RandomPolicy(), seeds),
        best_static=mean_reward(env, StaticPolicy(fixed), seeds),
        clairvoyant=fmean(greedy(env, seed, fixed) for seed in seeds),
        heuristic=mean_reward(env, ThresholdPolicy(), seeds),
        provisional=True,
        simulator_version=__version__,
        task_digest=digest,
        seeds=seeds,
        budget=(
            f"best_static: coordinate sweeps over the grid from {len(STARTS)} starts on {SEARCH_SEEDS} training seeds; "
            f"clairvoyant: greedy single-knob search on forks, held {HOLDS_WINDOWS} windows, horizon {HORIZON_WINDOWS}"
        ),
        command=f"python -m llmserve_sim.references.compute {task_id}",
        best_static_action=fixed,
    )


def main(arguments: Sequence[str] = ()) -> int:
    """Compute and write the references of the named tasks, or of all built-in ones; returns the exit code."""
    known = [task.id for task in list_tasks()]
    parser = argparse.ArgumentParser(prog="python -m llmserve_sim.references.compute", description=__doc__)
    parser.add_argument("task", nargs="*", help=f"tasks to compute, all by default: {', '.join(known)}")
    tasks = parser.parse_args(arguments).task
    if unknown := [task for task in tasks if task not in known]:
        parser.error(f"task: must be of {', '.join(known)}, got {', '.join(unknown)}")
    for task_id in tasks or known:
        found = compute(task_id)
        path = write_references(task_id, found)
        line = f"random {found.random:.4f}, best static {found.best_static:.4f}, clairvoyant {found.clairvoyant:.4f}"
        sys.stdout.write(f"{path.name}: {line}\n")
    return 0


def _static_value(env: ServingEnv, action: ServeAction, seeds: list[int]) -> float:
    total = 0.0
    for seed in seeds:
        env.start(seed)
        total += sum(env.advance(action).reward for _ in range(env.episode_length))
    return total / (len(seeds) * env.episode_length)


def _value_ahead(env: ServingEnv, actions: list[ServeAction]) -> float:
    fork = env.fork()
    total = 0.0
    for action in actions:
        outcome = fork.advance(action)
        total += outcome.reward
        if outcome.done:
            break
    return total


def _neighbours(here: tuple[int, ...], knob: int, env: ServingEnv) -> list[tuple[int, ...]]:
    """Every value of one knob, the present one first; a split only where the deployment can."""
    values = [here[knob], *(i for i in range(GRID_SIZES[knob]) if i != here[knob])]
    options = [(*here[:knob], i, *here[knob + 1 :]) for i in values]
    return options if env.can_split else [option for option in options if not from_indices(option).prefill_decode_split]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
