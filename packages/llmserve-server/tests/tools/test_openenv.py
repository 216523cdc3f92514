"""The same tools in OpenEnv's ways: JSON-RPC at /mcp with its session ids, and as steps over /ws."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from llmserve_server.app import create_app
from llmserve_server.settings import Settings
from llmserve_sim.schema import ACTION_FIELDS

NAMES = ["tasks", "reset", "observe", "set_knobs", "advance", "forecast", "history", "grade"]


def rpc(client: TestClient, method: str, **params: Any) -> dict[str, Any]:
    """Send OpenEnv's JSON-RPC and return the document."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return dict(client.post("/mcp", json=message).json())


def step(socket: WebSocketTestSession, **data: Any) -> dict[str, Any]:
    """Send a step and return the data of the answer."""
    socket.send_json({"type": "step", "data": data})
    return dict(socket.receive_json()["data"])


def test_openenvs_session_plays_an_episode_over_json_rpc(server: TestClient) -> None:
    assert [tool["name"] for tool in rpc(server, "tools/list")["result"]["tools"]] == NAMES
    session_id = rpc(server, "openenv/session/create")["result"]["session_id"]

    def call(name: str, **arguments: Any) -> dict[str, Any]:
        return dict(rpc(server, "tools/call", name=name, arguments=arguments, session_id=session_id)["result"])

    assert call("observe")["isError"]
    assert call("reset", seed=3)["data"]["windows_left"] == 120
    assert call("set_knobs", batch_cap=64)["data"]["changed"] == ["batch_cap"]
    assert len(call("advance", windows=4)["data"]["windows"]) == 4
    refused = call("set_knobs", batch_cap=0)
    assert refused["structuredContent"]["error"]["bound"].endswith("1..512")
    assert "data" not in refused
    assert call("grade")["data"]["verified"] is True
    assert rpc(server, "openenv/session/close", session_id=session_id)["result"]["closed"] is True
    assert "Unknown session_id" in rpc(server, "tools/list", session_id=session_id)["error"]["message"]


def test_tools_are_listed_and_called_as_steps_of_a_socket(server: TestClient) -> None:
    """They act on the episode that plain resets and steps act on."""
    with server.websocket_connect("/ws") as socket:
        tools = step(socket, type="list_tools")["observation"]["tools"]
        assert [tool["name"] for tool in tools] == NAMES
        assert list(tools[3]["input_schema"]["properties"]) == list(ACTION_FIELDS)
        socket.send_json({"type": "reset", "data": {"seed": 7}})
        socket.receive_json()
        assert step(socket, batch_cap=64)["observation"]["step_index"] == 1
        ran = step(socket, type="call_tool", tool_name="advance", arguments={"windows": 3})
        result = ran["observation"]["result"]
        assert result["data"]["windows_run"] == 4
        assert ran["reward"] == pytest.approx(sum(window["reward"] for window in result["data"]["windows"]))
        assert result["data"]["next_configuration"]["batch_cap"] == 64
        assert step(socket, speculation_depth=1)["observation"]["step_index"] == 5
        socket.send_json({"type": "state"})
        assert socket.receive_json()["data"]["step_count"] == 5
        unknown = step(socket, type="call_tool", tool_name="nothing", arguments={})["observation"]
        assert unknown["error"]["error_type"] == "tool_not_found"
        refused = step(socket, type="call_tool", tool_name="advance", arguments={"windows": 0})["observation"]
        assert (refused["error"], refused["result"]["isError"]) == (None, True)
        malformed = step(socket, type="call_tool", tool_name=3)
        assert malformed["error"]["field"] == "tool_name"


def test_a_socket_that_was_reset_by_a_tool_is_not_closed_as_one_that_was_never_reset() -> None:
    with (
        TestClient(create_app(Settings(store_url="sqlite://", web=False, reset_within_s=1))) as client,
        client.websocket_connect("/ws") as socket,
        client.websocket_connect("/ws") as silent,
    ):
        assert step(socket, type="call_tool", tool_name="reset", arguments={"seed": 1})["done"] is False
        with pytest.raises(WebSocketDisconnect):
            silent.receive_json()
        assert step(socket, batch_cap=64)["observation"]["step_index"] == 1


def test_json_rpc_inside_a_socket_and_on_its_own_reaches_the_same_tools(server: TestClient) -> None:
    message = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "reset", "arguments": {"seed": 1}}}
    with server.websocket_connect("/ws") as socket:
        socket.send_json({"type": "mcp", "data": message})
        assert socket.receive_json()["data"]["result"]["data"]["seed"] == 1
        assert step(socket, batch_cap=64)["observation"]["step_index"] == 1
    with server.websocket_connect("/mcp") as socket:
        socket.send_json(message)
        assert socket.receive_json()["result"]["data"]["windows_run"] == 0
        socket.send_json({"type": "step", "data": {}})
        assert socket.receive_json()["error"]["code"] == -32600


def test_openenvs_own_tool_client_works_unchanged(url: str) -> None:
    from openenv.core.mcp_client import MCPToolClient

    async def play() -> None:
        async with MCPToolClient(base_url=url) as env:
            assert [tool.name for tool in await env.list_tools()] == NAMES
            started = await env.call_tool("reset", task_id="bursty_workload", seed=3)
            assert started["windows_left"] == 120
            assert (await env.call_tool("advance", windows=2))["windows_run"] == 2
            assert (await env.call_tool("grade"))["verified"] is True

    asyncio.run(play())
