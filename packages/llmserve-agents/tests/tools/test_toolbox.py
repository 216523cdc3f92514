"""The tools over an episode in this process: what they change, what they tell, and what they refuse."""

from __future__ import annotations

import json

import pytest

from llmserve_agents.tools import LocalEpisode, Toolbox, definitions, forecast, refused
from llmserve_agents.tools.forecasting import FIGURES, FUTURES
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.grader import grade
from llmserve_sim.schema import ACTION_FIELDS, ServeAction


@pytest.fixture
def toolbox() -> Toolbox:
    """An episode of static_workload, seed 11, behind tools."""
    box = Toolbox(LocalEpisode())
    box.call("reset", {"seed": 11})
    return box


def test_an_episode_through_tools_is_the_episode_of_the_same_actions(toolbox: Toolbox) -> None:
    env = ServingEnv()
    env.reset(11, "static_workload")
    toolbox.call("set_knobs", {"batch_cap": 64})
    toolbox.call("advance", {"windows": 2})
    toolbox.call("set_knobs", {"quantization_tier": "INT8"})
    told = toolbox.call("advance").data
    for action in ({"batch_cap": 64}, {"batch_cap": 64}, {"batch_cap": 64, "quantization_tier": "INT8"}):
        last = env.step(action)
    assert told["windows"][-1]["reward"] == last.reward
    assert toolbox.call("grade").data == grade(env.episode_log()).model_dump(mode="json")
    assert json.dumps(told)


def test_knobs_that_are_left_out_keep_their_value_until_a_new_episode(toolbox: Toolbox) -> None:
    toolbox.call("set_knobs", {"batch_cap": 64})
    toolbox.call("set_knobs", {"speculation_depth": 3})
    assert (
        toolbox.call("observe").data["next_configuration"]
        == ServeAction(batch_cap=64, speculation_depth=3).model_dump()
    )
    toolbox.call("reset", {"seed": 12})
    assert toolbox.call("observe").data["next_configuration"] == ServeAction().model_dump()


def test_steps_of_somebody_else_are_taken_into_account(toolbox: Toolbox) -> None:
    toolbox.call("advance", {"windows": 2})
    toolbox.episode.step(ServeAction(batch_cap=8), 2)
    assert toolbox.call("observe").data["windows_run"] == 3
    assert toolbox.call("advance").data["windows"][0]["step_index"] == 4


def test_advance_stops_at_the_end_and_says_so_afterwards(toolbox: Toolbox) -> None:
    for _ in range(5):
        toolbox.call("advance", {"windows": 20})
    toolbox.call("advance", {"windows": 15})
    last = toolbox.call("advance", {"windows": 20})
    assert len(last.data["windows"]) == 5
    assert (last.data["done"], last.data["next_configuration"]) == (True, None)
    for name in ("advance", "forecast"):
        with pytest.raises(EpisodeStateError, match="ended after 120 windows"):
            toolbox.call(name)
    assert len(toolbox.call("history", {"windows": 120}).data["windows"]) == 120


def test_the_first_call_must_be_a_reset() -> None:
    box = Toolbox(LocalEpisode())
    for name in ("observe", "advance", "forecast", "history", "grade"):
        with pytest.raises(EpisodeStateError, match="reset first"):
            box.call(name)


def test_a_refusal_names_field_and_bound_for_the_model() -> None:
    answer = refused(InvalidInputError("batch_cap", "must be an integer in 1..512", got=0))
    assert answer.failed
    assert answer.text == "batch_cap: must be an integer in 1..512, got 0"
    assert answer.data["error"]["field"] == "batch_cap"
    with pytest.raises(InvalidInputError, match="must be one of tasks, reset"):
        Toolbox(LocalEpisode()).call("rm", {})


def test_every_knob_is_offered_with_the_bounds_of_the_action() -> None:
    knobs = next(tool for tool in definitions() if tool.name == "set_knobs").schema["properties"]
    for name, field in ACTION_FIELDS.items():
        assert knobs[name]["description"] == field.meaning
        assert (knobs[name].get("minimum"), knobs[name].get("maximum")) == (field.low, field.high)
        assert tuple(knobs[name].get("enum", ())) == field.choices
        assert "default" not in knobs[name]
    assert "forecast" not in [tool.name for tool in definitions(can_forecast=False)]


def test_a_forecast_depends_on_what_was_seen_and_not_on_the_true_future() -> None:
    """Two episodes with the same past and other futures get the same forecast: the seed is all that differs."""
    env = ServingEnv("bursty_workload")
    env.reset(5)
    plan = [ServeAction(batch_cap=64)] * 4
    for _ in range(3):
        env.step(plan[0])
    found = forecast(env, plan)
    assert (found.futures, set(found.windows[0])) == (FUTURES, set(FIGURES))
    assert found.windows[2]["request_arrival_rate"].deviation > 0
    assert forecast(env.fork(forecast=77), plan) == found
    assert forecast(env, plan) == found


def test_a_forecast_is_cut_at_the_end_of_the_episode(toolbox: Toolbox) -> None:
    for windows in (20, 20, 20, 20, 20, 18):
        toolbox.call("advance", {"windows": windows})
    assert [window["step_index"] for window in toolbox.call("forecast").data["windows"]] == [119, 120]
