"""`register`: the routes of `/mcp`. OpenEnv's own is called for what is no message of an MCP session."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response

from llmserve_server.callers.callers import Callers
from llmserve_server.json_rpc import INTERNAL_ERROR, PARSE_ERROR, error_document
from llmserve_server.openapi import rpc_errors
from llmserve_server.tools.streamable import McpReply, McpSessions, RpcError

__all__ = ["SESSION_HEADER", "register"]

SESSION_HEADER: Final = "Mcp-Session-Id"
_VERSION_HEADER: Final = "MCP-Protocol-Version"
_MESSAGE: Final = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
    "parameters": [
        {
            "name": SESSION_HEADER,
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "The MCP session, as the answer to `initialize` names it.",
        }
    ],
}
_log = structlog.get_logger(__name__)


def register(app: FastAPI, sessions: McpSessions, callers: Callers) -> None:
    """Add the routes of `/mcp` in place of OpenEnv's own, which must be there already."""
    openenv = _take_openenvs(app)

    @app.post(
        "/mcp",
        summary="Tools over MCP, and OpenEnv's JSON-RPC",
        tags=["Tools"],
        responses={202: {"description": "A notification was taken."}, **rpc_errors(400, 404, 409, 413, 429, 503)},
        openapi_extra=_MESSAGE,
    )
    async def post(request: Request) -> Response:
        """Answer `initialize` and what carries `Mcp-Session-Id` as MCP's streamable HTTP, the rest as OpenEnv does."""
        named = request.headers.get(SESSION_HEADER)
        message = json.loads(await request.body())  # `JsonBodyMiddleware` lets only JSON pass
        if not isinstance(message, dict):
            problem = error_document(PARSE_ERROR, "Parse error: body: must be a JSON object")
            return _response(McpReply(200 if named is None else 400, problem))
        if named is None and message.get("method") != "initialize":
            return _response(await _openenvs_answer(openenv, request))
        version = request.headers.get(_VERSION_HEADER)
        address = callers.of(request.scope).address
        return _response(await sessions.post(message, session_id=named, version=version, address=address))

    @app.delete(
        "/mcp",
        summary="End an MCP session",
        tags=["Tools"],
        status_code=204,
        responses=rpc_errors(400, 404, 409, 429, 503),
        openapi_extra={"parameters": _MESSAGE["parameters"]},
    )
    async def delete(request: Request) -> Response:
        """End the session of the header `Mcp-Session-Id`; its episode stays in the store."""
        try:
            await sessions.delete(request.headers.get(SESSION_HEADER))
        except RpcError as error:
            return _response(McpReply(error.status, error_document(error.code, str(error))))
        return Response(status_code=204)


def _take_openenvs(app: FastAPI) -> Callable[[Request], Awaitable[Any]]:
    """Remove OpenEnv's route from `app` and return its function."""
    for route in app.router.routes:
        if getattr(route, "path", None) == "/mcp" and "POST" in getattr(route, "methods", ()):
            app.router.routes.remove(route)
            found: Callable[[Request], Awaitable[Any]] = route.endpoint  # type: ignore[attr-defined]
            return found
    raise RuntimeError("OpenEnv's server has no POST /mcp")


async def _openenvs_answer(openenv: Callable[[Request], Awaitable[Any]], request: Request) -> McpReply:
    try:
        return McpReply(200, await openenv(request))
    except Exception as error:  # noqa: BLE001 - JSON-RPC has its own way to say so
        _log.error("request_failed", exc_info=error)
        return McpReply(200, error_document(INTERNAL_ERROR, "the server failed on this call; its log says why"))


def _response(reply: McpReply) -> Response:
    headers = {} if reply.session_id is None else {SESSION_HEADER: reply.session_id}
    if reply.content is None:
        return Response(status_code=reply.status, headers=headers)
    content = json.dumps(reply.content, separators=(",", ":")).encode()
    return Response(content, status_code=reply.status, headers=headers, media_type="application/json")
