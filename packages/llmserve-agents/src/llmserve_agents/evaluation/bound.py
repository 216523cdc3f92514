"""The clairvoyant search as a participant of an evaluation: searches plans for episodes, then plays and grades them.

The search starts from the actions of the other agents in the same episode and from the best fixed configuration. So in
every episode it is at least as good as each of them, and better agents make the bound better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from llmserve_agents.clairvoyant import Budget, clairvoyant, nearest_indices
from llmserve_agents.evaluation.episodes import score_episode
from llmserve_agents.evaluation.report import EpisodeScore
from llmserve_agents.policy import run_episode
from llmserve_sim.env import ServingEnv
from llmserve_sim.grid import from_indices
from llmserve_sim.policies import StaticPolicy
from llmserve_sim.references import load_references
from llmserve_sim.schema import ACTION_FIELDS, ServeAction, ServeObservation, made
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.tasks import Task

    Ints = NDArray[np.int64]

__all__ = ["ActionRows", "BoundJob", "pack_actions", "search"]

ActionRows: TypeAlias = tuple[tuple[int | float | str | bool, ...], ...]
"""An agent's actions in an episode: the six values of each window's action."""
_KNOBS: Final = tuple(ACTION_FIELDS)


@dataclass(frozen=True, slots=True)
class BoundJob:
    """Some episodes of a task to search."""

    label: str
    task_id: str
    seeds: tuple[int, ...]
    actions: tuple[tuple[tuple[ActionRows, float], ...], ...]
    """By seed: each agent's actions and mean reward per window, the same number of agents for every seed."""
    budget: Budget | None = None


def pack_actions(actions: Sequence[ServeAction]) -> ActionRows:
    """Return actions in a form that is cheap to send to another process."""
    return tuple(tuple(getattr(action, knob) for knob in _KNOBS) for action in actions)


def search(job: BoundJob) -> list[EpisodeScore]:
    """Search plans for the job's episodes, play them, and return their scores, graded as any agent's."""
    task = catalogue_task(job.task_id)
    fixed = nearest_indices([_fixed(task)])
    fixed_plans = np.tile(fixed, (len(job.seeds), task.windows, 1))
    starts = [(fixed_plans, np.full(len(job.seeds), -np.inf))]
    for agent in range(len(job.actions[0])):
        plans = np.stack([nearest_indices(_unpack_actions(by_seed[agent][0])) for by_seed in job.actions])
        starts.append((plans, np.array([by_seed[agent][1] for by_seed in job.actions])))
    found = clairvoyant(task, job.seeds, starts, job.budget)
    env = ServingEnv(task)
    results = []
    for seed, plan, by_seed in zip(job.seeds, found.plans, job.actions, strict=True):
        run_episode(env, _Plan([from_indices(row) for row in plan.tolist()]), seed)
        best = max(by_seed, key=lambda one: one[1], default=None)
        # An agent whose actions lie between the grid's points may have earned more than the search found on the grid.
        if best is not None and best[1] > env.state().total_reward / env.episode_length:
            run_episode(env, _Plan(_unpack_actions(best[0])), seed)
        results.append(score_episode(env.episode_log(), job.label, None))
    return results


class _Plan:
    """Takes actions that are known in advance, one per window."""

    def __init__(self, actions: Sequence[ServeAction]) -> None:
        self._actions = actions

    def reset(self, task_id: str, seed: int) -> None:
        """Do nothing: the plan has no state."""

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the window's action."""
        return self._actions[observation.step_index]


def _unpack_actions(actions: ActionRows) -> list[ServeAction]:
    return [made(ServeAction, dict(zip(_KNOBS, values, strict=True))) for values in actions]


def _fixed(task: Task) -> ServeAction:
    """Return the best fixed configuration if the task has references, else the default one."""
    references = load_references(task.id, task.digest)
    return StaticPolicy().action if references is None else references.best_static_action
