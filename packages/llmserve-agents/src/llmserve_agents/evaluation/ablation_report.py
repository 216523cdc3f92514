"""`AblationReport`: the value of each knob to an agent, with intervals. Types only; every run gives the same bytes."""

from __future__ import annotations

from pydantic import Field

from llmserve_agents.evaluation.report import Estimate, Report

__all__ = ["AblationReport", "KnobValue"]


class KnobValue(Report):
    """One knob on one task. Values are differences of mean rewards per window, paired by seed."""

    task_id: str
    knob: str
    default: int | float | str | bool = Field(description="The knob's default value.")
    best: int | float | str | bool = Field(description="The best constant, found on training seeds.")
    candidates: dict[str, float] = Field(description="By constant: mean reward per window on the training seeds.")
    level: Estimate = Field(description="Held at the best constant, minus held at the default.")
    dynamic: Estimate = Field(description="Chosen by the agent, minus held at the best constant.")


class AblationReport(Report):
    """Every knob on every task, for one agent."""

    agent: str
    tasks: list[str]
    seeds: dict[str, list[int]] = Field(description="By task: the test seeds that the values are means over.")
    search_seeds: dict[str, list[int]] = Field(
        description="By task: the training seeds on which constants were chosen."
    )
    free: dict[str, Estimate] = Field(description="By task: mean reward per window of the unchanged agent.")
    values: list[KnobValue] = Field(description="By task, then by knob.")
    confidence: float = Field(description="Confidence of the intervals.")
    resamples: int = Field(description="Resamples of the bootstrap.")
    versions: dict[str, str]
    command: str | None = Field(description="Command that gives this report; null for a function.")

    def value(self, task_id: str, knob: str) -> KnobValue:
        """Return the row of a knob on a task; raises `KeyError` if there is none."""
        for row in self.values:
            if (row.task_id, row.knob) == (task_id, knob):
                return row
        raise KeyError((task_id, knob))
