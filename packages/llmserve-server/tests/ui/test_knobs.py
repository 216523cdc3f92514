"""The knobs in words, and from controls to an action."""

from __future__ import annotations

import pytest

from llmserve_server.ui.knobs import change_cost, explain, read_knobs
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import get_deployment
from llmserve_sim.performance.quantization import swap_s
from llmserve_sim.schema import ACTION_FIELDS, ServeAction
from llmserve_sim.tasks import load_task

TASK = load_task("static_workload")
VALUES = (64.0, 0.30000000000000004, 2, "INT8", True, False)


@pytest.mark.parametrize("field", ACTION_FIELDS.values(), ids=list(ACTION_FIELDS))
def test_every_knob_says_what_it_means_and_what_it_costs(field: object) -> None:
    text = explain(field)  # type: ignore[arg-type]
    assert field.meaning in text  # type: ignore[attr-defined]
    assert len(text) > len(field.meaning) + 20  # type: ignore[attr-defined]


def test_what_a_browser_sends_becomes_an_action() -> None:
    assert read_knobs(VALUES) == ServeAction(
        batch_cap=64, kv_budget_fraction=0.3, speculation_depth=2, quantization_tier="INT8", prefill_decode_split=True
    )


@pytest.mark.parametrize(
    ("index", "value", "field"),
    [
        (0, 0, "batch_cap"),
        (0, 512.5, "batch_cap"),
        (0, None, "batch_cap"),
        (1, 1.01, "kv_budget_fraction"),
        (1, "0.5", "kv_budget_fraction"),
        (2, 9, "speculation_depth"),
        (3, "INT2", "quantization_tier"),
        (4, 1, "prefill_decode_split"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(index: int, value: object, field: str) -> None:
    values = [*VALUES]
    values[index] = value  # type: ignore[call-overload]
    with pytest.raises(InvalidInputError) as caught:
        read_knobs(tuple(values))
    assert caught.value.field == field


def test_a_swap_is_announced_with_its_stall() -> None:
    deployment = get_deployment(TASK.deployment)
    stall_s = swap_s(deployment.gpu, deployment.model, "INT4", deployment.tensor_parallel)
    text = change_cost(TASK, ServeAction(), ServeAction(quantization_tier="INT4", kv_budget_fraction=0.5))
    assert text == f"Loading INT4 stalls {stall_s:.1f} s and preempts everything (a window lasts 5 s)."


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (None, ServeAction(), "at no cost"),
        (ServeAction(), ServeAction(), "Nothing changes"),
        (ServeAction(), ServeAction(batch_cap=4, priority_routing=True), "costs nothing"),
        (ServeAction(), ServeAction(kv_budget_fraction=0.5), "resizing the KV pool stalls 0.1 s"),
        (ServeAction(), ServeAction(speculation_depth=3), "resizing the KV pool stalls 0.1 s"),
        (ServeAction(speculation_depth=1), ServeAction(speculation_depth=3), "costs nothing"),
        (ServeAction(), ServeAction(prefill_decode_split=True), "stalls 0.5 s"),
    ],
)
def test_a_change_is_announced_with_its_cost(before: ServeAction | None, after: ServeAction, words: str) -> None:
    assert words.lower() in change_cost(TASK, before, after).lower()
