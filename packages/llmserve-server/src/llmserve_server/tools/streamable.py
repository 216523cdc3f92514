"""`McpSessions`: MCP's streamable HTTP at `/mcp`, beside OpenEnv's JSON-RPC there.

Every request is answered with one JSON document, and there is no stream for messages of the server, since it has none.
The official server is not used: its two major versions, which OpenEnv's two releases bring, have different interfaces,
and its sessions live in one process. Here an MCP session is a session of the registry under the same id, so any process
with the same store goes on with it, also after `kill -9`.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmserve_server.__about__ import __version__
from llmserve_server.dispatch import Dispatcher
from llmserve_server.errors import ServiceError, UnknownSession, VersionChanged
from llmserve_server.json_rpc import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, error_document, is_id
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.tools.episode import RegistryEpisode
from llmserve_server.tools.session import ToolSession, tool_result

__all__ = ["PROTOCOLS", "McpReply", "McpSessions", "RpcError"]

PROTOCOLS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""The protocol's revisions that are spoken, the newest first."""
_MOST_SESSIONS: Final = 2048
"""Sessions that are remembered between calls, all addresses' together."""
_INSTRUCTIONS: Final = (
    "Operate a simulated fleet of GPUs that serves a large language model. Call `reset` to start an episode, then "
    "`set_knobs` and `advance` until no windows are left, and `grade` at the end. `tasks` lists the tasks, `forecast` "
    "shows what a plan would bring."
)


@dataclass(frozen=True, slots=True)
class McpReply:
    """An answer over HTTP."""

    status: int
    content: dict[str, Any] | None = None
    """The JSON document; None for an empty body."""
    session_id: str | None = None
    """The session that has begun, for the header `Mcp-Session-Id`."""


class RpcError(Exception):
    """A message that is refused, with JSON-RPC's code and the HTTP status."""

    def __init__(self, code: int, message: str, *, status: int = 200) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class McpSessions:
    """The MCP sessions of one process.

    A session takes a place of the registry from its first `reset` on, as every other one, and gives it back when it is
    deleted or idle. Before that it is only remembered here.

    Args:
        registry: the sessions.
        dispatcher: runs the calls.
        idle_s: a session without an episode that was not used for this long is forgotten, in seconds.
        monotonic: the clock, in seconds.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        dispatcher: Dispatcher,
        *,
        idle_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._idle_s = idle_s
        self._monotonic = monotonic
        self._sessions: OrderedDict[str, tuple[ToolSession, float]] = OrderedDict()
        """By id, the one used longest ago first, with the time of its last use."""
        self._counts: Counter[str | None] = Counter()
        """How many of them each address began."""
        self._deleted: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    async def post(
        self, message: object, *, session_id: str | None, version: str | None, address: str | None
    ) -> McpReply:
        """Answer one message. `session_id` and `version` are the request's headers, `address` the caller's."""
        request_id = message.get("id") if isinstance(message, Mapping) else None
        try:
            method, params = _read(message)
            if method == "initialize":
                return self._initialize(request_id, params, address)
            _check_version(version)
            session = await self._session(session_id, address)
            if method is None or request_id is None:
                return McpReply(202)
            return McpReply(200, _success(request_id, await _answer(session, method, params)))
        except RpcError as error:
            return McpReply(error.status, error_document(error.code, str(error), request_id))

    async def delete(self, session_id: str | None) -> None:
        """End a session. Its episode stays in the store; raises `RpcError` if there is none."""
        if session_id is None:
            raise _unnamed()
        known = self._forget(session_id)
        if session_id in self._deleted:
            raise _unknown()
        try:
            await self._dispatcher.run(self._registry.leave, session_id)  # which needs no place
        except UnknownSession:
            if known is None:
                raise _unknown() from None
        except ServiceError as error:
            raise RpcError(INVALID_REQUEST, error.message, status=error.status) from error
        self._deleted[session_id] = None
        while len(self._deleted) > _MOST_SESSIONS:
            self._deleted.popitem(last=False)

    def forget_idle(self) -> None:
        """Forget the sessions that have been idle. Those with an episode come back from the store when used."""
        since = self._monotonic() - self._idle_s
        while self._sessions and next(iter(self._sessions.values()))[1] <= since:
            self._forget(next(iter(self._sessions)))

    def _initialize(self, request_id: object, params: Mapping[str, Any], address: str | None) -> McpReply:
        if request_id is None:
            raise RpcError(INVALID_REQUEST, "id: is required", status=400)
        wanted = params.get("protocolVersion")
        version = wanted if wanted in PROTOCOLS else PROTOCOLS[0]
        session_id = secrets.token_urlsafe(24)
        self._remember(session_id, self._new(session_id, address))
        result = {
            "protocolVersion": version,
            "capabilities": {"tools": {"listChanged": False}},
            "serverInfo": {"name": "llmserve-env", "title": "LLMServeEnv", "version": __version__},
            "instructions": _INSTRUCTIONS,
        }
        return McpReply(200, _success(request_id, result), session_id)

    async def _session(self, session_id: str | None, address: str | None) -> ToolSession:
        """Return a session that is remembered here, or whose episode is in the store."""
        if session_id is None:
            raise _unnamed()
        found = self._sessions.get(session_id)
        session = self._new(session_id, address) if found is None else found[0]
        if found is None:
            if session_id in self._deleted:
                raise _unknown()
            try:
                await self._dispatcher.run(self._registry.state, session_id)
            except (UnknownSession, VersionChanged):
                raise _unknown() from None
            except ServiceError as error:
                raise RpcError(INVALID_REQUEST, error.message, status=error.status) from error
            session.episode.session_id = session_id
            session.note("This session was brought back from the store: knobs that were set and not run yet are lost.")
        self._remember(session_id, session)
        return session

    def _new(self, session_id: str, address: str | None) -> ToolSession:
        episode = RegistryEpisode(self._registry, transport="mcp", address=address, new_session_id=session_id)
        return ToolSession(episode, self._dispatcher)

    def _remember(self, session_id: str, session: ToolSession) -> None:
        if session_id not in self._sessions:
            self._counts[session.episode.address] += 1
        self._sessions[session_id] = (session, self._monotonic())
        self._sessions.move_to_end(session_id)
        if len(self._sessions) > _MOST_SESSIONS:  # the address with the most gives up its own, the oldest first
            most = self._counts.most_common(1)[0][0]
            self._forget(next(key for key, (kept, _) in self._sessions.items() if kept.episode.address == most))

    def _forget(self, session_id: str) -> ToolSession | None:
        found = self._sessions.pop(session_id, None)
        if found is None:
            return None
        address = found[0].episode.address
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]
        return found[0]


async def _answer(session: ToolSession, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": session.tools()}
    if method == "tools/call":
        return tool_result(await session.call(params.get("name"), params.get("arguments")))
    raise RpcError(METHOD_NOT_FOUND, "method: must be one of initialize, ping, tools/list, tools/call")


def _read(message: object) -> tuple[str | None, Mapping[str, Any]]:
    """Return a message's method (None for an answer of the client) and parameters."""
    if not isinstance(message, Mapping) or message.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, 'must be one JSON-RPC 2.0 message, an object with "jsonrpc": "2.0"', status=400)
    if "id" in message and not is_id(message["id"]):
        raise RpcError(INVALID_REQUEST, "id: must be a text or an integer", status=400)
    method, params = message.get("method"), message.get("params")
    if method is None and ("result" in message or "error" in message):
        return None, {}
    if not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "method: must be a text", status=400)
    if params is not None and not isinstance(params, Mapping):
        raise RpcError(INVALID_PARAMS, "params: must be an object")
    return method, params or {}


def _check_version(version: str | None) -> None:
    if version is not None and version not in PROTOCOLS:
        bound = "must be one of " + ", ".join(PROTOCOLS)
        raise RpcError(INVALID_REQUEST, f"MCP-Protocol-Version: {bound}", status=400)


def _success(request_id: object, result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def _unnamed() -> RpcError:
    return RpcError(INVALID_REQUEST, "Mcp-Session-Id: is required: initialize first", status=400)


def _unknown() -> RpcError:
    return RpcError(INVALID_REQUEST, "Mcp-Session-Id: there is no such session: initialize again", status=404)
