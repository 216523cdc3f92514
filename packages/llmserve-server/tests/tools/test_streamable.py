"""MCP's streamable HTTP at /mcp: what it answers to, and that nothing that is sent there fails, hangs or stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from llmserve_server.tools import streamable
from llmserve_server.tools.streamable import PROTOCOLS

Call = Callable[..., httpx.Response]


def tool(call: Call, session: str, name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool and return its result."""
    response = call("tools/call", {"name": name, "arguments": arguments}, session=session)
    assert response.status_code == 200, response.text
    return dict(response.json()["result"])


@pytest.mark.parametrize(
    ("wanted", "spoken"), [*((v, v) for v in PROTOCOLS), ("2031-01-01", PROTOCOLS[0]), (7, PROTOCOLS[0])]
)
def test_initialize_agrees_on_a_revision_and_names_the_session(call: Call, wanted: object, spoken: str) -> None:
    response = call("initialize", {"protocolVersion": wanted, "capabilities": {}, "clientInfo": {"name": "t"}})
    result = response.json()["result"]
    assert result["protocolVersion"] == spoken
    assert result["capabilities"] == {"tools": {"listChanged": False}}
    assert len(response.headers["mcp-session-id"]) >= 32


def test_requests_are_answered_and_notifications_are_taken(call: Call, server: TestClient, session: str) -> None:
    headers = {"Mcp-Session-Id": session, "MCP-Protocol-Version": PROTOCOLS[0]}
    for message in (
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        {"jsonrpc": "2.0", "id": 3, "result": {}},
    ):
        taken = server.post("/mcp", json=message, headers=headers)
        assert (taken.status_code, taken.content) == (202, b"")
    assert call("ping", session=session).json()["result"] == {}
    assert call("ping", session=session).json()["id"] == 3
    assert call("resources/list", session=session).json()["error"]["code"] == -32601
    assert server.get("/mcp", headers=headers).status_code == 405


def test_a_session_that_does_not_exist_is_not_found(call: Call, server: TestClient, session: str) -> None:
    """As the protocol has it: the client then initializes again. A deleted session is as unknown as another one."""
    tool(call, session, "reset", seed=3)
    assert server.delete("/mcp", headers={"Mcp-Session-Id": session}).status_code == 204
    for unknown in (session, "nobody", "é" * 10, "a" * 5000, "../state", ""):
        headers = {"Mcp-Session-Id": unknown.encode("utf-8")}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert server.post("/mcp", json=message, headers=headers).status_code == 404, unknown
        assert server.delete("/mcp", headers=headers).status_code == 404, unknown
    assert server.delete("/mcp").status_code == 400


def test_places_are_those_of_the_registry_from_the_first_reset_on(serve: Callable[..., TestClient]) -> None:
    """Sessions that only say hello take none; at capacity a reset is a tool error that says when to come back."""
    client = serve(max_concurrent_envs=2)
    sessions = [hello(client) for _ in range(20)]
    assert client.post("/reset", json={"seed": 1}).status_code == 200
    results = [ask(client, session, "reset", {"seed": 1}) for session in sessions[:3]]
    assert [result["isError"] for result in results] == [False, True, True]
    error = results[1]["structuredContent"]["error"]
    assert (error["code"], error["retry_after_s"] > 0) == ("at_capacity", True)
    assert client.delete("/mcp", headers={"Mcp-Session-Id": sessions[0]}).status_code == 204
    assert not ask(client, sessions[1], "reset", {"seed": 1})["isError"]


def test_an_address_has_its_share_over_mcp_too(serve: Callable[..., TestClient]) -> None:
    client = serve(max_sessions_per_address=1)
    client.headers["X-Forwarded-For"] = "203.0.113.7"  # callers on this machine have no share
    assert not ask(client, hello(client), "reset", {"seed": 1})["isError"]
    assert ask(client, hello(client), "reset", {"seed": 1})["structuredContent"]["error"]["code"] == "at_capacity"


def test_a_session_is_ended_without_a_place(serve: Callable[..., TestClient]) -> None:
    client = serve(max_concurrent_envs=1, yield_after_s=0)
    sessions = [hello(client) for _ in range(2)]
    for session in sessions:  # the second takes the place of the first
        assert not ask(client, session, "reset", {"seed": 1})["isError"]
    assert client.delete("/mcp", headers={"Mcp-Session-Id": sessions[0]}).status_code == 204
    assert client.delete("/mcp", headers={"Mcp-Session-Id": sessions[0]}).status_code == 404
    assert not ask(client, sessions[1], "observe", {})["isError"]


def test_hellos_of_one_address_do_not_push_out_anothers_session(
    serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve_server.tools.streamable._MOST_SESSIONS", 8)
    client = serve()
    mine = hello(client)
    client.headers["X-Forwarded-For"] = "203.0.113.7"
    for _ in range(20):
        hello(client)
    assert len(client.app.state.mcp) == 8  # type: ignore[attr-defined]
    del client.headers["X-Forwarded-For"]
    assert not ask(client, mine, "reset", {"seed": 1})["isError"]


def test_a_reset_after_the_store_has_pruned_the_session_begins_one(serve: Callable[..., TestClient]) -> None:
    client = serve()
    session = hello(client)
    with client.websocket_connect("/ws") as socket:
        for _ in range(2):
            assert not ask(client, session, "reset", {"seed": 1})["isError"]
            socket.send_json({"type": "reset", "data": {"seed": 1}})
            assert socket.receive_json()["type"] == "observation"
            registry = client.app.state.registry  # type: ignore[attr-defined]
            for found in registry.open_sessions():
                registry.close(found.session_id)
            assert registry._store.prune(float("inf"), 100) == 2


def test_a_session_that_is_brought_back_says_that_waiting_knobs_are_lost(
    serve: Callable[..., TestClient], tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'episodes.db'}"
    first = serve(store_url=store)
    session = hello(first)
    ask(first, session, "reset", {"seed": 7})
    ask(first, session, "set_knobs", {"batch_cap": 7})
    second = serve(store_url=store)
    said = [ask(second, session, "advance", {"windows": 1})["content"][0]["text"] for _ in range(2)]
    assert ["knobs that were set and not run yet are lost" in text for text in said] == [True, False]


def test_an_episode_goes_on_after_the_process_has_ended(serve: Callable[..., TestClient], tmp_path: Path) -> None:
    """Another process with the same store answers to the same Mcp-Session-Id."""
    store = f"sqlite:///{tmp_path / 'episodes.db'}"
    first = serve(store_url=store)
    session = hello(first)
    ask(first, session, "reset", {"seed": 7})
    ask(first, session, "set_knobs", {"batch_cap": 77})
    before = ask(first, session, "advance", {"windows": 3})
    second = serve(store_url=store)
    after = ask(second, session, "advance", {"windows": 2})
    assert after["structuredContent"]["windows_run"] == before["structuredContent"]["windows_run"] + 2
    assert after["structuredContent"]["next_configuration"]["batch_cap"] == 77
    assert ask(second, session, "grade", {})["structuredContent"]["verified"] is True


def test_sessions_that_are_left_behind_are_forgotten(serve: Callable[..., TestClient], monkeypatch: Any) -> None:
    """The oldest beyond a limit, and idle ones; one with an episode comes back when it is used."""
    monkeypatch.setattr(streamable, "_MOST_SESSIONS", 5)
    client = serve()
    sessions = [hello(client) for _ in range(3)]
    ask(client, sessions[0], "reset", {"seed": 1})
    for _ in range(10):
        hello(client)
    assert len(client.app.state.mcp) == 5  # type: ignore[attr-defined]
    assert say(client, sessions[1], "tools/list").status_code == 404
    assert ask(client, sessions[0], "advance", {"windows": 1})["structuredContent"]["windows_run"] == 1
    client.app.state.mcp._idle_s = 0.0  # type: ignore[attr-defined]
    client.app.state.mcp.forget_idle()  # type: ignore[attr-defined]
    assert len(client.app.state.mcp) == 0  # type: ignore[attr-defined]
    assert ask(client, sessions[0], "observe", {})["structuredContent"]["windows_run"] == 1


def test_windows_that_ran_before_a_failure_are_told_by_the_next_call(
    call: Call, server: TestClient, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(call, session, "reset", seed=3)
    registry = server.app.state.registry  # type: ignore[attr-defined]
    step = registry.step

    def third_fails(*arguments: Any, step_index: int, **options: Any) -> Any:
        if step_index == 2:
            monkeypatch.undo()
            raise RuntimeError("/secret/path")
        return step(*arguments, step_index=step_index, **options)

    monkeypatch.setattr(registry, "step", third_fails)
    failed = tool(call, session, "advance", windows=4)
    assert failed["isError"]
    assert "secret" not in failed["content"][0]["text"]
    shown = tool(call, session, "advance", windows=1)["structuredContent"]["windows"]
    assert [window["step_index"] for window in shown] == [1, 2, 3]


DEEP = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + '{"a":' * 5000 + "1" + "}" * 5001
BODIES: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"3",
    b"null",
    b"\xff\xfe",
    b"\x00",
    b"{}",
    DEEP.encode(),
    b"[" * 100_000,
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
    b'{"jsonrpc":"2.0","id":"\\ud800","method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\udfff","arguments":{}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"reset","arguments":{"task_id":"a\\u0000"}}}',
    b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"advance","arguments":{"windows":'
    + b"9" * 4000
    + b"}}}",
    b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":{},"method":"ping"}',
    b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":["ping"]}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":{},"arguments":{}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"reset","arguments":[1]}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"reset","arguments":"{}"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"forecast","arguments":{"plan":[[]]}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"session_id":{}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"session_id":["a"]}}',
    b'{"jsonrpc":"2.0","id":1,"method":"openenv/session/close","params":{"session_id":[]}}',
    b'{"jsonrpc":"2.0","id":1,"method":"openenv/session/close","params":{"session_id":"x"}}',
    b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":{}}}',
    b'{"jsonrpc":"2.0","method":"initialize"}',
    b'{"jsonrpc":"2.0","id":1,"method":"no/such/method"}',
]


@pytest.mark.parametrize("inside", [True, False], ids=["in a session", "outside"])
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_no_body_is_answered_with_a_5xx_and_the_session_lives(
    call: Call, server: TestClient, session: str, body: bytes, inside: bool
) -> None:
    headers = {"Content-Type": "application/json"} | ({"Mcp-Session-Id": session} if inside else {})
    response = server.post("/mcp", content=body, headers=headers)
    assert response.status_code < 500, response.text
    if response.content:
        document = response.json()
        assert "result" in document or "error" in document
    assert call("ping", session=session).json()["result"] == {}


def hello(client: TestClient) -> str:
    """Begin a session and return its id."""
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}}
    return str(client.post("/mcp", json=message).headers["mcp-session-id"])


def say(client: TestClient, session: str, method: str, params: object = None) -> httpx.Response:
    """Send one request of a session."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method} | ({} if params is None else {"params": params})
    return client.post("/mcp", json=message, headers={"Mcp-Session-Id": session})


def ask(client: TestClient, session: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a tool of a session and return its result."""
    response = say(client, session, "tools/call", {"name": name, "arguments": arguments})
    assert response.status_code == 200, response.text
    return dict(response.json()["result"])
