"""The reference agents of LLMServeEnv: policies that act on the simulator here or on a server anywhere, and their baselines.

Start reading at `policy.py` (the protocol and the agents by name), then `heuristic.py`, `llm.py` and `baseline.py`. This
module only names things and loads them when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmserve_agents.__about__ import __version__

if TYPE_CHECKING:
    from llmserve_agents.environment import Environment, InProcess, Remote
    from llmserve_agents.errors import AgentError, EndpointError, MissingExtraError, MissingKeyError, RequestCapError
    from llmserve_agents.evaluation.baseline import LLMOptions, run_suite
    from llmserve_agents.evaluation.baseline_report import BaselineReport
    from llmserve_agents.llm.agent import LLMUsage, OpenAIAgent
    from llmserve_agents.llm.endpoint import ChatEndpoint, Patience
    from llmserve_agents.policy import AGENTS, Policy, RandomPolicy, StaticPolicy, make_agent
    from llmserve_agents.rules.heuristic import HeuristicPolicy, Thresholds

__all__ = [
    "AGENTS",
    "AgentError",
    "BaselineReport",
    "ChatEndpoint",
    "EndpointError",
    "Environment",
    "HeuristicPolicy",
    "InProcess",
    "LLMOptions",
    "LLMUsage",
    "MissingExtraError",
    "MissingKeyError",
    "OpenAIAgent",
    "Patience",
    "Policy",
    "RandomPolicy",
    "Remote",
    "RequestCapError",
    "StaticPolicy",
    "Thresholds",
    "__version__",
    "make_agent",
    "run_suite",
]

_HOME = {
    "AGENTS": "policy",
    "AgentError": "errors",
    "BaselineReport": "report",
    "ChatEndpoint": "endpoint",
    "EndpointError": "errors",
    "Environment": "environment",
    "HeuristicPolicy": "heuristic",
    "InProcess": "environment",
    "LLMOptions": "baseline",
    "LLMUsage": "llm",
    "MissingExtraError": "errors",
    "MissingKeyError": "errors",
    "OpenAIAgent": "llm",
    "Patience": "endpoint",
    "Policy": "policy",
    "RandomPolicy": "policy",
    "Remote": "environment",
    "RequestCapError": "errors",
    "StaticPolicy": "policy",
    "Thresholds": "heuristic",
    "make_agent": "policy",
    "run_suite": "baseline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
