"""`EvaluationReport`: the results of agents × tasks × seeds, with intervals. Types only.

The same evaluation gives the same bytes with any number of workers, except for `timing`, which `stable()` leaves out.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from llmserve_sim.schema import GradeReport, ReferenceScores

__all__ = [
    "AgentEntry",
    "AgentResult",
    "Comparison",
    "EpisodeScore",
    "Estimate",
    "EvaluationReport",
    "GradedEpisode",
    "Overall",
    "Report",
    "Timing",
    "WeightsUsed",
    "grade_fields",
]


class Report(BaseModel):
    """Base of all reports: frozen, without unknown fields and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(Report):
    """A figure over episodes, with its bootstrap interval."""

    value: float
    low: float = Field(description="Lower end of the interval.")
    high: float = Field(description="Upper end of the interval.")


class WeightsUsed(Report):
    """A file that an agent loaded for a task, with entries of its card."""

    path: str = Field(description="Relative to the folder that the evaluation ran in, if it is below it.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the file.")
    seed: int | None = Field(default=None, description="Seed of the training.")
    steps: int | None = Field(default=None, description="Simulated windows of the training.")
    command: str | None = Field(default=None, description="Command that made the file.")


class GradedEpisode(Report):
    """One agent in one episode, with the grader's results."""

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
    components: dict[str, float] = Field(description="Of the episode, each in 0..1.")
    unclipped_score: float | None = Field(
        default=None, description="The score before clipping; null unless the references are paired."
    )
    clipped: bool | None = Field(
        default=None, description="Whether the score was clipped; null unless the references are paired."
    )


def grade_fields(grade: GradeReport) -> dict[str, Any]:
    """Return the fields of a `GradedEpisode` that a grade holds: all but `agent`."""
    return {name: getattr(grade, name) for name in GradedEpisode.model_fields if name != "agent"}


class EpisodeScore(GradedEpisode):
    """One agent in one episode of an evaluation."""

    changes: dict[str, int] = Field(
        description="By knob: number of changes. Those of quantization_tier and prefill_decode_split cost seconds."
    )
    weights: str | None = Field(default=None, description="File that the agent loaded; see `EvaluationReport.agents`.")


class AgentEntry(Report):
    """An agent that took part."""

    label: str
    spec: str = Field(description="The spec that it was made from.")
    weights: dict[str, WeightsUsed] = Field(default_factory=dict, description="By task: the file that it loaded.")


class Comparison(Report):
    """An agent compared with the first one of the report, on the same episodes. Positive: it is better."""

    reward: Estimate = Field(description="Mean paired difference of mean rewards per window.")
    score: Estimate | None = Field(description="Mean paired difference of scores; null without scores.")
    win_rate: float = Field(description="Share of episodes in which it earns more; a tie is half a win.")
    improvement: Estimate = Field(
        description="Probability that a random episode of it earns more than one of the first agent; a tie counts half."
    )


class AgentResult(Report):
    """The results of one agent on one task."""

    agent: str
    task_id: str
    episodes: int
    verified: int = Field(description="Episodes that replayed.")
    reward: Estimate = Field(description="Mean reward per window.")
    reward_iqm: Estimate = Field(description="Interquartile mean of the episodes' mean rewards.")
    score: Estimate | None = Field(description="Mean score; null if an episode has none.")
    score_iqm: Estimate | None = Field(description="Interquartile mean of the scores.")
    components: dict[str, float] = Field(description="Means over the episodes.")
    changes: dict[str, float] = Field(description="By knob: changes per episode.")
    versus_first: Comparison | None = Field(description="Null for the first agent itself.")
    clipped: int | None = Field(
        default=None, description="Episodes whose score was clipped; null unless the references are paired."
    )


class Overall(Report):
    """The results of one agent on all tasks. All episodes weigh the same; they are resampled within a task."""

    agent: str
    episodes: int
    verified: int
    reward: Estimate
    score: Estimate | None
    score_iqm: Estimate | None
    versus_first: Comparison | None
    clipped: int | None = Field(default=None, description="The same over all tasks with paired references.")


class Timing(Report):
    """The time of the evaluation and the use of its workers; different in every run."""

    executor: str
    workers: int
    wall_s: float
    cpu_s: float = Field(description="Processor seconds of the workers, their start included.")
    cpu_share: float = Field(description="cpu_s over wall_s x workers.")
    occupied_share: float = Field(
        description="Share of wall_s x workers in which a worker had a job; above cpu_share if others use the machine."
    )
    agent_s: dict[str, float] = Field(description="By agent: processor seconds per episode, grading included.")


class EvaluationReport(Report):
    """All episodes of an evaluation, and the results per task and overall."""

    agents: list[AgentEntry] = Field(description="In order; the others are compared with the first.")
    tasks: list[str]
    seeds: dict[str, list[int]] = Field(description="By task.")
    standings: list[AgentResult] = Field(description="By task, then by agent.")
    overall: list[Overall] = Field(description="By agent.")
    episodes: list[EpisodeScore] = Field(description="By task, agent and seed.")
    verified: bool = Field(description="Whether every episode replayed.")
    skipped: dict[str, str] = Field(description="Agents of the default list that could not run, with the reasons.")
    references: dict[str, ReferenceScores] = Field(description="By task: the references of the scores.")
    confidence: float = Field(description="Confidence of the intervals.")
    resamples: int = Field(description="Resamples of the percentile bootstrap, paired by seed, stratified by task.")
    versions: dict[str, str]
    command: str = Field(description="Command that gives this report.")
    timing: Timing | None = Field(default=None, description="The only part that differs from run to run.")

    def stable(self) -> Self:
        """Return the report without its timing, which is the same in every run."""
        return self.model_copy(update={"timing": None})

    @property
    def provisional_references(self) -> bool:
        """Whether some references are provisional: a larger search will replace them."""
        return any(found.provisional for found in self.references.values())

    def result(self, agent: str, task_id: str) -> AgentResult:
        """Return the result of an agent on a task; raises `KeyError` if it did not take part."""
        for row in self.standings:
            if (row.agent, row.task_id) == (agent, task_id):
                return row
        raise KeyError((agent, task_id))

    def rewards(self, agent: str, task_id: str) -> list[float]:
        """Return the mean reward per window of each of the agent's episodes on a task, in the order of the seeds."""
        return [e.mean_reward for e in self.episodes if (e.agent, e.task_id) == (agent, task_id)]
