"""Sessions outlive connections: resumed, repeated, forked, logged and graded from anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmserve_client import LLMServeEnv, StepConflictError
from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade

ACTION = {"batch_cap": 64, "quantization_tier": "INT8"}
OTHER = {"http": "websocket", "websocket": "http"}


def undisturbed(steps: int) -> list[str]:
    """What the simulator itself shows."""
    env = ServingEnv("static_workload")
    return [env.reset(7).model_dump_json(), *(env.step(ACTION).model_dump_json() for _ in range(steps))]


def test_a_repeated_step_over_http_is_answered_again_and_applied_once(server: Any, ask: Any, refused: Any) -> None:
    session = ask(server.url, "/reset", {"task_id": "static_workload", "seed": 7})["session_id"]
    step = {"session_id": session, "action": ACTION, "step_index": 0}
    first = ask(server.url, "/step", step)
    assert ask(server.url, "/step", step) == first
    for other in (step | {"action": {"batch_cap": 1}}, step | {"step_index": 3}):
        with pytest.raises(refused) as told:
            ask(server.url, "/step", other)
        assert (told.value.status, told.value.error["code"]) == (409, "step_conflict")
    assert ask(server.url, "/state", session=session)["step_count"] == 1


def test_a_repeated_step_over_a_websocket_is_answered_again_and_applied_once(raw_socket: Any, refused: Any) -> None:
    raw_socket.say("reset", {"task_id": "static_workload", "seed": 7})
    step = ACTION | {"metadata": {"step_index": 0}}
    first = raw_socket.say("step", step)
    assert raw_socket.say("step", step) == first
    with pytest.raises(refused) as told:
        raw_socket.say("step", step | {"batch_cap": 1})
    assert told.value.error["code"] == "step_conflict"
    assert raw_socket.say("state")["step_count"] == 1


def test_a_step_without_an_index_is_a_new_step(raw_socket: Any) -> None:
    raw_socket.say("reset", {"task_id": "static_workload", "seed": 7})
    assert [raw_socket.say("step", ACTION)["observation"]["step_index"] for _ in range(2)] == [1, 2]


def test_a_session_goes_on_over_the_other_transport(env: LLMServeEnv, server: Any) -> None:
    seen = [env.reset("static_workload", 7), env.step(ACTION).observation]
    with LLMServeEnv.from_url(server.url, transport=OTHER[str(env.transport)]) as other:  # type: ignore[arg-type]
        assert other.resume(env.session_id) == seen[-1]
        seen.append(other.step(ACTION).observation)
        with pytest.raises(StepConflictError):
            env.step({"batch_cap": 1})
        assert env.resume() == seen[-1]
        seen.append(env.step(ACTION).observation)
        assert env.episode_log() == other.episode_log()
    assert [item.model_dump_json() for item in seen] == undisturbed(3)


def test_a_fork_faces_the_same_future_and_leaves_the_first_alone(env: LLMServeEnv) -> None:
    env.reset("adversarial_multitenant", 7)
    env.step(ACTION)
    with env.fork() as fork:
        assert fork.session_id != env.session_id
        assert fork.state().episode_id != env.state().episode_id
        assert fork.transport == env.transport
        assert [fork.step(ACTION), fork.step({})] == [env.step(ACTION), env.step({})]
        fork.step({})
        assert env.state().step_count == 3
        assert fork.grade().verified


def test_a_fork_of_a_test_episode_is_a_forecast_and_the_grade_says_that_nothing_was_shown(env: LLMServeEnv) -> None:
    env.reset("bursty_workload", 2_000_001)
    env.step(ACTION)
    with env.fork() as fork:
        assert [step.observation for step in fork.episode_log().steps] == [
            step.observation for step in env.episode_log().steps
        ]
        ahead = [fork.step(ACTION).observation for _ in range(8)]
        assert ahead != [env.step(ACTION).observation for _ in range(8)]
        assert fork.grade().verified is False
    report = env.grade()
    assert (report.verified, report.split, report.foresight) == (True, "test", False)


def test_where_the_operator_allows_it_a_test_episode_is_copied_and_its_grade_says_so(
    start_server: Callable[..., Any],
) -> None:
    with LLMServeEnv.from_url(start_server(LLMSERVE_TRUE_FORKS="true").url) as env:
        env.reset("bursty_workload", 2_000_001)
        with env.fork() as fork:
            assert [fork.step(ACTION) for _ in range(8)] == [env.step(ACTION) for _ in range(8)]
            assert [fork.grade().foresight, env.grade().foresight] == [True, True]


def test_the_log_is_evidence_that_anyone_can_replay(env: LLMServeEnv) -> None:
    seen = [env.reset("static_workload", 7), *(env.step(ACTION).observation for _ in range(3))]
    log = env.episode_log()
    assert [log.initial_observation, *(step.observation for step in log.steps)] == seen
    assert (log.task_id, log.seed, log.episode_id) == ("static_workload", 7, env.state().episode_id)
    report = env.grade()
    assert report == env.grade(log) == env.grade(log.model_dump_json())
    assert report.foresight is False
    assert grade(log) == report.model_copy(update={"foresight": None}), "only a server can know what its maker saw"


def test_an_episode_is_graded_by_its_id_over_any_transport(env: LLMServeEnv, server: Any, ask: Any) -> None:
    env.reset("static_workload", 7)
    env.step(ACTION)
    episode = env.state().episode_id
    report = env.grade()
    env.reset("static_workload", 8)
    assert env.grade(episode_id=episode) == report
    assert ask(server.url, "/grader", {"episode_id": episode}) == report.model_dump(mode="json")


def test_a_drawn_seed_is_a_training_seed_and_repeats_the_episode(env: LLMServeEnv) -> None:
    env.reset()
    seed = env.state().seed
    train = next(row for row in env.tasks() if row["id"] == "static_workload")["splits"]["train"]
    assert train["start"] <= seed < train["stop"]
    stepped = env.step(ACTION).observation
    env.reset(seed=seed)
    assert env.step(ACTION).observation == stepped


@pytest.fixture
def mortal(start_server: Callable[..., Any]) -> Iterator[Any]:
    """A server to be killed."""
    running = start_server()
    yield running
    running.kill()


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_an_episode_outlives_its_server_with_the_patience_that_a_client_has(mortal: Any, transport: Any) -> None:
    with LLMServeEnv.from_url(mortal.url, transport=transport) as env:
        seen = [env.reset("static_workload", 7), *(env.step(ACTION).observation for _ in range(3))]
        mortal.kill()
        starting = threading.Thread(target=mortal.start)
        starting.start()
        seen.extend(env.step(ACTION).observation for _ in range(3))
        starting.join()
        assert [item.model_dump_json() for item in seen] == undisturbed(6)
        assert env.grade().verified
