"""`BaselineReport`: the results of a baseline suite. Types only; a deterministic suite always gives the same bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmserve_agents.evaluation.report import GradedEpisode, Report
from llmserve_agents.llm.agent import LLMUsage

__all__ = ["AgentSummary", "BaselineReport", "EpisodeResult", "Mode", "Runtime"]

Mode = Literal["deterministic", "openai"]
"""deterministic: agents that need no model; openai: a model decides."""
Runtime = Literal["in-process", "http"]
"""in-process: the simulator in this process; http: a running server."""


class EpisodeResult(GradedEpisode):
    """One agent in one episode, as it was graded."""

    invalid_actions: int = Field(default=0, description="Windows in which the agent's answer was no action.")
    usage: LLMUsage | None = Field(
        default=None, description="Requests, tokens and cost; null for agents without a model."
    )


class AgentSummary(Report):
    """One agent over the suite. Means are over episodes; a mean score is null where some episode has none."""

    agent: str
    episodes: int
    mean_score: float | None
    mean_reward: float
    task_scores: dict[str, float | None] = Field(description="Mean score by task.")
    task_rewards: dict[str, float] = Field(description="Mean reward per window by task.")
    invalid_actions: int = 0
    failed_requests: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = Field(default=None, description="Null where any episode's is.")


class BaselineReport(Report):
    """A suite: every episode, then each agent's means. `agent` is the baseline; others stand for comparison."""

    mode: Mode
    runtime: Runtime
    base_url: str | None = Field(description="The server, with runtime http; without user and password.")
    agent: str
    model: str | None = Field(description="The model that decided, with mode openai.")
    tasks: list[str]
    score: float | None = Field(description="Mean score of `agent` over the suite.")
    agents: list[AgentSummary]
    episodes: list[EpisodeResult]
    verified: bool | None = Field(description="Whether every episode replayed; null where none is possible.")
    provisional_references: bool | None = Field(
        description="Whether some score is against references that a larger search will replace; null without scores."
    )
    versions: dict[str, str]
    prices: str | None = Field(description="Date and source of the prices, with mode openai.")
    command: str = Field(description="Command that gives this report.")
