"""The reference agents of LLMServeEnv, which act on a local simulator or on a server, and their evaluation.

Start reading at `policy.py` (the protocol and the agents by name), then `rules/heuristic.py`, `learning/agent.py` and
`evaluation/runner.py`. This module only names things and loads them when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_agents.__about__ import __version__ as __version__
from llmserve_sim._lazy import attach

if TYPE_CHECKING:
    from llmserve_agents.environment import Environment as Environment
    from llmserve_agents.environment import InProcess as InProcess
    from llmserve_agents.environment import Remote as Remote
    from llmserve_agents.errors import AgentError as AgentError
    from llmserve_agents.errors import EndpointError as EndpointError
    from llmserve_agents.errors import MissingExtraError as MissingExtraError
    from llmserve_agents.errors import MissingKeyError as MissingKeyError
    from llmserve_agents.errors import RequestCapError as RequestCapError
    from llmserve_agents.evaluation.baseline import LLMOptions as LLMOptions
    from llmserve_agents.evaluation.baseline import run_suite as run_suite
    from llmserve_agents.evaluation.baseline_report import BaselineReport as BaselineReport
    from llmserve_agents.evaluation.roster import AgentSpec as AgentSpec
    from llmserve_agents.learning.agent import PPOPolicy as PPOPolicy
    from llmserve_agents.llm.agent import LLMUsage as LLMUsage
    from llmserve_agents.llm.agent import OpenAIAgent as OpenAIAgent
    from llmserve_agents.llm.endpoint import ChatEndpoint as ChatEndpoint
    from llmserve_agents.llm.endpoint import Patience as Patience
    from llmserve_agents.policy import AGENTS as AGENTS
    from llmserve_agents.policy import Policy as Policy
    from llmserve_agents.policy import RandomPolicy as RandomPolicy
    from llmserve_agents.policy import StaticPolicy as StaticPolicy
    from llmserve_agents.policy import make_agent as make_agent
    from llmserve_agents.rules.heuristic import HeuristicPolicy as HeuristicPolicy
    from llmserve_agents.rules.heuristic import Thresholds as Thresholds

    __all__: list[str]
else:
    __getattr__, __dir__, __all__ = attach(__name__)
