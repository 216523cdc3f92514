"""The protocol of all agents, and the agents by name.

How to add an agent:

1. Write a class with `reset(task_id, seed)` and `act(observation) -> ServeAction`, in a module of its own: rules in
   `rules/`, trained agents in `learning/`, language models in `llm/`.
2. Add one line to `AGENTS` below: the class, or ``_LazyAgent("module:Class")`` if its module is slow to import or lies
   in a package that this module must not import (`learning`). From then on every command knows the name. If the class
   has a classmethod ``from_folder(folder)``, it is a ``_LazyAgentWithWeights``, and evaluations take ``name:FOLDER`` as
   well.
3. Add the name to the table in docs/agents.md and to `test_every_name_of_the_documentation_is_there`, then compare it:
   ``llmserve evaluate --agent NAME --agent heuristic --task all``.

An agent sees observations only, so the same object acts in the simulator in this process and on a server. A planner
also gets the running environment (`ModelBasedPolicy`); it can run only in the environment's process, and is in
`MODEL_BASED_AGENTS`. The `openai` agent needs an endpoint, not only a name: see `llm/agent.py`.
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
from llmserve_sim.policies import Policy, RandomPolicy, StaticPolicy, ThresholdPolicy, constrain
from llmserve_sim.references import load_references
from llmserve_sim.schema import ServeAction, ServeObservation
from llmserve_sim.tasks.registry import catalogue_task

__all__ = [
    "AGENTS",
    "MODEL_BASED_AGENTS",
    "BestStaticPolicy",
    "HeuristicPolicy",
    "ModelBasedPolicy",
    "Policy",
    "RandomPolicy",
    "StaticPolicy",
    "ThresholdPolicy",
    "make_agent",
    "run_episode",
]


@runtime_checkable
class ModelBasedPolicy(Policy, Protocol):
    """A policy that simulates ahead. It needs the environment itself, and must change only forks of it."""

    def attach(self, env: ServingEnv) -> None:
        """Plan on `env` until the next reset. Called after both resets and before the first `act`."""
        ...


class BestStaticPolicy:
    """Holds the best fixed configuration of the task, read from the task's committed references.

    On a deployment that cannot split prefill and decode it holds the same without the split.
    """

    def __init__(self) -> None:
        self._action: ServeAction | None = None

    def reset(self, task_id: str, seed: int) -> None:
        """Read the task's references; raises `InvalidInputError` for a task without any."""
        found = load_references(task_id, catalogue_task(task_id).digest)
        if found is None:
            raise InvalidInputError(
                "agent",
                f"best-static needs references of {task_id} as it is now: "
                f"python -m llmserve_agents.references {task_id}",
            )
        self._action = found.best_static_action

    def constrain(self, *, can_split: bool) -> None:
        """Hold the configuration without the split in this episode if the deployment cannot split."""
        if self._action is not None and not can_split:
            self._action = self._action.model_copy(update={"prefill_decode_split": False})

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return that configuration."""
        if self._action is None:
            raise InvalidInputError("agent", "best-static must be reset before it acts")
        return self._action


@dataclass(frozen=True, slots=True)
class _LazyAgent:
    """Imports an agent's class when the agent is made, not before."""

    entry_point: str
    """``module:Class``"""

    def __call__(self) -> Policy:
        agent: Policy = self._load()()
        return agent

    def _load(self) -> Any:
        module, _, name = self.entry_point.partition(":")
        return getattr(import_module(module), name)


@dataclass(frozen=True, slots=True)
class _LazyAgentWithWeights(_LazyAgent):
    """The same for a class that loads weights: the shipped ones, or those in a given folder."""

    def from_folder(self, folder: Path) -> Policy:
        """Return the agent with the weights in `folder`."""
        agent: Policy = self._load().from_folder(folder)
        return agent


AGENTS: Final[dict[str, Callable[[], Policy]]] = {
    "random": RandomPolicy,
    "static": StaticPolicy,
    "threshold": ThresholdPolicy,
    "best-static": BestStaticPolicy,
    "heuristic": HeuristicPolicy,
    "tuned-heuristic": _LazyAgentWithWeights("llmserve_agents.rules.tuned:TunedHeuristicPolicy"),
    "ppo": _LazyAgentWithWeights("llmserve_agents.learning.agent:PPOPolicy"),
}
"""Makers of the agents, by the name that commands, the page and reports use. These agents see observations only."""

MODEL_BASED_AGENTS: Final[dict[str, Callable[[], Policy]]] = {
    "planner": _LazyAgent("llmserve_agents.planner:PlannerPolicy"),
}
"""Makers of the agents that need the environment (`ModelBasedPolicy`). Servers do not offer these."""


def make_agent(name: str) -> Policy:
    """Return a new agent of `AGENTS`; raises `InvalidInputError` for any other name."""
    try:
        make = AGENTS[name]
    except KeyError:
        known = "must be one of " + ", ".join(AGENTS)
        if name in MODEL_BASED_AGENTS:
            known += f" ({name} simulates ahead, and runs only in the simulator's process: llmserve evaluate)"
        raise InvalidInputError("agent", known, got=name) from None
    return make()


def run_episode(env: ServingEnv, agent: Policy, seed: int) -> None:
    """Run one episode of the environment's task to its end; `env.episode_log()` then holds it."""
    observation = env.reset(seed)
    agent.reset(env.task.id, seed)
    constrain(agent, can_split=env.can_split)
    if isinstance(agent, ModelBasedPolicy):
        agent.attach(env)
    while not observation.done:
        observation = env.step(agent.act(observation))
