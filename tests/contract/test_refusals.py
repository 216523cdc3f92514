"""What the server refuses: with a code, a sentence, the field and its bound, and with nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmserve_client import (
    AtCapacityError,
    EpisodeStateError,
    InvalidFieldError,
    LLMServeEnv,
    Retries,
    TooLargeError,
    UnauthorizedError,
    UnknownEpisodeError,
    UnknownSessionError,
    UnknownTaskError,
)

BAD_ACTIONS = [
    ({"batch_cap": 513}, "batch_cap", "1..512"),
    ({"batch_cap": "32"}, "batch_cap", "1..512"),
    ({"batch_cap": 1.0}, "batch_cap", "1..512"),
    ({"kv_budget_fraction": 0.05}, "kv_budget_fraction", "0.1..1.0"),
    ({"speculation_depth": -1}, "speculation_depth", "0..8"),
    ({"quantization_tier": "FP8"}, "quantization_tier", "FP16, INT8, INT4"),
    ({"priority_routing": 1}, "priority_routing", "true, false"),
    ({"batch_size": 1}, "batch_size", "batch_cap"),
]


@pytest.mark.parametrize(("action", "field", "bound"), BAD_ACTIONS)
def test_a_bad_action_names_field_and_bound_over_http_and_loses_nothing(
    server: Any, ask: Any, refused: Any, action: dict[str, object], field: str, bound: str
) -> None:
    session = ask(server.url, "/reset", {"task_id": "static_workload", "seed": 7})["session_id"]
    before = ask(server.url, "/state", session=session)
    with pytest.raises(refused) as told:
        ask(server.url, "/step", {"session_id": session, "action": action})
    assert (told.value.status, told.value.error["code"]) == (422, "invalid_field")
    assert told.value.error["field"].endswith(field)
    assert bound in told.value.error["bound"]
    assert told.value.body["detail"] == told.value.error["message"]
    assert ask(server.url, "/state", session=session) == before
    assert ask(server.url, "/step", {"session_id": session, "action": {}})["observation"]["step_index"] == 1


@pytest.mark.parametrize(("action", "field", "bound"), BAD_ACTIONS)
def test_a_bad_action_names_field_and_bound_over_a_websocket_and_loses_nothing(
    raw_socket: Any, refused: Any, action: dict[str, object], field: str, bound: str
) -> None:
    raw_socket.say("reset", {"task_id": "static_workload", "seed": 7})
    before = raw_socket.say("state")
    with pytest.raises(refused) as told:
        raw_socket.say("step", action)
    assert told.value.error["code"] == "invalid_field"
    assert told.value.error["field"].endswith(field)
    assert bound in told.value.error["bound"]
    assert raw_socket.say("state") == before
    assert raw_socket.say("step", {})["observation"]["step_index"] == 1


def test_bodies_that_are_no_requests_are_refused_and_the_server_stays(server: Any, ask: Any, refused: Any) -> None:
    for body in (b"{", b"[]", b'{"action": 3}', b'{"acton": {}}', b"\xff", b'{"action": {}, "step_index": -1}'):
        with pytest.raises(refused) as told:
            ask(server.url, "/step", body)
        assert told.value.status == 422
        assert told.value.error["field"]
    for body in ({"seed": -1}, {"seed": 1.5}, {"task": "static_workload"}, {"seed": 2**63}):
        with pytest.raises(refused) as told:
            ask(server.url, "/reset", body)
        assert told.value.status == 422
        assert told.value.error["field"] == next(iter(body))


def test_a_step_before_a_reset_is_refused_on_a_socket(raw_socket: Any, refused: Any) -> None:
    with pytest.raises(refused) as told:
        raw_socket.say("step", {})
    assert told.value.error["code"] == "not_reset"
    assert "reset" in told.value.error["message"]
    assert raw_socket.say("reset", {"seed": 7})["observation"]["step_index"] == 0


def test_clients_name_what_was_refused(env: LLMServeEnv) -> None:
    with pytest.raises(EpisodeStateError):
        env.step({})
    env.reset("static_workload", 7)
    for call, kind in (
        (lambda: env.reset("no_such_task"), UnknownTaskError),
        (lambda: env.resume("nobody"), UnknownSessionError),
        (lambda: env.grade(episode_id="nothing"), UnknownEpisodeError),
        (lambda: env.step({"batch_cap": 0}), InvalidFieldError),
        (lambda: env.grade({"seed": 1}), InvalidFieldError),
    ):
        with pytest.raises(kind) as told:
            call()
        assert told.value.message
        assert told.value.field
    assert env.step({}).observation.step_index == 1


def test_a_step_after_the_end_is_refused_and_the_grade_stays(env: LLMServeEnv) -> None:
    observation = env.reset("static_workload", 7)
    while not observation.done:
        observation = env.step({}).observation
    report = env.grade()
    with pytest.raises(EpisodeStateError) as told:
        env.step({})
    assert (told.value.code, told.value.status) == ("episode_done", 409)
    assert env.grade() == report
    assert env.state().step_count == observation.step_index


def test_an_edited_log_is_not_verified_by_the_server(env: LLMServeEnv) -> None:
    env.reset("static_workload", 7)
    env.step({})
    log = env.episode_log().model_dump(mode="json")
    assert env.grade(log).verified is True
    log["steps"][0]["observation"]["reward"] += 0.25
    report = env.grade(log)
    assert report.verified is False
    assert report.score is None
    assert "reward" in str(report.reason)


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any]) -> Iterator[Any]:
    """A server with a token and a small limit."""
    running = start_server(
        LLMSERVE_API_TOKEN="open-sesame",  # noqa: S106 - a test's own
        LLMSERVE_MAX_LOG_BYTES="65536",
    )
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize("transport", ["auto", "http", "websocket"])
def test_a_server_with_a_token_wants_it(guarded: Any, transport: Any) -> None:
    for token in (None, "other"):
        with LLMServeEnv.from_url(guarded.url, transport=transport, token=token) as env:
            for verb in (env.reset, env.tasks):
                with pytest.raises(UnauthorizedError) as told:
                    verb()
                assert told.value.status == 401
    with LLMServeEnv.from_url(guarded.url, transport=transport, token="open-sesame") as env:  # noqa: S106 - a test's own
        assert env.reset(seed=7).step_index == 0
        assert env.transport == ("websocket" if transport == "auto" else transport)
        assert env.grade().verified


def test_a_log_over_the_limit_is_refused(guarded: Any) -> None:
    with LLMServeEnv.from_url(guarded.url, token="open-sesame") as env:  # noqa: S106 - a test's own
        observation = env.reset("static_workload", 7)
        while not observation.done:
            observation = env.step({}).observation
        with pytest.raises(TooLargeError) as told:
            env.grade(env.episode_log())
        assert told.value.status == 413
        assert env.grade().complete


def test_a_full_server_says_when_to_come_back_and_the_others_do_not_notice(start_server: Callable[..., Any]) -> None:
    url = start_server(LLMSERVE_MAX_CONCURRENT_ENVS="2").url
    with (
        LLMServeEnv.from_url(url) as first,
        LLMServeEnv.from_url(url) as second,
        LLMServeEnv.from_url(url, retries=Retries(wait_for_place=False)) as third,
    ):
        first.reset("static_workload", 7)
        second.reset("static_workload", 7)
        with pytest.raises(AtCapacityError) as told:
            third.reset("static_workload", 7)
        assert told.value.status == 429
        assert told.value.retry_after_s
        assert first.step({}).observation.step_index == second.step({}).observation.step_index == 1
