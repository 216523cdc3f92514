"""`JsonBodyMiddleware`: refuse JSON bodies that OpenEnv's routes, MCP's and the page would answer with a 500.

Our own routes parse their bodies themselves, with errors that name the field; their bodies pass unread.
"""

from __future__ import annotations

from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmserve_server.errors import InvalidField
from llmserve_server.json_rpc import INVALID_PARAMS, PARSE_ERROR
from llmserve_server.middleware.json_text import parse_json, rpc_error, rpc_problem
from llmserve_server.middleware.limits import replayed
from llmserve_server.middleware.refusal import refuse

__all__ = ["JsonBodyMiddleware"]

_OURS: Final = ("/step", "/reset", "/fork", "/grader", "/baseline")
_RPC: Final = "/mcp"
_WITH_BODY: Final = ("POST", "PUT", "PATCH", "DELETE")


class JsonBodyMiddleware:
    """Checks the JSON bodies of all routes but ours. `POST /mcp` is answered with a JSON-RPC error, status 400.

    `LimitsMiddleware` stands before it: a body comes in one message, within its bound.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass on anything else."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY or scope["path"] in _OURS:
            await self._app(scope, receive, send)
            return
        is_rpc = scope["path"] == _RPC
        if is_rpc and scope["method"] != "POST":  # ends a session, which a header names
            await self._app(scope, receive, send)
            return
        if not is_rpc and not _is_json(scope):
            await self._app(scope, receive, send)
            return
        message = await receive()
        body = message.get("body", b"")
        if is_rpc:
            answer = _rpc_refusal(body)
            if answer is not None:
                await Response(answer, 400, media_type="application/json")(scope, receive, send)
                return
        elif body.strip():
            try:
                parse_json(body)
            except InvalidField as error:
                await refuse(error, scope, send)
                return
        await self._app(scope, replayed(message, receive), send)


def _is_json(scope: Scope) -> bool:
    """Return whether FastAPI would parse the body as JSON."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    subtype = kind.partition(b";")[0].strip().lower()
    return not subtype or subtype == b"application/json" or subtype.endswith(b"+json")


def _rpc_refusal(body: bytes) -> str | None:
    try:
        call = parse_json(body)
    except InvalidField as error:
        return rpc_error(PARSE_ERROR, error)
    problem = rpc_problem(call)
    return None if problem is None else rpc_error(INVALID_PARAMS, problem, call)
