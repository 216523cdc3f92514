"""`BaselineReport`: what a suite of agents × tasks × seeds came to. Types only; deterministic suites give the same bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from llmserve_agents.llm.agent import LLMUsage

__all__ = ["AgentSummary", "BaselineReport", "EpisodeResult", "Mode", "Runtime"]

Mode = Literal["deterministic", "openai"]
"""deterministic: agents that need no model; openai: a model decides."""
Runtime = Literal["in-process", "http"]
"""in-process: the simulator in this process; http: a running server."""


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EpisodeResult(_Report):
    """One agent in one episode, as it was graded."""

    agent: str
    task_id: str
    seed: int
    split: str | None = Field(description="The task's range that the seed is in.")
    steps: int
    complete: bool = Field(description="Whether the episode reached its end.")
    verified: bool | None = Field(description="Whether the replay agreed; null where none is possible (real mode).")
    reason: str | None = Field(description="Why it is not verified, or has no score.")
    score: float | None = Field(
        description="In [0, 1]: 0 the random policy, 0.5 the best fixed configuration, 1 the clairvoyant search."
    )
    mean_reward: float = Field(description="Per window.")
    components: dict[str, float] = Field(description="Episode means, each in 0..1.")
    invalid_actions: int = Field(default=0, description="Windows in which the agent's answer was no action.")
    usage: LLMUsage | None = Field(
        default=None, description="Requests, tokens and cost; null for agents without a model."
    )


class AgentSummary(_Report):
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


class BaselineReport(_Report):
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
