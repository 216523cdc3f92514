"""`AblationReport`: what each knob is worth to an agent, with intervals. Types only; the same bytes from every run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from llmserve_agents.evaluation.report import Estimate

__all__ = ["AblationReport", "KnobValue"]


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class KnobValue(_Report):
    """One knob on one task. Values are differences of mean rewards per window, paired by seed."""

    task_id: str
    knob: str
    default: int | float | str | bool = Field(description="The value that an action has where it names none.")
    best: int | float | str | bool = Field(description="The best constant, found on training seeds.")
    candidates: dict[str, float] = Field(description="By constant: mean reward per window on the training seeds.")
    level: Estimate = Field(description="Held at the best constant, minus held at the default.")
    dynamic: Estimate = Field(
        description="Left to the agent, minus held at the best constant: what moving it is worth."
    )


class AblationReport(_Report):
    """Every knob on every task, for one agent."""

    agent: str
    tasks: list[str]
    seeds: dict[str, list[int]] = Field(description="By task: the test seeds that values are means over.")
    search_seeds: dict[str, list[int]] = Field(description="By task: the training seeds that constants were chosen on.")
    free: dict[str, Estimate] = Field(description="By task: mean reward per window of the agent as it is.")
    values: list[KnobValue] = Field(description="By task, then by knob.")
    confidence: float = Field(description="Of the intervals.")
    resamples: int = Field(description="Of the bootstrap.")
    versions: dict[str, str]
    command: str | None = Field(description="Command that gives this report; null where values came from a function.")

    def value(self, task_id: str, knob: str) -> KnobValue:
        """Return one row; raises `KeyError` where there is none."""
        for row in self.values:
            if (row.task_id, row.knob) == (task_id, knob):
                return row
        raise KeyError((task_id, knob))
