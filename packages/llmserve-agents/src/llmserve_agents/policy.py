"""The one protocol of all agents, and the agents that can be made by name.

A policy has `reset(task_id, seed)` and `act(observation) -> ServeAction`. It sees observations only, so the same object
drives the simulator in this process and a server far away. Agents that need more than a name (a model's endpoint, trained
weights) have modules of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llmserve_agents.heuristic import HeuristicPolicy
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.policies import Policy, RandomPolicy, StaticPolicy, ThresholdPolicy

__all__ = [
    "AGENTS",
    "HeuristicPolicy",
    "Policy",
    "RandomPolicy",
    "StaticPolicy",
    "ThresholdPolicy",
    "make_agent",
]

AGENTS: Final[dict[str, Callable[[], Policy]]] = {
    "random": RandomPolicy,
    "static": StaticPolicy,
    "threshold": ThresholdPolicy,
    "heuristic": HeuristicPolicy,
}
"""Agents by the name that commands, the page and reports use."""


def make_agent(name: str) -> Policy:
    """Return a new agent; raises `InvalidInputError` for a name that is not in `AGENTS`."""
    try:
        return AGENTS[name]()
    except KeyError:
        raise InvalidInputError("agent", "must be one of " + ", ".join(AGENTS), got=name) from None
