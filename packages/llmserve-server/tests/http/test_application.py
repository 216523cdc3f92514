"""The application as a whole: whose routes answer, what OpenAPI says, tokens, sizes, logs, metrics and the command."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import WebSocketDenialResponse

from llmserve_server.app import create_app
from llmserve_server.settings import Settings
from llmserve_server.wire import ErrorBody

TOKEN = "correct-horse"  # noqa: S105 - of a server that lives as long as its test
OURS = {
    ("post", "/reset"): {401, 404, 409, 413, 422, 429, 503},
    ("post", "/step"): {401, 404, 409, 413, 422, 429, 503},
    ("get", "/state"): {401, 404, 409, 422, 429, 503},
    ("get", "/log"): {401, 404, 409, 422, 429, 503},
    ("delete", "/session"): {401, 404, 409, 413, 422, 429, 503},
    ("post", "/fork"): {401, 404, 409, 413, 422, 429, 503},
    ("post", "/grader"): {401, 404, 409, 413, 422, 429, 503},
    ("get", "/baseline"): {400, 401, 403, 404, 422, 429, 502},
    ("post", "/baseline"): {400, 401, 403, 404, 413, 422, 429, 502},
    ("get", "/tasks"): {401},
    ("get", "/metrics"): {401},
}


def application(client: TestClient) -> FastAPI:
    """Return the application behind a client."""
    app = client.app
    assert isinstance(app, FastAPI)
    return app


def test_our_reset_step_and_state_answer_and_not_openenvs(client: TestClient) -> None:
    """OpenAPI and behaviour agree: each path is there once, and a step goes on from the reset before it."""
    document = client.get("/openapi.json").json()
    for path, method in (("/reset", "post"), ("/step", "post"), ("/state", "get")):
        assert document["paths"][path][method]["summary"] in {
            "Start an episode",
            "Run one window",
            "Where the episode stands",
        }
        schema = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
        names = {part["$ref"].rsplit("/", 1)[1] for part in schema.get("anyOf", [schema])}
        assert names in ({"SessionReply"}, {"WireState", "EmptyState"})
    client.post("/reset", json={"seed": 1})
    for index in (1, 2):
        assert client.post("/step", json={"action": {}}).json()["observation"]["step_index"] == index
    assert client.get("/state").json()["step_count"] == 2


def test_openapi_declares_every_status_that_a_route_answers(client: TestClient) -> None:
    """The statuses are those that the routes' tests meet, with the one error body."""
    document = client.get("/openapi.json").json()
    assert document["info"]["version"].startswith("1.")
    for (method, path), statuses in OURS.items():
        responses = document["paths"][path][method]["responses"]
        assert {int(status) for status in responses} == statuses | {204 if method == "delete" else 200}, path
        for status in statuses:
            reference = responses[str(status)]["content"]["application/json"]["schema"]["$ref"]
            assert reference == "#/components/schemas/ErrorBody"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert path == "/health" or "401" in operation["responses"], (method, path)


def test_openapi_refers_to_nothing_that_is_missing(client: TestClient) -> None:
    """Every reference has its schema, and the action's bounds are in it."""
    document = client.get("/openapi.json").json()
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])
    assert document["components"]["schemas"]["ServeAction"]["properties"]["batch_cap"]["maximum"] == 512


def test_a_token_guards_everything_but_health_and_the_page(serve: Callable[..., TestClient]) -> None:
    """Over HTTP and at a socket's handshake; the answer never repeats what was sent."""
    client = serve(api_token=TOKEN)
    bearer = {"Authorization": "Bearer correct-horse"}
    assert client.get("/health").status_code == 200
    for path in ("/tasks", "/state", "/metrics", "/schema", "/openapi.json", "/docs", "/nowhere"):
        for headers in ({}, {"Authorization": "Bearer wrong-horse"}, {"Authorization": "correct-horse"}):
            response = client.get(path, headers=headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            assert ErrorBody.model_validate(response.json()).error.code == "unauthorized"
            assert "horse" not in response.text
    assert client.get("/tasks", headers=bearer).status_code == 200
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/ws"):
        pass
    assert refused.value.status_code == 401
    assert refused.value.json()["error"]["code"] == "unauthorized"
    with client.websocket_connect("/ws", headers=bearer) as accepted:
        accepted.send_json({"type": "reset", "data": {}})
        assert accepted.receive_json()["type"] == "observation"


def test_a_body_beyond_its_bound_is_refused_with_and_without_a_length(serve: Callable[..., TestClient]) -> None:
    """The grader has a bound of its own; OpenEnv's routes have ours."""
    client = serve(max_body_bytes=1024, max_log_bytes=4096)

    def parts(size: int) -> Any:
        for _ in range(size // 512):
            yield b" " * 512

    for path in ("/reset", "/step", "/fork", "/mcp", "/llmserve_env/tasks"):
        assert client.post(path, content=b" " * 2000).status_code == 413
        response = client.post(path, content=parts(2048))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert client.post("/grader", content=b" " * 2000).status_code == 409
    assert client.post("/grader", content=b" " * 5000).status_code == 413
    assert client.post("/reset", content=parts(1024)).status_code == 200


def test_a_log_with_too_many_steps_is_refused(serve: Callable[..., TestClient]) -> None:
    """The bound is a setting."""
    client = serve(max_log_steps=2)
    client.post("/reset")
    for _ in range(3):
        client.post("/step", json={"action": {}})
    response = client.post("/grader", json={"episode_log": client.get("/log").json()})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")


def test_each_request_has_an_id_of_its_own_or_its_callers(client: TestClient) -> None:
    """One that is no plain word is replaced."""
    assert client.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    given = client.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", given)
    assert client.get("/health").headers["x-request-id"] != given


@pytest.mark.parametrize("path", ["/health", "/tasks", "/metadata", "/openapi.json", "/nowhere", "/state"])
def test_head_is_get_without_a_body(client: TestClient, path: str) -> None:
    """Refusals too; what is only posted stays so."""
    asked, told = client.head(path), client.get(path)
    assert (asked.status_code, asked.content) == (told.status_code, b"")
    for header in ("content-type", "content-length"):
        assert asked.headers[header] == told.headers[header]
    assert client.head("/step").status_code == 405


def test_head_needs_the_token_and_is_logged_as_what_it_was(serve: Callable[..., TestClient]) -> None:
    """The layer that makes a GET of it is beneath those that guard and log."""
    client = serve(api_token=TOKEN)
    assert client.head("/tasks").status_code == 401
    assert client.head("/health").status_code == 200
    with structlog.testing.capture_logs() as lines:
        client.head("/tasks", headers={"Authorization": f"Bearer {TOKEN}"})
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [("HEAD", "/tasks", 200)]


def test_made_up_methods_and_callers_who_left_have_labels_of_their_own(serve: Callable[..., TestClient]) -> None:
    client = serve()
    client.request("BREW", "/tasks")

    async def leave() -> None:
        async def receive() -> dict[str, str]:
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            raise AssertionError(message)

        headers = [(b"host", b"localhost"), (b"content-length", b"9")]
        scope = {"type": "http", "method": "POST", "path": "/step", "headers": headers, "client": ("127.0.0.1", 1)}
        await client.app(scope, receive, send)

    asyncio.run(leave())
    page = client.get("/metrics").text
    assert "BREW" not in page
    assert 'method="other"' in page
    assert 'method="POST",route="unmatched",status="499"' in page
    assert 'status="500"' not in page


def test_metrics_keep_no_more_windows_than_there_can_be_sessions(serve: Callable[..., TestClient]) -> None:
    client = serve(max_concurrent_envs=2)
    for seed in range(12):
        named = {"X-Session-Id": client.post("/reset", json={"seed": seed}).json()["session_id"]}
        assert client.post("/step", json={"action": {}}, headers=named).status_code == 200
        assert client.delete("/session", headers=named).status_code == 204
        client.cookies.clear()
    assert len(client.app.state.metrics._last) <= 4  # type: ignore[attr-defined]


def test_logs_hold_no_secret(serve: Callable[..., TestClient], caplog: pytest.LogCaptureFixture) -> None:
    """No session id, no token, no key, no query string; the route's pattern and the status, even at debug."""
    caplog.set_level(logging.DEBUG, "llmserve_server")
    client = serve(api_token=TOKEN, openai_api_key="sk-battery")
    bearer = {"Authorization": "Bearer correct-horse"}
    with structlog.testing.capture_logs() as lines:
        session_id = client.post("/reset", headers=bearer).json()["session_id"]
        client.get("/state", params={"session_id": session_id}, headers=bearer)
        client.get("/log", params={"session_id": session_id}, headers=bearer)
        client.get(f"/{session_id}", headers=bearer)
        client.get("/tasks")
    text = repr(lines)
    for secret in (session_id, "correct-horse", "sk-battery"):
        assert secret not in text
    requests = [(line["route"], line["status"]) for line in lines if line["event"] == "request"]
    assert requests == [("/reset", 200), ("/state", 200), ("/log", 200), ("unmatched", 404), ("unmatched", 401)]


def test_metrics_count_what_happened(serve: Callable[..., TestClient]) -> None:
    """Names are vLLM's for what vLLM means by them, ours for the rest; no session id among the labels."""
    client = serve()
    session_id = client.post("/reset", json={"seed": 1}).json()["session_id"]
    for _ in range(3):
        last = client.post("/step", json={"action": {}}).json()["observation"]
    with client.websocket_connect("/ws") as open_socket:
        open_socket.send_json({"type": "step", "data": {}})
        open_socket.receive_json()
        page = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(values["llmserve:steps_total"]) == 3
    assert float(values["llmserve:websockets"]) == 1
    assert float(values['llmserve:websocket_messages_total{outcome="error"}']) == 1
    assert float(values['llmserve:sessions{task_id="static_workload",transport="http"}']) == 1
    running = values['vllm:num_requests_running{task_id="static_workload"}']
    assert float(running) == last["active_requests"]
    assert session_id not in page


def test_latencies_are_histograms_with_vllms_names_and_bounds(serve: Callable[..., TestClient]) -> None:
    """Their counts are those of the requests that were simulated, whoever stepped; a fork's past is not counted twice."""
    client = serve(engine="auto")
    client.post("/reset", json={"seed": 1})
    for _ in range(12):
        last = client.post("/step", json={"action": {"batch_cap": 64}}).json()["observation"]
    state = client.get("/state").json()
    client.post("/fork")
    page = client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(page)}

    def histogram(name: str) -> tuple[dict[float, float], float, float]:
        family = families[name]
        assert family.type == "histogram"
        assert {sample.labels["task_id"] for sample in family.samples} == {"static_workload"}
        buckets = {float(s.labels["le"]): s.value for s in family.samples if s.name.endswith("_bucket")}
        count, total = (next(s.value for s in family.samples if s.name.endswith(end)) for end in ("_count", "_sum"))
        assert list(buckets.values()) == sorted(buckets.values())
        assert buckets[float("inf")] == count
        return buckets, count, total

    ttft, first_tokens, ttft_sum = histogram("vllm:time_to_first_token_seconds")
    assert list(ttft)[:4] == [0.001, 0.005, 0.01, 0.02]
    assert list(ttft)[-2] == 2560.0
    assert state["finished"] <= first_tokens <= state["arrived"]
    assert ttft_sum > 0
    itl, tokens, itl_sum = histogram("vllm:inter_token_latency_seconds")
    assert list(itl)[:3] == [0.01, 0.025, 0.05]
    assert itl_sum / tokens * 1000 == pytest.approx(last["p50_itl_ms"], rel=0.5)
    e2e, finished, e2e_sum = histogram("vllm:e2e_request_latency_seconds")
    assert list(e2e)[:3] == [0.3, 0.5, 0.8]
    assert finished == state["finished"]
    assert e2e_sum > 0
    assert families["llmserve:time_to_first_token_seconds"].type == "summary"


def test_warnings_name_settings_that_do_not_exist(
    serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable is found at the start."""
    monkeypatch.setenv("LLMSERVE_MAX_BODDY_BYTES", "1")
    with structlog.testing.capture_logs() as lines:
        serve()
    assert [line["variable"] for line in lines if line["event"] == "unknown_setting"] == ["LLMSERVE_MAX_BODDY_BYTES"]


def test_two_applications_in_a_process_do_not_mix() -> None:
    """Nothing is global: neither sessions nor metrics."""
    settings = Settings(store_url="sqlite://", web=False, engine="python")
    with TestClient(create_app(settings)) as first, TestClient(create_app(settings)) as second:
        session_id = first.post("/reset").json()["session_id"]
        assert second.get("/state", params={"session_id": session_id}).status_code == 404


def start(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the command."""
    variables = os.environ | {"LLMSERVE_WEB": "false", "LLMSERVE_ENGINE": "python"} | environment
    return subprocess.Popen(
        [sys.executable, "-m", "llmserve_server", "--host", "127.0.0.1", *arguments],
        env=variables,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )


def test_sigterm_closes_sockets_and_ends_with_zero(tmp_path: Path) -> None:
    """With an open socket, whose client is told that the service restarts; the port comes from $PORT."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(tmp_path, PORT=str(port), LLMSERVE_STORE_URL=f"sqlite:///{tmp_path / 'episodes.db'}")
    try:
        until = time.monotonic() + 300  # of patience, not of expectation: the machine may be busy
        while time.monotonic() < until and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        with connect(f"ws://127.0.0.1:{port}/ws") as open_socket:
            open_socket.send('{"type":"reset","data":{}}')
            assert json.loads(open_socket.recv())["type"] == "observation"
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                open_socket.recv(timeout=120)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code in {1001, 1012}
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        _, errors = process.communicate()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert {"started", "stopped"} <= {line["event"] for line in lines}


def test_a_wrong_setting_stops_the_start_with_its_name(tmp_path: Path) -> None:
    """Exit code 2 and a sentence, no trace."""
    process = start(tmp_path, LLMSERVE_MAX_BODY_BYTES="12", LLMSERVE_STORE_URL="sqlite://")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "LLMSERVE_MAX_BODY_BYTES" in errors
    assert "Traceback" not in errors
