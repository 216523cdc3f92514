"""The tools in OpenEnv's ways: its JSON-RPC at `/mcp`, and `list_tools` and `call_tool` as steps over `/ws`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self

from openenv.core.env_server.mcp_types import (
    CallToolAction,
    CallToolObservation,
    ListToolsObservation,
    Tool,
    ToolError,
    ToolErrorType,
)

from llmserve_agents.tools import Answer, definitions
from llmserve_server.tools.session import tool_result

__all__ = ["ToolClient", "tool_observation", "tools_observation"]


class ToolClient:
    """What OpenEnv's `/mcp` asks for tools: an MCP client that is always connected.

    `call` calls a tool of the environment that it belongs to.
    """

    def __init__(self, tools: Callable[[], list[dict[str, Any]]], call: Callable[..., Awaitable[Answer]]) -> None:
        self._tools = tools
        self._call = call

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def is_connected(self) -> bool:
        """Return whether calls need no connection first."""
        return True

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools in the words of MCP."""
        return self._tools()

    async def call_tool(self, name: object, arguments: object = None) -> dict[str, Any]:
        """Call a tool."""
        return _result(await self._call(name, arguments))


def tools_observation(tools: list[dict[str, Any]]) -> ListToolsObservation:
    """Return OpenEnv's observation with the tools."""
    listed = [
        Tool(name=tool["name"], description=tool["description"], input_schema=tool["inputSchema"]) for tool in tools
    ]
    return ListToolsObservation(tools=listed)


def tool_observation(action: CallToolAction, answer: Answer) -> CallToolObservation:
    """Return OpenEnv's observation of a tool call; its reward is the sum of those that the call earned."""
    known = {tool.name for tool in definitions()}
    error = None
    if action.tool_name not in known:
        error = ToolError(error_type=ToolErrorType.TOOL_NOT_FOUND, message=answer.text)
    ran = answer.data.get("windows", []) if action.tool_name == "advance" else []
    return CallToolObservation(
        tool_name=action.tool_name,
        result=_result(answer),
        error=error,
        done=bool(answer.data.get("done", False)),
        reward=sum(window["reward"] for window in ran),
    )


def _result(answer: Answer) -> dict[str, Any]:
    """Return MCP's result, with `data`, which OpenEnv's client returns to its caller where a call succeeded."""
    result = tool_result(answer)
    return result if answer.failed else result | {"data": answer.data}
