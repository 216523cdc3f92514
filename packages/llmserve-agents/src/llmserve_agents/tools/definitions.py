"""The eight tools: name, description, and the JSON schema of the arguments with every bound.

The six knobs come from the fields of `ServeAction`, the only place where their bounds are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmserve_agents.tools.forecasting import FUTURES
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import json_schema, translate
from llmserve_sim.tasks.registry import list_tasks

__all__ = [
    "DEFAULT_TASK",
    "MAX_WINDOWS",
    "AdvanceArguments",
    "ForecastArguments",
    "HistoryArguments",
    "NoArguments",
    "ResetArguments",
    "Tool",
    "checked",
    "definitions",
    "named",
]

DEFAULT_TASK: Final = "static_workload"
"""The task of a reset that names none."""
MAX_WINDOWS: Final = 20
"""Windows that one call may run or forecast."""
MAX_HISTORY: Final = 120
"""Windows that one call of `history` shows."""


class _Arguments(BaseModel):
    """Base of the arguments: exact types, no unknown names, no NaN or infinity."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class NoArguments(_Arguments):
    """The arguments of a tool that takes none."""


class ResetArguments(_Arguments):
    """The arguments of `reset`."""

    task_id: str = Field(default=DEFAULT_TASK, max_length=200, description="The task, as `tasks` lists them.")
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Seed of the traffic; left out, a training seed is drawn."
    )


class AdvanceArguments(_Arguments):
    """The arguments of `advance`."""

    windows: int = Field(
        default=1,
        ge=1,
        le=MAX_WINDOWS,
        description="Windows to run; fewer run where the episode ends before.",
        json_schema_extra={"unit": "windows"},
    )


class ForecastArguments(_Arguments):
    """The arguments of `forecast`. The configurations of the plan are checked one by one."""

    plan: list[dict[str, Any]] = Field(
        default=[],
        max_length=MAX_WINDOWS,
        description="Configurations of the next windows, one each, with any of the six knobs; a knob that is left out "
        "keeps its last value, and the last configuration is held to the end. Empty: the configuration that is set.",
    )
    windows: int = Field(
        default=8,
        ge=1,
        le=MAX_WINDOWS,
        description="Windows to look ahead.",
        json_schema_extra={"unit": "windows"},
    )


class HistoryArguments(_Arguments):
    """The arguments of `history`."""

    windows: int = Field(
        default=10,
        ge=1,
        le=MAX_HISTORY,
        description="Windows to show, the newest last.",
        json_schema_extra={"unit": "windows"},
    )


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, as a model is told of it."""

    name: str
    title: str
    description: str
    schema: Mapping[str, Any]
    """JSON schema of the arguments: an object."""
    read_only: bool
    """Whether it leaves the episode as it is."""


_Model = TypeVar("_Model", bound=BaseModel)


def checked(model: type[_Model], arguments: Mapping[str, Any]) -> _Model:
    """Return `arguments` as a `model`; raises `InvalidInputError`, which names the argument and its bound."""
    try:
        return model.model_validate(arguments)
    except ValidationError as error:
        raise translate(error, model) from None


def definitions(*, can_forecast: bool = True) -> list[Tool]:
    """Return the tools, in the order in which a player needs them; `forecast` only where there is one."""
    return [tool for tool in _tools() if can_forecast or tool.name != "forecast"]


@cache
def _tools() -> tuple[Tool, ...]:
    knobs = _knobs()
    plan = _schema(ForecastArguments)
    plan["properties"]["plan"]["items"] = knobs | {"minProperties": 0}
    reset = _schema(ResetArguments)
    reset["properties"]["task_id"]["enum"] = [task.id for task in list_tasks()]
    return (
        Tool(
            name="tasks",
            title="The tasks",
            description="List the tasks: what each asks for, its length, its latency targets, and the seeds to "
            "train and to test on.",
            schema=_schema(NoArguments),
            read_only=True,
        ),
        Tool(
            name="reset",
            title="Start an episode",
            description="Start an episode of a task: you operate a fleet of GPUs that serves a large language "
            "model. The answer says what the job is and what each figure means. Time passes in windows, and only "
            "while `advance` runs. A new episode ends the one before.",
            schema=reset,
            read_only=False,
        ),
        Tool(
            name="observe",
            title="Look again",
            description="Show the last window again, and the configuration that the next one will have. No time "
            "passes.",
            schema=_schema(NoArguments),
            read_only=True,
        ),
        Tool(
            name="set_knobs",
            title="Choose the configuration",
            description="Choose the serving configuration from the next window on; a knob that is left out keeps "
            "its value. No time passes until `advance`. Changing quantization_tier stops serving for seconds, "
            "changing prefill_decode_split for half a second, changing kv_budget_fraction briefly.",
            schema=knobs,
            read_only=False,
        ),
        Tool(
            name="advance",
            title="Run windows",
            description="Run the chosen configuration for some windows and show what each of them measured and "
            "its reward. The aim is the largest sum of rewards over the whole episode.",
            schema=_schema(AdvanceArguments),
            read_only=False,
        ),
        Tool(
            name="forecast",
            title="What a plan would bring",
            description=f"Simulate a plan on {FUTURES} futures drawn from the task's distributions, given what has "
            "been seen, and show the mean and the standard deviation of what it brings. The true future is not "
            "shown. No time passes; two plans of one window face the same futures.",
            schema=plan,
            read_only=True,
        ),
        Tool(
            name="history",
            title="The windows so far",
            description="Show the last windows of the episode, each with the configuration that was in force.",
            schema=_schema(HistoryArguments),
            read_only=True,
        ),
        Tool(
            name="grade",
            title="Grade the episode",
            description="Grade the episode so far: its score from 0 (the random policy) over 0.5 (the best fixed "
            "configuration) to 1 (a search that knows the future), whether a replay confirms it, and its parts. "
            "Windows that were not run count as the random policy's.",
            schema=_schema(NoArguments),
            read_only=True,
        ),
    )


def _knobs() -> dict[str, Any]:
    """Return the schema of a part of a configuration: `ServeAction` without defaults, since what is absent is kept."""
    properties = json_schema()["ServeAction"]["properties"]
    for spec in properties.values():
        spec.pop("title", None)
        spec.pop("default", None)
    return {"type": "object", "properties": properties, "minProperties": 1, "additionalProperties": False}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of `model` without titles, and without null for what may be left out."""
    given = json.loads(json.dumps(model.model_json_schema()))
    properties = {}
    for name, spec in given.get("properties", {}).items():
        option: dict[str, Any] = next((part for part in spec.pop("anyOf", []) if part.get("type") != "null"), {})
        properties[name] = option | {key: value for key, value in spec.items() if key != "title"}
        if properties[name].get("default", 0) is None:
            del properties[name]["default"]
    return {"type": "object", "properties": properties, "additionalProperties": False}


def named(name: object, *, can_forecast: bool) -> Tool:
    """Return the tool of that name; raises `InvalidInputError`, which lists the names."""
    tools = {tool.name: tool for tool in definitions(can_forecast=can_forecast)}
    if not isinstance(name, str) or name not in tools:
        raise InvalidInputError("name", "must be one of " + ", ".join(tools), got=name)
    return tools[name]
