"""Computes the references of a task's score and writes them into the simulator's folder of references.

    python -m llmserve_agents.references [TASK ...]       (nox -s references)

The references are mean rewards per window over the task's reference seeds. Score 0 is the random policy, 0.5 the best
fixed configuration (found on training seeds, on the action grid and then between its points), 1 the clairvoyant search. The search starts from the actions of every
agent on those seeds, so no agent is above it there. It runs in two halves; the gain of the second half is printed and
stored. The means of the heuristic and the shipped PPO are stored as well, for comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_agents.clairvoyant import Budget, clairvoyant, nearest_indices
from llmserve_agents.errors import MissingWeightsError
from llmserve_agents.policy import HeuristicPolicy, Policy, RandomPolicy, StaticPolicy, make_agent, run_episode
from llmserve_agents.search import RefineBudget, best_static, refine_static
from llmserve_sim.__about__ import __version__
from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import score_of
from llmserve_sim.references import write_references
from llmserve_sim.schema import ReferenceScores, ServeAction
from llmserve_sim.tasks import Task, list_tasks, load_task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

__all__ = ["AgentRun", "Effort", "compute", "main", "run_agent"]

_LEARNED: Final = ("tuned-heuristic", "ppo")
"""Agents that take part if there are weights for the task."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is simulated for one task."""

    static_seeds: int = 32
    """Training episodes on which fixed configurations of the action grid are compared."""
    refine_seeds: int = 64
    """Training episodes on which fixed configurations between the grid's points are compared."""
    refine_episodes: int = 30_000
    """Most episodes that the search between the grid's points simulates."""
    reference_seeds: int = 60
    """Most episodes that a mean is over: the first seeds of the task's reference range."""
    budget: Budget = field(default_factory=lambda: Budget(passes=4))
    """Budget of the clairvoyant search, both halves together."""
    paired: bool = False
    """Whether episodes are scored by their difference to the best fixed configuration on the same seed."""


@dataclass(frozen=True, slots=True)
class AgentRun:
    """An agent's actions and values on some seeds."""

    actions: list[list[ServeAction]]
    values: Floats
    """float64[seeds] mean reward per window."""

    @property
    def plans(self) -> Ints:
        """int64[seeds, windows, 6]: the nearest points of the grid to the actions."""
        return np.stack([nearest_indices(row) for row in self.actions])


def run_agent(task: Task, seeds: Sequence[int], policy: Policy) -> AgentRun:
    """Run a policy for one episode per seed."""
    env = ServingEnv(task)
    actions, values = [], []
    for seed in seeds:
        run_episode(env, policy, seed)
        actions.append([step.action for step in env.episode_log().steps])
        values.append(env.state().total_reward / env.episode_length)
    return AgentRun(actions, np.array(values))


def compute(task: Task, effort: Effort | None = None, *, log: Callable[[str], object] = print) -> ReferenceScores:
    """Return the references of a built-in task. `log` receives lines of progress."""
    effort = Effort() if effort is None else effort
    train, reference = task.seeds.train, task.seeds.reference
    seeds = list(range(reference.start, reference.start + min(effort.reference_seeds, len(reference))))
    training = list(range(train.start, train.start + effort.static_seeds))
    on_grid, _ = best_static(task, training, log=log)
    refining = list(range(train.start, train.start + effort.refine_seeds))
    fixed = refine_static(task, refining, [on_grid], RefineBudget(effort.refine_episodes), log=log).action
    runs = {
        "random": run_agent(task, seeds, RandomPolicy()),
        "best-static": run_agent(task, seeds, StaticPolicy(fixed)),
        "heuristic": run_agent(task, seeds, HeuristicPolicy()),
    }
    for name in _LEARNED:
        try:
            runs[name] = run_agent(task, seeds, make_agent(name))
        except MissingWeightsError as error:
            log(f"{task.id}: without {name}: {error}")
    for name, done in runs.items():
        log(f"{task.id}: {name} {done.values.mean():.4f}")
    starts = [(done.plans, done.values) for name, done in runs.items() if name != "random"]
    half = replace(effort.budget, passes=max(1, effort.budget.passes // 2))
    smaller = clairvoyant(task, seeds, starts, half, progress=_every(20, task, log))
    log(f"{task.id}: clairvoyant with half the budget {smaller.values.mean():.4f}")
    found = clairvoyant(task, seeds, [(smaller.plans, smaller.values)], half, progress=_every(20, task, log))
    moved = found.values.mean() / smaller.values.mean() - 1.0
    log(f"{task.id}: clairvoyant {found.values.mean():.4f}, the second half of the budget moved it by {moved:.2%}")
    env = ServingEnv(task)
    env.start(seeds[0])
    means = {name: float(done.values.mean()) for name, done in runs.items()}
    return ReferenceScores(
        random=means["random"],
        best_static=means["best-static"],
        clairvoyant=float(found.values.mean()),
        heuristic=means["heuristic"],
        ppo=means.get("ppo"),
        provisional="ppo" not in means or effort != Effort(paired=effort.paired),
        simulator_version=__version__,
        task_digest=env.state().task_digest,
        seeds=seeds,
        budget=(
            f"best_static: coordinate sweeps from 6 starts, then sweeps over pairs of knobs, on {effort.static_seeds} "
            f"training seeds, then pattern search between the grid's points, {effort.refine_episodes} episodes on "
            f"{effort.refine_seeds} training seeds; clairvoyant: {effort.budget.passes} passes of single-knob changes on true forks, held "
            f"{effort.budget.holds} windows ({effort.budget.slow_holds} for tier and split), from what "
            f"{', '.join(name for name in runs if name != 'random')} did; its second half moved it by {moved:.2%}"
        ),
        command=(
            f"python -m llmserve_agents.references {task.id} --seeds {len(seeds)} --passes {effort.budget.passes} "
            f"--static-seeds {effort.static_seeds} --refine-seeds {effort.refine_seeds} "
            f"--refine-episodes {effort.refine_episodes}" + " --paired" * effort.paired
        ),
        best_static_action=fixed,
        paired=effort.paired,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute and write the references of the named tasks, by default of all built-in ones; return the exit code."""
    known = [task.id for task in list_tasks()]
    parser = argparse.ArgumentParser(
        prog="python -m llmserve_agents.references",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", nargs="*", help=f"tasks to compute, all by default: {', '.join(known)}")
    parser.add_argument("--seeds", type=int, default=Effort().reference_seeds, help="reference seeds, at most (60)")
    parser.add_argument("--passes", type=int, default=Effort().budget.passes, help="passes of the search (4)")
    parser.add_argument("--static-seeds", type=int, default=Effort().static_seeds, help="training seeds (32)")
    parser.add_argument("--refine-seeds", type=int, default=Effort().refine_seeds, help="the same, off the grid (64)")
    parser.add_argument(
        "--refine-episodes", type=int, default=Effort().refine_episodes, help="episodes simulated off the grid (30000)"
    )
    parser.add_argument("--paired", action="store_true", help="score episodes by their difference on the same seed")
    options = parser.parse_args(arguments)
    if unknown := [task for task in options.task if task not in known]:
        parser.error(f"task: must be of {', '.join(known)}, got {', '.join(unknown)}")
    if min(options.seeds, options.passes, options.static_seeds, options.refine_seeds) < 1:
        parser.error("--seeds, --passes, --static-seeds, --refine-seeds: must be at least 1")
    if options.refine_episodes < 2 * options.refine_seeds:
        parser.error("--refine-episodes: must be at least twice --refine-seeds")
    effort = Effort(
        static_seeds=options.static_seeds,
        refine_seeds=options.refine_seeds,
        refine_episodes=options.refine_episodes,
        reference_seeds=options.seeds,
        budget=Budget(passes=options.passes),
        paired=options.paired,
    )
    for task_id in options.task or known:
        found = compute(load_task(task_id), effort, log=_print)
        path = write_references(task_id, found)
        at = [score_of(x, found) for x in (found.heuristic, found.ppo) if x is not None]
        _print(f"{path.name}: random {found.random:.4f}, best static {found.best_static:.4f}, ")
        _print(f"  clairvoyant {found.clairvoyant:.4f}; scores: " + ", ".join(f"{score:.2f}" for score in at))
    return 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _every(step: int, task: Task, log: Callable[[str], object]) -> Callable[[int, int, float], object]:
    """Return a `progress` function that logs one window of `step`."""

    def progress(number: int, window: int, value: float) -> None:
        if (window + 1) % step == 0:
            log(f"{task.id}: pass {number + 1}, window {window + 1}, from {value:.4f}")

    return progress


if __name__ == "__main__":
    sys.exit(main())
