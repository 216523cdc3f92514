"""What a model is told, and what is taken for an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmserve_agents.llm.prompt import InvalidAnswerError, action_schema, parse_answer, system_prompt, user_prompt
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ACTION_FIELDS, ServeAction, json_schema

GOOD = ServeAction(batch_cap=64, kv_budget_fraction=0.5, quantization_tier="INT8").model_dump()


def test_the_schema_of_an_answer_has_the_bounds_of_the_action_and_requires_every_field() -> None:
    schema, source = action_schema(), json_schema()["ServeAction"]["properties"]
    assert list(schema["properties"]) == schema["required"] == list(ACTION_FIELDS)
    assert schema["additionalProperties"] is False
    for name, spec in schema["properties"].items():
        for key in ("type", "minimum", "maximum", "enum", "description"):
            assert spec.get(key) == source[name].get(key)
        assert "default" not in spec


def test_the_instructions_name_every_knob_with_its_bounds() -> None:
    text = system_prompt("static_workload")
    for field in ACTION_FIELDS.values():
        assert f"{field.name} ({field.bounds}" in text
    assert "22 ms" in text


def test_a_task_that_is_not_in_the_catalogue_is_described_by_its_name() -> None:
    assert "The task is my_own." in system_prompt("my_own")


def test_the_question_shows_the_windows_with_their_configuration_and_reward() -> None:
    env = ServingEnv()
    first = env.reset(seed=1)
    action = ServeAction(batch_cap=48)
    second = env.step(action)
    lines = user_prompt([(None, first), (action, second)]).splitlines()
    windows = [json.loads(line) for line in lines[1:-1]]
    assert [window["window"] for window in windows] == [0, 1]
    assert windows[0]["configuration"] is None
    assert windows[1]["configuration"]["batch_cap"] == 48
    assert windows[1]["reward"] == pytest.approx(second.reward, rel=1e-3)
    assert "cotenant_gb" in windows[1]["measured"]


def test_figures_that_a_backend_does_not_report_are_left_out() -> None:
    bare = ServingEnv().reset(seed=1).model_copy(update={"metadata": {}})
    window = json.loads(user_prompt([(None, bare)]).splitlines()[1])
    assert "cotenant_gb" not in window["measured"]


@pytest.mark.parametrize("wrap", ["{}", "  {}\n", "```json\n{}\n```", "```\n{}\n```"])
def test_an_answer_is_one_object_alone_or_in_one_fence(wrap: str) -> None:
    assert parse_answer(wrap.replace("{}", json.dumps(GOOD))) == ServeAction(**GOOD)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not one JSON object"),
        ("I would raise batch_cap to 64.", "not one JSON object"),
        ("Sure! " + json.dumps(GOOD), "not one JSON object"),
        (json.dumps(GOOD) + json.dumps(GOOD), "not one JSON object"),
        (json.dumps(GOOD)[:-5], "not one JSON object"),
        (json.dumps([GOOD]), "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"batch_cap": NaN}', "not one JSON object"),
    ],
)
def test_anything_else_is_no_answer(text: str, why: str) -> None:
    with pytest.raises(InvalidAnswerError, match=why):
        parse_answer(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_cap", 513),
        ("batch_cap", 32.5),
        ("batch_cap", "32"),
        ("kv_budget_fraction", 0.05),
        ("speculation_depth", True),
        ("quantization_tier", "fp16"),
        ("priority_routing", "yes"),
        ("batch_size", 32),
    ],
)
def test_a_wrong_value_is_named_and_never_clamped_or_converted(field: str, value: Any) -> None:
    with pytest.raises(InvalidAnswerError, match=field):
        parse_answer(json.dumps(GOOD | {field: value}))


@pytest.mark.parametrize("field", list(ACTION_FIELDS))
def test_a_missing_field_is_not_filled_in(field: str) -> None:
    with pytest.raises(InvalidAnswerError, match=f"without {field}"):
        parse_answer(json.dumps({name: value for name, value in GOOD.items() if name != field}))
