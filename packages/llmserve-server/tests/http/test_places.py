"""Idle sockets and MCP sessions take nobody's place, and one account holds for every transport."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

Serve = Callable[..., TestClient]
CREATE = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"}


def call(socket: WebSocketTestSession, kind: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a message and return the data of the answer."""
    socket.send_json({"type": kind} | ({} if data is None else {"data": data}))
    return dict(socket.receive_json()["data"])


def soon(holds: Callable[[], bool], limit_s: float = 20.0) -> bool:
    """Return whether something holds within a while."""
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("path", ["/ws", "/mcp"])
def test_idle_sockets_lock_nobody_out(serve: Serve, path: str) -> None:
    client = serve(max_concurrent_envs=4)
    with ExitStack() as sockets:
        for _ in range(12):
            sockets.enter_context(client.websocket_connect(path))
        assert client.post("/reset", json={"seed": 1}).status_code == 200
        with client.websocket_connect("/ws") as socket:
            assert call(socket, "reset", {"seed": 1})["done"] is False


def test_mcp_sessions_that_are_only_created_lock_nobody_out(serve: Serve) -> None:
    client = serve(max_concurrent_envs=4)
    answers = [client.post("/mcp", json=CREATE).json() for _ in range(300)]
    assert all(answer["result"]["session_id"] for answer in answers)
    with client.websocket_connect("/ws") as socket:
        assert call(socket, "reset", {"seed": 1})["done"] is False
    assert client.post("/reset", json={"seed": 1}).status_code == 200


def test_of_the_mcp_sessions_that_are_only_created_the_idlest_goes(serve: Serve) -> None:
    client = serve(max_concurrent_envs=4)

    def is_known(session_id: str) -> bool:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"session_id": session_id}}
        return "Unknown session_id" not in client.post("/mcp", json=body).text

    first, kept = (client.post("/mcp", json=CREATE).json()["result"]["session_id"] for _ in range(2))
    for _ in range(70):
        client.post("/mcp", json=CREATE)
        assert is_known(kept)
    assert not is_known(first)


def test_a_silent_socket_that_was_never_reset_is_closed_and_others_are_not(serve: Serve) -> None:
    client = serve(reset_within_s=1)
    with client.websocket_connect("/ws") as silent, client.websocket_connect("/ws") as busy:
        call(busy, "reset", {"seed": 1})
        with pytest.raises(WebSocketDisconnect) as closed:
            silent.receive_json()
        assert closed.value.code == 1013
        assert call(busy, "step", {})["done"] is False


def test_a_socket_that_is_attached_to_an_episode_is_not_taken_for_one_without(serve: Serve) -> None:
    client = serve(reset_within_s=1)
    session_id = client.post("/mcp", json=CREATE).json()["result"]["session_id"]
    with client.websocket_connect(f"/ws?session_id={session_id}") as first:
        call(first, "reset", {"seed": 1})
    with client.websocket_connect(f"/ws?session_id={session_id}") as again, client.websocket_connect("/ws") as silent:
        assert call(again, "step", {})["observation"]["step_index"] == 1
        with pytest.raises(WebSocketDisconnect):
            silent.receive_json()
        assert call(again, "step", {})["observation"]["step_index"] == 2


def test_a_socket_that_talks_is_not_closed_before_its_reset(serve: Serve) -> None:
    client = serve(reset_within_s=1)
    with client.websocket_connect("/ws") as socket:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert call(socket, "state")["step_count"] == 0
            time.sleep(0.1)
        assert call(socket, "reset", {"seed": 1})["done"] is False


def test_an_idle_socket_yields_its_place_and_goes_on_when_it_is_used(serve: Serve) -> None:
    client = serve(max_concurrent_envs=1, yield_after_s=0)
    with client.websocket_connect("/ws") as first, client.websocket_connect("/ws") as second:
        call(first, "reset", {"seed": 1})
        for index in range(1, 4):
            for socket in (second, first):
                if socket is second and index == 1:
                    call(second, "reset", {"seed": 1})
                assert call(socket, "step", {})["observation"]["step_index"] == index


def test_an_address_has_one_share_over_http_sockets_and_the_page(serve: Serve) -> None:
    client = serve(address="10.0.0.1", max_concurrent_envs=8)
    registry = client.app.state.registry  # type: ignore[attr-defined]
    with ExitStack() as sockets:
        took = 0
        for number in range(4):
            socket = sockets.enter_context(client.websocket_connect("/ws"))
            took += "error" not in call(socket, "reset", {"seed": number})
            client.cookies.clear()
            took += client.post("/reset", json={"seed": number}).status_code == 200
        assert took == 2
        assert registry.stats().live == 2
        page = client.get("/metrics").text
        assert 'llmserve:sessions{task_id="static_workload",transport="http"} 1.0' in page
        assert 'llmserve:sessions{task_id="static_workload",transport="websocket"} 1.0' in page
        assert "llmserve:session_places 8.0" in page
    assert soon(lambda: registry.stats().live == 1), "the closed socket leaves its place"


def test_made_up_forwarding_headers_win_no_places(serve: Serve) -> None:
    client = serve(max_concurrent_envs=16)
    statuses = []
    for number in range(16):
        client.cookies.clear()
        headers = {"X-Forwarded-For": f"1.1.1.{number}", "User-Agent": f"agent {number}"}
        statuses.append(client.post("/reset", json={"seed": 1}, headers=headers).status_code)
    assert statuses == [200] * 4 + [429] * 12
    client.cookies.clear()
    assert client.post("/reset", json={"seed": 1}).status_code == 200, "who is not behind that proxy has a place"
