"""The one protocol of all agents, and the agents that can be made by name.

A policy has `reset(task_id, seed)` and `act(observation) -> ServeAction`. It sees observations only, so the same object
drives the simulator in this process and a server far away. A policy that looks ahead is given the running environment as
well (`Attachable`), and therefore runs in its process only. Classes that need weights, searches or libraries are imported
when they are first made; agents that need more than a name (a model's endpoint) have modules of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from llmserve_agents.rules.heuristic import HeuristicPolicy
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.policies import Policy, RandomPolicy, StaticPolicy, ThresholdPolicy
from llmserve_sim.references import load_references
from llmserve_sim.schema import ServeAction, ServeObservation
from llmserve_sim.tasks.registry import catalogue_task

__all__ = [
    "AGENTS",
    "FORKING",
    "Attachable",
    "BestStaticPolicy",
    "HeuristicPolicy",
    "Policy",
    "RandomPolicy",
    "StaticPolicy",
    "ThresholdPolicy",
    "make_agent",
]


@runtime_checkable
class Attachable(Policy, Protocol):
    """A policy that simulates ahead: it is given the environment after the environment's reset, and before `act`."""

    def attach(self, env: ServingEnv) -> None:
        """Look ahead from `env` until the next reset; what is done to forks of it does not change it."""
        ...


class BestStaticPolicy:
    """The best fixed configuration of a task, as its committed references have it."""

    def __init__(self) -> None:
        self._action: ServeAction | None = None

    def reset(self, task_id: str, seed: int) -> None:
        """Read the task's references; raises `InvalidInputError` for a task without."""
        found = load_references(task_id, catalogue_task(task_id).digest)
        if found is None:
            raise InvalidInputError(
                "agent",
                f"best-static needs references of {task_id} as it is now: python -m llmserve_agents.references {task_id}",
            )
        self._action = found.best_static_action

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return that configuration."""
        if self._action is None:
            raise InvalidInputError("agent", "best-static must be reset before it acts")
        return self._action


@dataclass(frozen=True, slots=True)
class _Late:
    """A class that is imported when it is first made."""

    module: str
    name: str

    def __call__(self) -> Policy:
        made: Policy = self._found()()
        return made

    def _found(self) -> Any:
        return getattr(import_module(f"llmserve_agents.{self.module}"), self.name)


@dataclass(frozen=True, slots=True)
class _LateWithWeights(_Late):
    """The same for a class that loads what was trained, from the shipped weights or from a folder that is named."""

    def from_folder(self, folder: Path) -> Policy:
        """Return the agent with the weights in `folder`."""
        made: Policy = self._found().from_folder(folder)
        return made


AGENTS: Final[dict[str, Callable[[], Policy]]] = {
    "random": RandomPolicy,
    "static": StaticPolicy,
    "threshold": ThresholdPolicy,
    "best-static": BestStaticPolicy,
    "heuristic": HeuristicPolicy,
    "tuned-heuristic": _LateWithWeights("rules.tuned", "TunedHeuristicPolicy"),
    "ppo": _LateWithWeights("learning.agent", "PPOPolicy"),
}
"""Agents by the name that commands, the page and reports use. All of them act on observations alone."""

FORKING: Final[dict[str, Callable[[], Policy]]] = {"planner": _Late("planner", "PlannerPolicy")}
"""Agents that need the environment itself (`Attachable`), by name: they run in its process only."""


def make_agent(name: str) -> Policy:
    """Return a new agent; raises `InvalidInputError` for a name that is not in `AGENTS`."""
    try:
        make = AGENTS[name]
    except KeyError:
        known = "must be one of " + ", ".join(AGENTS)
        if name in FORKING:
            known += f" ({name} simulates ahead, and runs only beside the simulator: llmserve evaluate)"
        raise InvalidInputError("agent", known, got=name) from None
    return make()
