"""The HTTP routes hold a session between requests, and refuse with a code, a sentence and the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from llmserve_server.routes.episodes import COOKIE, HEADER
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeObservation, json_schema

ACTION = {"batch_cap": 64, "kv_budget_fraction": 0.5}


def application(client: TestClient) -> FastAPI:
    """Return the application behind a client."""
    assert isinstance(client.app, FastAPI)
    return client.app


def refused(response: Any, status: int, code: str) -> dict[str, Any]:
    """Return the error of a response that must be a refusal."""
    body = response.json()
    assert (response.status_code, body["error"]["code"]) == (status, code), body
    assert body["detail"] == body["error"]["message"]
    return dict(body["error"])


def test_an_episode_over_http_has_the_bytes_of_one_in_process(client: TestClient) -> None:
    """Observation, reward and done come whole; reward, done and metadata stand beside them again."""
    env = ServingEnv("bursty_workload")
    expected = [env.reset(7)] + [env.step(ACTION) for _ in range(3)]
    replies = [client.post("/reset", json={"task_id": "bursty_workload", "seed": 7}).json()]
    replies += [client.post("/step", json={"action": ACTION}).json() for _ in range(3)]
    for reply, observation in zip(replies, expected, strict=True):
        assert ServeObservation.model_validate(reply["observation"]).model_dump_json() == observation.model_dump_json()
        assert (reply["reward"], reply["done"], reply["metadata"]) == (
            observation.reward,
            observation.done,
            reply["observation"]["metadata"],
        )


def test_reset_without_a_body_starts_the_default_task_and_reports_the_seed(client: TestClient) -> None:
    """Without a seed one of the training seeds is drawn, and the state says which."""
    reply = client.post("/reset").json()
    state = client.get("/state").json()
    assert state["task_id"] == "static_workload"
    assert 0 <= state["seed"] < 1_000_000
    assert (state["step_count"], state["session_id"]) == (0, reply["session_id"])


@pytest.mark.parametrize("named", ["body", "header", "cookie", "nothing"])
def test_a_step_finds_its_session(client: TestClient, named: str) -> None:
    """By the body, the header, the cookie, or because its caller has only reset one."""
    session_id = client.post("/reset", json={"seed": 1}).json()["session_id"]
    client.cookies.clear()
    body: dict[str, Any] = {"action": {}}
    headers = {}
    if named == "body":
        body["session_id"] = session_id
    elif named == "header":
        headers[HEADER] = session_id
    elif named == "cookie":
        client.cookies.set(COOKIE, session_id)
    reply = client.post("/step", json=body, headers=headers)
    assert reply.json()["session_id"] == session_id
    assert reply.json()["observation"]["step_index"] == 1


def test_a_caller_with_two_sessions_in_use_must_name_one(client: TestClient) -> None:
    """Nobody is stepped by accident."""
    first = client.post("/reset", json={"seed": 1}).json()["session_id"]
    client.cookies.clear()
    client.post("/reset", json={"seed": 2})
    client.cookies.clear()
    client.post("/step", json={"action": {}, "session_id": first})
    refused(client.post("/step", json={"action": {}}), 409, "ambiguous_session")


def test_the_cookie_keeps_a_browser_in_one_session_until_the_next_reset(client: TestClient) -> None:
    """A reset starts a session of its own, and the one before leaves its place; its episode is still graded."""
    first = client.post("/reset").json()["session_id"]
    assert client.post("/step", json={"action": {}}).json()["session_id"] == first
    episode = client.get("/state").json()["episode_id"]
    live = application(client).state.registry.stats().live
    second = client.post("/reset").json()["session_id"]
    assert second != first
    assert application(client).state.registry.stats().live == live
    assert client.post("/step", json={"action": {}}).json()["session_id"] == second
    assert client.post("/grader", json={"episode_id": episode}).json()["steps"] == 1


def test_a_repeated_step_is_applied_once(client: TestClient) -> None:
    """The same step_index with the same action has the same answer; an older one is a conflict."""
    client.post("/reset", json={"seed": 1})
    step = {"action": ACTION, "step_index": 0}
    assert client.post("/step", json=step).content == client.post("/step", json=step).content
    client.post("/step", json={"action": ACTION, "step_index": 1})
    assert refused(client.post("/step", json=step), 409, "step_conflict")["field"] == "step_index"
    assert client.get("/state").json()["step_count"] == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": {"batch_cap": 0}}, "batch_cap"),
        ({"action": {"batch_cap": "64"}}, "batch_cap"),
        ({"action": {"kv_budget_fraction": 1.5}}, "kv_budget_fraction"),
        ({"action": {"quantization_tier": "int8"}}, "quantization_tier"),
        ({"action": {"batchcap": 1}}, "batchcap"),
        ({"action": 3}, "action"),
        ({}, "action"),
        ({"action": {}, "step_index": -1}, "step_index"),
        ({"action": {}, "step_index": True}, "step_index"),
        ({"action": {}, "session_id": 3}, "session_id"),
        ({"action": {}, "sessionid": "x"}, "sessionid"),
    ],
)
def test_a_wrong_step_is_refused_by_field_and_changes_nothing(
    client: TestClient, body: dict[str, Any], field: str
) -> None:
    """Nothing is clamped or converted, and the session answers as before."""
    client.post("/reset", json={"seed": 1})
    error = refused(client.post("/step", json=body), 422, "invalid_field")
    assert error["field"] == field
    assert error["bound"]
    assert client.get("/state").json()["step_count"] == 0


@pytest.mark.parametrize("raw", [b"{", b"[]", b'"text"', b"\xff", b'{"action": NaN}', b"[" * 100_000])
@pytest.mark.parametrize("path", ["/reset", "/step", "/fork", "/grader"])
def test_a_body_that_is_no_json_object_is_refused(client: TestClient, path: str, raw: bytes) -> None:
    """Whatever it is, the answer says that it is the body."""
    assert refused(client.post(path, content=raw), 422, "invalid_field")["field"] in {"body", "action"}


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"task_id": "no_such_task"}, 404, "unknown_task", "task_id"),
        ({"task_id": "../etc/passwd.toml"}, 404, "unknown_task", "task_id"),
        ({"seed": -1}, 422, "invalid_field", "seed"),
        ({"seed": 1.5}, 422, "invalid_field", "seed"),
        ({"seed": 2**63}, 422, "invalid_field", "seed"),
        ({"episode_id": ""}, 422, "invalid_field", "episode_id"),
        ({"session_id": "unknown"}, 404, "unknown_session", "session_id"),
        ({"session_id": "a b"}, 404, "unknown_session", "session_id"),
        ({"resume": True, "seed": 3}, 422, "invalid_field", "seed"),
        ({"split": "train"}, 422, "invalid_field", "index"),
        ({"index": 3}, 422, "invalid_field", "split"),
        ({"split": "exam", "index": 3}, 422, "invalid_field", "split"),
        ({"split": "test", "index": 10**9}, 422, "invalid_field", "index"),
        ({"split": "test", "index": 3, "seed": 3}, 422, "invalid_field", "split"),
        ({"tasks": "x"}, 422, "invalid_field", "tasks"),
    ],
)
def test_a_wrong_reset_is_refused_by_field(
    client: TestClient, body: dict[str, Any], status: int, code: str, field: str
) -> None:
    """The episode that was running goes on."""
    client.post("/reset", json={"seed": 1, "episode_id": "mine"})
    assert refused(client.post("/reset", json=body), status, code)["field"] == field
    assert client.get("/state").json()["episode_id"] == "mine"


def test_a_task_of_the_task_api_is_run_by_split_and_index(client: TestClient) -> None:
    """Index 1003 of the test split is the second task's fourth seed."""
    client.post("/reset", json={"split": "test", "index": 1003})
    state = client.get("/state").json()
    listed = client.post("/llmserve_env/task", json={"split": "test", "index": 1003}).json()["task"]
    assert (state["task_id"], state["seed"]) == (listed["task_id"], listed["seed"]) == ("bursty_workload", 2_000_003)


def test_resume_returns_the_last_observation(client: TestClient) -> None:
    """Coming back changes nothing."""
    session_id = client.post("/reset", json={"seed": 1}).json()["session_id"]
    last = client.post("/step", json={"action": ACTION}).content
    assert client.post("/reset", json={"session_id": session_id, "resume": True}).content == last


def test_a_step_before_a_reset_and_after_the_end_is_a_conflict(client: TestClient) -> None:
    """The code says which."""
    refused(client.get("/log"), 409, "not_reset")
    refused(client.post("/step", json={"action": {}}), 409, "not_reset")
    client.post("/reset", json={"seed": 1})
    while not client.post("/step", json={"action": {}}).json()["done"]:
        pass
    refused(client.post("/step", json={"action": {}}), 409, "episode_done")
    assert client.get("/state").json()["step_count"] == 120


def test_a_log_grades_the_same_here_by_id_and_as_a_document(client: TestClient) -> None:
    """And an edited one is not verified."""
    client.post("/reset", json={"seed": 2_000_000, "episode_id": "graded"})
    for _ in range(5):
        client.post("/step", json={"action": ACTION})
    log = client.get("/log").json()
    EpisodeLog.model_validate(log)
    reports = [
        client.post("/grader"),
        client.post("/grader", json={"episode_id": "graded"}),
        client.post("/grader", json={"episode_log": log}),
    ]
    assert len({report.content for report in reports}) == 1
    report = GradeReport.model_validate(reports[0].json())
    assert (report.verified, report.complete, report.steps) == (True, False, 5)
    log["steps"][2]["observation"]["reward"] = 0.99
    assert client.post("/grader", json={"episode_log": log}).json()["verified"] is False


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"episode_id": "nobody's"}, 404, "unknown_episode"),
        ({"episode_log": {}}, 422, "invalid_field"),
        ({"episode_log": "text"}, 422, "invalid_field"),
        ({"episode_log": {}, "episode_id": "x"}, 422, "invalid_field"),
        ({"log": {}}, 422, "invalid_field"),
        ({}, 409, "not_reset"),
    ],
)
def test_what_cannot_be_graded_is_refused(client: TestClient, body: dict[str, Any], status: int, code: str) -> None:
    """Nothing is graded by guess."""
    refused(client.post("/grader", json=body), status, code)


@pytest.mark.parametrize("named", ["query", "header", "cookie"])
def test_a_closed_session_frees_its_place_and_goes_on_when_it_is_named(
    serve: Callable[..., TestClient], named: str
) -> None:
    """With room for one session, seventy short ones follow each other, and the last one is still there."""
    client = serve(max_concurrent_envs=1)
    for _ in range(70):
        client.cookies.clear()
        assert client.post("/reset", json={"seed": 1}).status_code == 200
        session_id = client.cookies[COOKIE]
        if named != "cookie":
            client.cookies.clear()
        headers = {HEADER: session_id} if named == "header" else {}
        params = {"session_id": session_id} if named == "query" else {}
        closed = client.delete("/session", headers=headers, params=params)
        assert (closed.status_code, closed.content, client.cookies.get(COOKIE)) == (204, b"", None)
    assert client.post("/step", json={"action": {}, "session_id": session_id}).status_code == 200
    for _ in range(2):
        assert client.delete("/session", headers={HEADER: session_id}).status_code == 204


@pytest.mark.parametrize("route", ["/reset", "/step", "/fork", "/grader"])
def test_an_id_in_the_address_of_a_call_with_a_body_is_refused(client: TestClient, route: str) -> None:
    """Overlooked, it would leave the session to the cookie: another one than was meant."""
    session = client.post("/reset").json()["session_id"]
    body = {"action": {}} if route == "/step" else {}
    for parameters in ({"session_id": session}, {"x": "1"}):
        refused(client.post(route, params=parameters, json=body), 422, "invalid_field")
    refused(client.request("DELETE", "/session", json={"session_id": session}), 422, "invalid_field")
    assert client.get("/state").json()["step_count"] == 0


def test_an_episode_whose_name_was_guessed_is_not_graded(client: TestClient) -> None:
    """A name that its caller chose is known in the caller's session only; one that the server made cannot be guessed."""
    session = client.post("/reset", json={"episode_id": "run1"}).json()["session_id"]
    client.post("/step", json={"action": {}})
    client.cookies.clear()
    refused(client.post("/grader", json={"episode_id": "run1"}), 404, "unknown_episode")
    assert client.post("/grader", json={"episode_id": "run1", "session_id": session}).json()["steps"] == 1


def test_the_reason_of_a_grade_does_not_tell_what_an_unplayed_window_brings(client: TestClient) -> None:
    """On a training seed, whose future a fork shows as well, it does."""
    for seed, told in ((2_000_090, "steps.1 does not replay"), (90, "steps.1.observation.")):
        client.post("/reset", json={"task_id": "bursty_workload", "seed": seed})
        client.post("/step", json={"action": ACTION})
        log = client.get("/log").json()
        guessed = log["steps"][0]
        log["steps"].append({**guessed, "observation": guessed["observation"] | {"step_index": 2}})
        reason = client.post("/grader", json={"episode_log": log}).json()["reason"]
        assert reason.startswith(told)
        assert ("the replay gives" in reason) is (seed == 90)


def test_closing_what_is_no_session_is_refused(client: TestClient) -> None:
    """As everything is that names no session."""
    for name in ("nobody", "a b", "x" * 200):
        refused(client.delete("/session", headers={HEADER: name}), 404, "unknown_session")
    refused(client.delete("/session"), 409, "not_reset")


def test_a_fork_goes_on_alone(client: TestClient) -> None:
    """Same traffic, other session; the first one does not notice."""
    first = client.post("/reset", json={"seed": 1}).json()["session_id"]
    client.post("/step", json={"action": ACTION})
    fork = client.post("/fork").json()
    assert fork["session_id"] != first
    assert fork["observation"]["step_index"] == 1
    answers = [
        client.post("/step", json={"action": ACTION, "session_id": session}).json()["observation"]
        for session in (fork["session_id"], first)
    ]
    assert answers[0] == answers[1]


def test_before_a_reset_the_state_is_empty(client: TestClient) -> None:
    """As OpenEnv's own servers answer; a session that is named must be there."""
    answer = client.get("/state")
    assert (answer.status_code, answer.json()) == (200, {"episode_id": None, "step_count": 0})
    refused(client.get("/state", params={"session_id": "nobody"}), 404, "unknown_session")
    refused(client.get("/state", headers={HEADER: "nobody"}), 404, "unknown_session")
    client.post("/reset", json={"episode_id": "mine"})
    assert client.get("/state").json()["episode_id"] == "mine"


def test_a_fork_of_a_test_episode_is_a_forecast_that_can_be_drawn_again(client: TestClient) -> None:
    """Each draw is another future; the windows so far and the first session stay."""
    session_id = client.post("/reset", json={"task_id": "bursty_workload", "seed": 2_000_000}).json()["session_id"]
    client.post("/step", json={"action": ACTION})
    log = client.get("/log").json()
    futures = []
    for draw in (0, 0, 1):
        fork = client.post("/fork", json={"draw": draw}).json()["session_id"]
        assert client.get("/log", params={"session_id": fork}).json()["steps"] == log["steps"]
        steps = [client.post("/step", json={"action": ACTION, "session_id": fork}).json() for _ in range(3)]
        futures.append([step["observation"] for step in steps])
    assert client.get("/log").json() == log
    truth = [client.post("/step", json={"action": ACTION}).json()["observation"] for _ in range(3)]
    assert futures[0] == futures[1]
    assert futures[0] != futures[2]
    assert truth not in futures
    assert client.post("/grader", headers={HEADER: session_id}).json()["foresight"] is False
    for draw in (-1, True, 1.5, 2**63):
        assert refused(client.post("/fork", json={"draw": draw}), 422, "invalid_field")["field"] == "draw"


def test_tasks_lists_the_catalogue_and_the_action(client: TestClient) -> None:
    """The validators' three come first."""
    reply = client.get("/tasks").json()
    assert [task["id"] for task in reply["tasks"][:3]] == [
        "static_workload",
        "bursty_workload",
        "adversarial_multitenant",
    ]
    assert set(reply["tasks"][0]["splits"]) == {"train", "validation", "test", "reference"}
    assert reply["action_schema"]["properties"]["batch_cap"]["maximum"] == 512


def test_the_task_api_answers(client: TestClient) -> None:
    """Splits, their sizes, single tasks and ranges; an index beyond the end is a bad request."""
    env = "/llmserve_env"
    assert [split["name"] for split in client.get(f"{env}/splits").json()] == ["train", "validation", "test"]
    size = client.post(f"{env}/num_tasks", json={"split": "test"}).json()["num_tasks"]
    assert size == 1000 * len(client.get("/tasks").json()["tasks"])
    tasks = client.post(f"{env}/task_range", json={"split": "test", "start": 998, "stop": 1002}).json()["tasks"]
    assert [task["index"] for task in tasks] == [998, 999, 1000, 1001]
    assert len(client.post(f"{env}/tasks", json={"split": "train"}).json()["tasks"]) == 1000
    assert client.post(f"{env}/task", json={"split": "test", "index": size}).status_code == 400
    refused(client.post(f"{env}/num_tasks", json={"split": "exam"}), 422, "invalid_field")
    refused(client.post(f"{env}/task_range", json={"split": "train", "start": 0}), 422, "invalid_field")
    refused(client.post(f"{env}/task", json={"split": "test"}), 422, "invalid_field")


def test_baseline_reports_the_heuristic_and_needs_a_key_for_more(client: TestClient) -> None:
    """One task at one seed is quick."""
    report = client.get("/baseline", params={"task_id": "static_workload", "seed": 2_000_000}).json()
    assert report["tasks"] == ["static_workload"]
    refused(client.get("/baseline", params={"use_openai": "true"}), 400, "missing_api_key")
    refused(client.get("/baseline", params={"task_id": "no_such_task"}), 404, "unknown_task")
    refused(client.get("/baseline", params={"seed": "x"}), 422, "invalid_field")


def test_at_capacity_a_newcomer_is_sent_away_and_the_others_do_not_notice(serve: Callable[..., TestClient]) -> None:
    """429, with the time to come back after."""
    full = serve(max_concurrent_envs=1)
    full.post("/reset", json={"seed": 1})
    session_id = full.cookies.get(COOKIE)
    full.cookies.clear()
    response = full.post("/reset")
    refused(response, 429, "at_capacity")
    assert int(response.headers["retry-after"]) >= 1
    assert full.post("/step", json={"action": {}, "session_id": session_id}).status_code == 200


def test_unknown_routes_and_methods_have_the_same_error_body(client: TestClient) -> None:
    """A client decodes one shape."""
    refused(client.get("/nowhere"), 404, "not_found")
    refused(client.get("/step"), 405, "method_not_allowed")
    refused(client.get("/state", params={"session": "x"}), 422, "invalid_field")


def test_a_defect_is_told_without_its_trace(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """No path, no class, no message of Python's."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    assert isinstance(client.app, FastAPI)
    monkeypatch.setattr(client.app.state.registry, "state", fail)
    client.post("/reset")
    response = client.get("/state")
    refused(response, 500, "internal_error")
    assert "secret" not in response.text


def test_the_schema_is_the_simulators(client: TestClient) -> None:
    """Units and bounds reach OpenEnv's /schema."""
    schema = client.get("/schema").json()
    assert schema["action"]["properties"]["batch_cap"] == json_schema()["ServeAction"]["properties"]["batch_cap"]
    assert "session_id" in schema["state"]["properties"]
    assert client.get("/metadata").json()["name"] == "LLMServeEnv"
    assert client.get("/health").json() == {"status": "healthy"}
