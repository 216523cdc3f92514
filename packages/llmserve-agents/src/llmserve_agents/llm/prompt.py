"""The prompts for a language model, and the parser of its answers, derived from the schema's tables.

The module knows nothing about endpoints, retries or money.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic_core import from_json

from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.metrics import EXTENDED
from llmserve_sim.schema import ACTION_FIELDS, ServeAction, ServeObservation, parse_action
from llmserve_sim.tasks import Task
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["InvalidAnswerError", "action_schema", "parse_answer", "system_prompt", "user_prompt"]

_FENCED: Final = re.compile(r"\A\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_TYPES: Final = {"int": "integer", "float": "number", "enum": "string", "bool": "boolean"}
_NOT_SHOWN: Final = {"task_id", "done", "metadata", "step_index", "reward"}
_ALSO_SHOWN: Final = (
    "queue_priority",
    "oldest_wait_s",
    "slo_compliance_priority",
    "abandoned_requests",
    "goodput_tps",
    "cotenant_gb",
    "kv_pool_gb",
    "memory_pressure",
    "stall_s",
)
"""Entries of ``metadata.window`` that a prompt shows if the backend reports them."""


class InvalidAnswerError(ValueError):
    """The answer is not a valid action. The message says why."""


def action_schema() -> dict[str, Any]:
    """Return the JSON schema of an answer: every field of `ServeAction` required, nothing else allowed.

    It uses only what strict structured output accepts: no defaults and no references.
    """
    properties: dict[str, Any] = {}
    for name, field in ACTION_FIELDS.items():
        spec: dict[str, Any] = {"type": _TYPES[field.kind], "description": field.meaning}
        if field.choices:
            spec["enum"] = list(field.choices)
        if field.low is not None and field.high is not None:
            spec |= {"minimum": field.low, "maximum": field.high}
        properties[name] = spec
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def system_prompt(task_id: str) -> str:
    """Return the system prompt: the job, the knobs, the figures, and the task."""
    knobs = "\n".join(f"- {f.name} ({f.bounds}; {f.unit}): {f.meaning}" for f in ACTION_FIELDS.values())
    fields = ServeObservation.model_json_schema()["properties"]
    shown = [(n, s.get("unit", ""), s["description"]) for n, s in fields.items() if n not in _NOT_SHOWN]
    shown += [(row.name, row.unit, row.meaning) for row in EXTENDED if row.name in _ALSO_SHOWN]
    figures = "\n".join(f"- {name} ({unit}): {meaning}" for name, unit, meaning in shown)
    return (
        "You operate a fleet of GPUs that serves a large language model. Time passes in windows; for each you choose "
        "the serving configuration. You are shown the last windows, each with the configuration that was in force, "
        "what was measured and the reward. Choose the configuration of the next window so that the sum of "
        "rewards over the episode is as large as you can make it.\n\n"
        f"{_about(task_id)}\n\n"
        f"The knobs:\n{knobs}\n"
        "Changing quantization_tier stops serving for seconds, changing prefill_decode_split for half a second, and "
        "changing kv_budget_fraction briefly.\n\n"
        f"The figures:\n{figures}\n\n"
        "Answer with one JSON object that has exactly the six knobs as keys, and with nothing else, for example "
        f"{json.dumps(ServeAction().model_dump())}"
    )


def _about(task_id: str) -> str:
    reward = (
        "The reward of a window is a weighted sum: tokens of requests that met their targets over tokens offered "
        "(answers of lower precision count less), plus the share of requests that met their targets (priority requests "
        "count more), minus memory pressure, minus cost."
    )
    try:
        task: Task = catalogue_task(task_id)
    except UnknownTaskError:
        return f"The task is {task_id}. {reward}"
    slo, weights = task.slo, task.reward
    return (
        f"The task is {task.name}: {task.description} It is served on {task.deployment}, for "
        f"{task.windows} windows of {task.window_s:g} s. Targets: time to first token "
        f"{slo.standard.ttft_s:g} s ({slo.priority.ttft_s:g} s for priority requests) plus prompt length / "
        f"{slo.ttft_prompt_tokens_per_s:g} s; time per output token "
        f"{slo.standard.tpot_ms:g} ms ({slo.priority.tpot_ms:g} ms). A request that waits for {task.patience_s:g} s "
        f"gives up. {reward} The weights are {weights.throughput:g}, {weights.slo:g}, {weights.memory:g} and "
        f"{weights.cost:g}."
    )


def user_prompt(history: Sequence[tuple[ServeAction | None, ServeObservation]]) -> str:
    """Return the user prompt. `history` holds the last windows, oldest first: (configuration, observation)."""
    lines = [json.dumps(_window(action, seen), separators=(",", ":")) for action, seen in history]
    return "The last windows, oldest first:\n" + "\n".join(lines) + "\nThe configuration of the next window?"


def _window(action: ServeAction | None, seen: ServeObservation) -> dict[str, Any]:
    figures = {name: getattr(seen, name) for name in ServeObservation.model_fields if name not in _NOT_SHOWN}
    window = seen.metadata.get("window")
    if isinstance(window, Mapping):
        figures |= {name: window[name] for name in _ALSO_SHOWN if name in window}
    return {
        "window": seen.step_index,
        "configuration": None if action is None else action.model_dump(),
        "measured": {name: _short(value) for name, value in figures.items()},
        "reward": _short(seen.reward),
    }


def _short(value: Any) -> Any:
    """Round to four significant digits, which take a third of the tokens."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def parse_answer(text: str) -> ServeAction:
    """Return the action in an answer: one JSON object with all six fields, alone or in one Markdown fence.

    Raises `InvalidAnswerError` for anything else. Missing or wrong values are never replaced or clamped.
    """
    fenced = _FENCED.match(text)
    try:
        value = from_json(fenced[1] if fenced else text, allow_inf_nan=False)
    except ValueError:
        raise InvalidAnswerError("not one JSON object") from None
    if not isinstance(value, dict):
        raise InvalidAnswerError("not a JSON object")
    missing = [name for name in ACTION_FIELDS if name not in value]
    if missing:
        raise InvalidAnswerError(f"without {missing[0]}")
    try:
        return parse_action(value)
    except InvalidInputError as error:
        raise InvalidAnswerError(str(error)) from None
