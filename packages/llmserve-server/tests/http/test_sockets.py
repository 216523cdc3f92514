"""OpenEnv's socket keeps its session, survives what is no message, and says why it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession

from llmserve_server.middleware.websocket import frame_problem
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ServeObservation

ACTION = {"batch_cap": 64, "quantization_tier": "INT8"}


@pytest.fixture
def socket(client: TestClient) -> Iterator[WebSocketTestSession]:
    """An open socket."""
    with client.websocket_connect("/ws") as open_socket:
        yield open_socket


def call(socket: WebSocketTestSession, kind: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a message and return the data of the answer."""
    socket.send_json({"type": kind} | ({} if data is None else {"data": data}))
    return dict(socket.receive_json()["data"])


def whole(data: dict[str, Any]) -> ServeObservation:
    """Put together what OpenEnv took apart."""
    beside = {"reward": data["reward"], "done": data["done"]}
    return ServeObservation.model_validate(data["observation"] | beside)


def test_an_episode_over_a_socket_has_the_bytes_of_one_in_process(socket: WebSocketTestSession) -> None:
    """OpenEnv moves reward and done out of the observation; nothing else changes."""
    env = ServingEnv("bursty_workload")
    assert whole(call(socket, "reset", {"task_id": "bursty_workload", "seed": 7})) == env.reset(7)
    for _ in range(3):
        assert whole(call(socket, "step", ACTION)).model_dump_json() == env.step(ACTION).model_dump_json()


@pytest.mark.parametrize("path", ["/reset", "/health", "/nowhere"])
def test_a_socket_where_there_is_none_is_told_so(client: TestClient, path: str) -> None:
    """As a request is, with the error's document."""
    with pytest.raises(WebSocketDenialResponse) as refusal, client.websocket_connect(path):
        raise AssertionError
    assert (refusal.value.status_code, refusal.value.json()["error"]["code"]) == (404, "not_found")


def test_state_holds_the_key_to_the_session(client: TestClient, socket: WebSocketTestSession) -> None:
    """With it the episode is seen, graded and gone on with over HTTP while the socket is open."""
    call(socket, "reset", {"seed": 7, "episode_id": "shared"})
    call(socket, "step", ACTION)
    state = call(socket, "state")
    headers = {"X-Session-Id": state["session_id"]}
    assert client.get("/state", headers=headers).json() == state
    assert client.post("/grader", json={"episode_id": "shared"}, headers=headers).json()["verified"] is True
    client.post("/step", json={"action": {}}, headers=headers)
    assert call(socket, "state")["step_count"] == 2


def test_a_closed_socket_lets_go_and_its_session_is_resumed(client: TestClient) -> None:
    """The place in memory is free at once; the episode is still there for who knows its key."""
    with client.websocket_connect("/ws") as socket:
        call(socket, "reset", {"seed": 7})
        last = call(socket, "step", ACTION)
        session_id = call(socket, "state")["session_id"]
    with client.websocket_connect("/ws") as socket:
        assert call(socket, "reset", {"session_id": session_id, "resume": True}) == last
        assert call(socket, "state")["step_count"] == 1


def test_a_socket_keeps_its_session_from_episode_to_episode(socket: WebSocketTestSession) -> None:
    """Another reset is another episode of the same session."""
    call(socket, "reset", {})
    first = call(socket, "state")
    call(socket, "reset", {})
    second = call(socket, "state")
    assert first["session_id"] == second["session_id"]
    assert first["episode_id"] != second["episode_id"]


def test_a_repeated_step_is_applied_once(socket: WebSocketTestSession) -> None:
    """The step index travels in OpenEnv's metadata."""
    call(socket, "reset", {"seed": 7})
    step = ACTION | {"metadata": {"step_index": 0}}
    assert call(socket, "step", step) == call(socket, "step", step)
    error = call(socket, "step", ACTION | {"metadata": {"step_index": 5}})["error"]
    assert (error["code"], error["field"]) == ("step_conflict", "step_index")
    assert call(socket, "step", ACTION | {"metadata": {"step_index": "0"}})["error"]["field"] == "metadata.step_index"


@pytest.mark.parametrize(
    ("kind", "data", "code", "field", "openenv"),
    [
        ("step", {"batch_cap": 0}, "invalid_field", "batch_cap", "VALIDATION_ERROR"),
        ("step", {"batch_cap": 1.0}, "invalid_field", "batch_cap", "VALIDATION_ERROR"),
        ("step", {"unknown": 1}, "invalid_field", "unknown", "VALIDATION_ERROR"),
        ("step", {"metadata": 3}, "invalid_field", "metadata", "VALIDATION_ERROR"),
        ("step", None, "invalid_field", "data", "VALIDATION_ERROR"),
        ("reset", {"seed": "7"}, "invalid_field", "seed", "VALIDATION_ERROR"),
        ("reset", {"sead": 7}, "invalid_field", "sead", "VALIDATION_ERROR"),
        ("reset", {"self": 7}, "invalid_field", "self", "VALIDATION_ERROR"),
        ("reset", {"task_id": "no_such_task"}, "unknown_task", "task_id", "EXECUTION_ERROR"),
        ("reset", {"session_id": "nobody"}, "unknown_session", "session_id", "EXECUTION_ERROR"),
        ("state", {}, "invalid_field", "data", "VALIDATION_ERROR"),
        ("jump", {}, "invalid_field", "type", "UNKNOWN_TYPE"),
    ],
)
def test_a_refusal_is_typed_and_changes_nothing(
    socket: WebSocketTestSession, kind: str, data: dict[str, Any] | None, code: str, field: str, openenv: str
) -> None:
    """OpenEnv's code for OpenEnv's clients, ours with field and bound beside it."""
    call(socket, "reset", {"seed": 7})
    answer = call(socket, kind, data)
    assert (answer["code"], answer["error"]["code"], answer["error"]["field"]) == (openenv, code, field)
    assert answer["message"] == answer["error"]["message"]
    assert call(socket, "state")["step_count"] == 0


def test_a_step_before_a_reset_is_refused(socket: WebSocketTestSession) -> None:
    """With the code that HTTP gives."""
    assert call(socket, "step", ACTION)["error"]["code"] == "not_reset"
    assert call(socket, "state") == {"episode_id": None, "step_count": 0}


NO_MESSAGES = [
    "",
    "text",
    "{",
    "[]",
    "3",
    "null",
    '"reset"',
    '{"type": "step", "data": ' + '{"a":' * 500 + "1" + "}" * 501,
    "[" * 100_000,
    '{"type": "step", "data": {"batch_cap": ' + "9" * 5000 + "}}",
    '{"type": "step", "data": {"batch_cap": "\\ud800"}}',
    '{"type": "step", "data": {"kv_budget_fraction": NaN}}',
    '{"type": "step", "data": {"kv_budget_fraction": Infinity}}',
    '{"type": "step", "data": {"kv_budget_fraction": 1e999}}',
    '{"type": NaN}',
    '{"type": ["step"]}',
    '{"type": "step", "data": 3}',
    '{"type": "step", "data": {}, "extra": {}}',
    '{"data": {}}',
]


@pytest.mark.parametrize("text", NO_MESSAGES)
def test_what_is_no_message_is_answered_and_the_socket_lives(socket: WebSocketTestSession, text: str) -> None:
    """An error frame, and the session goes on."""
    call(socket, "reset", {"seed": 7})
    socket.send_text(text)
    answer = socket.receive_json()
    assert answer["type"] == "error"
    assert answer["data"]["error"]["code"] == "invalid_field"
    assert call(socket, "step", ACTION)["done"] is False


def test_binary_and_large_frames_are_answered(serve: Callable[..., TestClient]) -> None:
    """The bound is a setting, in bytes."""
    with serve(max_message_bytes=2000).websocket_connect("/ws") as socket:
        call(socket, "reset", {"seed": 7})
        socket.send_bytes(b'{"type":"state"}')
        assert socket.receive_json()["data"]["error"]["field"] == "message"
        socket.send_text('{"type":"step","data":{"a":"' + "x" * 2000 + '"}}')
        assert socket.receive_json()["data"]["error"]["code"] == "too_large"
        socket.send_text('{"type":"step","data":{"a":"' + "é" * 1000 + '"}}')
        assert socket.receive_json()["data"]["error"]["code"] == "too_large"
        assert call(socket, "step", ACTION)["done"] is False


def test_messages_pass_the_guard_unread() -> None:
    """Whatever the guard lets pass is what OpenEnv can read."""
    for message in ({"type": "reset", "data": {}}, {"type": "step", "data": ACTION}, {"type": "state"}):
        assert frame_problem(json.dumps(message), 2**20) is None
    assert frame_problem('{"type":"step","data":{"metadata":{"note":"caf\\u00e9"}}}', 2**20) is None


def _soon(holds: Callable[[], bool], limit_s: float = 10.0) -> bool:
    """Whether something holds within a while: a client that leaves does not wait until the server has seen it go."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def test_at_capacity_a_socket_is_told_so(serve: Callable[..., TestClient]) -> None:
    """OpenEnv's code, and ours with the time to come back after."""
    client = serve(max_concurrent_envs=1)
    with client.websocket_connect("/ws") as first:
        call(first, "reset", {"seed": 7})
        with client.websocket_connect("/ws") as second:
            answer = call(second, "reset", {"seed": 7})
            assert call(second, "step", ACTION)["error"]["code"] == "not_reset"
        assert (answer["code"], answer["error"]["code"]) == ("CAPACITY_REACHED", "at_capacity")
        assert answer["error"]["retry_after_s"] > 0
        assert call(first, "step", ACTION)["done"] is False


def test_an_address_has_its_share_over_both_transports_together(serve: Callable[..., TestClient]) -> None:
    """The others' places stay free."""
    client = serve(address="10.0.0.1", max_sessions_per_address=2)
    client.post("/reset", json={"seed": 7})
    client.cookies.clear()
    with client.websocket_connect("/ws") as socket:
        call(socket, "reset", {"seed": 7})
        refused = client.post("/reset", json={"seed": 7})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "at_capacity")
        with client.websocket_connect("/ws") as another:
            another.send_json({"type": "reset", "data": {"seed": 7}})
            assert another.receive_json()["data"]["error"]["code"] == "at_capacity"
        assert call(socket, "step", ACTION)["done"] is False
    assert _soon(lambda: client.post("/reset", json={"seed": 7}).status_code == 200), "a closed socket leaves its place"


def test_mcp_frames_that_are_no_messages_are_answered_in_its_own_way(client: TestClient) -> None:
    """JSON-RPC, with its codes."""
    with client.websocket_connect("/mcp") as socket:
        socket.send_bytes(b"{}")
        assert socket.receive_json()["error"]["code"] == -32600
        socket.send_text("[" * 1000)
        assert socket.receive_json()["error"]["code"] == -32700
        socket.send_json({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert socket.receive_json()["id"] == 1
