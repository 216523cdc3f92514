"""`JsonBodyMiddleware`: refuse JSON bodies that OpenEnv's routes, MCP's and the page would answer with a 500.

Our own routes parse their bodies themselves, with errors that name the field; their bodies pass unread.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.errors import InvalidField
from llmserve_server.json_rpc import INVALID_PARAMS, PARSE_ERROR
from llmserve_server.middleware.json_text import parse_json, rpc_error, rpc_problem
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
        is_rpc = scope["path"] == _RPC and scope["method"] == "POST"
        if not is_rpc and not _is_json(scope):
            await self._app(scope, receive, send)
            return
        message = await receive()
        body = message.get("body", b"")
        if is_rpc and (answer := _rpc_refusal(body)) is not None:
            await _answer(send, answer.encode())
            return
        if not is_rpc and (problem := _problem(body)) is not None:
            await refuse(problem, scope, send)
            return
        pending: list[Message] = [message]

        async def again() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, again, send)


def _is_json(scope: Scope) -> bool:
    """Return whether FastAPI would parse the body as JSON."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    subtype = kind.partition(b";")[0].strip().lower()
    return not subtype or subtype == b"application/json" or subtype.endswith(b"+json")


def _problem(body: bytes) -> InvalidField | None:
    if not body.strip():
        return None
    try:
        parse_json(body)
    except InvalidField as error:
        return error
    return None


def _rpc_refusal(body: bytes) -> str | None:
    try:
        call = parse_json(body)
    except InvalidField as error:
        return rpc_error(PARSE_ERROR, error)
    problem = rpc_problem(call)
    return None if problem is None else rpc_error(INVALID_PARAMS, problem, call)


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
