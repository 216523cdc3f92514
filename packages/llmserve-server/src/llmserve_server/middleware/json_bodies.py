"""`JsonBodyMiddleware`: refuse JSON bodies that OpenEnv's routes, MCP's and the page would answer with a 500.

Our own routes parse their bodies themselves, with errors that name the field; their bodies pass unread.
"""

from __future__ import annotations

import json
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.errors import InvalidField, ServiceError, TooLarge
from llmserve_server.middleware.json_text import (
    INVALID_PARAMS,
    PARSE_ERROR,
    parse_json,
    rpc_error,
    rpc_problem,
)
from llmserve_server.settings import Settings

__all__ = ["JsonBodyMiddleware"]

_OURS: Final = ("/step", "/reset", "/fork", "/grader", "/baseline")
_RPC: Final = "/mcp"
_WITH_BODY: Final = ("POST", "PUT", "PATCH", "DELETE")


class JsonBodyMiddleware:
    """Checks the JSON bodies of all routes but ours. `POST /mcp` is answered with a JSON-RPC error, status 400."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._bound = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass on anything else."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY or scope["path"] in _OURS:
            await self._app(scope, receive, send)
            return
        is_rpc = scope["path"] == _RPC and scope["method"] == "POST"
        if not is_rpc and not _is_json(scope):
            await self._app(scope, receive, send)
            return
        messages = await self._messages(receive)
        if messages[-1]["type"] == "http.request":
            body = b"".join(message.get("body", b"") for message in messages)
            refusal = _rpc_refusal(body) if is_rpc else _refusal(body)
            if len(body) > self._bound:
                refusal = (TooLarge.status, json.dumps(TooLarge.of_bytes("body", self._bound).body()))
            if refusal is not None:
                await _answer(send, *refusal)
                return
            messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, again, send)

    async def _messages(self, receive: Receive) -> list[Message]:
        """Return the messages of a body, at most one more than the bound allows."""
        messages, length = [await receive()], 0
        while messages[-1].get("more_body"):
            length += len(messages[-1].get("body", b""))
            if length > self._bound:
                break
            messages.append(await receive())
        return messages


def _is_json(scope: Scope) -> bool:
    """Return whether FastAPI would parse the body as JSON."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    subtype = kind.partition(b";")[0].strip().lower()
    return not subtype or subtype == b"application/json" or subtype.endswith(b"+json")


def _refusal(body: bytes) -> tuple[int, str] | None:
    if not body.strip():
        return None
    try:
        parse_json(body)
    except InvalidField as error:
        return error.status, json.dumps(error.body())
    return None


def _rpc_refusal(body: bytes) -> tuple[int, str] | None:
    status, number, call = 400, PARSE_ERROR, None
    problem: ServiceError | None
    try:
        call = parse_json(body)
        number, problem = INVALID_PARAMS, rpc_problem(call)
    except InvalidField as error:
        problem = error
    return None if problem is None else (status, rpc_error(number, problem, call))


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == TooLarge.status:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
