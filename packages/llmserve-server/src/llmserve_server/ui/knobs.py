"""The six knobs in words: their purpose, the cost of changing them, and the cost of a given change now.

Names, bounds, units and meanings come from `llmserve_sim.schema.ACTION_FIELDS`, stalls from the simulator's
constants. Only the sentences are written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import get_deployment
from llmserve_sim.performance.disaggregation import SPLIT_STALL_S
from llmserve_sim.performance.quantization import TIERS, swap_s
from llmserve_sim.performance.tables import RESIZE_STALL_S
from llmserve_sim.schema import ACTION_FIELDS, ActionField, ServeAction, parse_action
from llmserve_sim.tasks import Task

__all__ = ["change_cost", "explain", "read_knobs", "slider_step"]

_TRADE: Final[Mapping[str, str]] = {
    "batch_cap": "More at once raises throughput and slows every token. Changing it is free.",
    "kv_budget_fraction": "More room for contexts and reuse; pressure when the co-tenant wants it. "
    f"Resizing stalls {RESIZE_STALL_S:g} s, shrinking preempts the newest.",
    "speculation_depth": "Pays while few requests run and drafts are accepted; wasted work otherwise. "
    "On or off resizes the pool.",
    "quantization_tier": "Fewer bits are smaller and faster, and cost answer quality. "
    "A swap preempts everything and stalls for seconds while weights load.",
    "prefill_decode_split": "Steady decoding, less capacity for each phase. "
    f"Changing it stalls {SPLIT_STALL_S:g} s and recomputes what runs.",
    "priority_routing": "Priority requests wait less, all others more. Changing it is free.",
}


def explain(field: ActionField) -> str:
    """Return the knob's unit, meaning and cost."""
    unit = f"{field.bounds} {field.unit}: " if field.kind in ("int", "float") else ""
    return f"{unit}{field.meaning} {_TRADE[field.name]}"


def slider_step(field: ActionField) -> float:
    """Return the step of the knob's slider."""
    return 1 if field.kind == "int" else 0.025


def read_knobs(values: tuple[Any, ...]) -> ServeAction:
    """Return the action for the controls' values, which are in the order of `ACTION_FIELDS`.

    A browser may send 64 as 64.0, so whole numbers are converted to integers. Raises `InvalidInputError`, which names
    the field and its bound.
    """
    given: dict[str, Any] = {}
    for field, value in zip(ACTION_FIELDS.values(), values, strict=True):
        if value is None:
            raise InvalidInputError(field.name, f"must be set: {field.bounds}")
        if field.kind == "int" and isinstance(value, float) and value.is_integer():
            given[field.name] = int(value)
        elif field.kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
            given[field.name] = round(float(value), 6)
        else:
            given[field.name] = value
    return parse_action(given)


def change_cost(task: Task, before: ServeAction | None, after: ServeAction) -> str:
    """Return a sentence: the cost of changing the configuration from `before` to `after` in the next window."""
    if before is None:
        return "The first window starts with what you set here, at no cost."
    if before == after:
        return "Nothing changes in the next window."
    deployment = get_deployment(task.deployment)
    costs, stall_s = [], 0.0
    if before.quantization_tier != after.quantization_tier:
        swap = swap_s(
            deployment.gpu, deployment.model, TIERS[TIERS.index(after.quantization_tier)], deployment.tensor_parallel
        )
        stall_s += swap
        costs.append(f"loading {after.quantization_tier} stalls {swap:.1f} s and preempts everything")
    if before.prefill_decode_split != after.prefill_decode_split:
        stall_s += SPLIT_STALL_S
        costs.append(f"changing roles stalls {SPLIT_STALL_S:g} s and recomputes what runs")
    speculates = (before.speculation_depth > 0) != (after.speculation_depth > 0)
    if not stall_s and (before.kv_budget_fraction != after.kv_budget_fraction or speculates):
        stall_s += RESIZE_STALL_S
        costs.append(f"resizing the KV pool stalls {RESIZE_STALL_S:g} s")
    if not costs:
        return "This change costs nothing."
    text = "; ".join(costs)
    return f"{text[0].upper()}{text[1:]} (a window lasts {task.window_s:g} s)."
