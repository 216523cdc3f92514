"""`AuthAndLimitsMiddleware`: check the bearer token of every request and limit the size of its body.

It runs before every route.
"""

from __future__ import annotations

import hmac
import json
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.errors import ServiceError, TooLarge, Unauthorized
from llmserve_server.settings import Settings

__all__ = ["AuthAndLimitsMiddleware"]

_OPEN: Final = ("/health", "/web", "/", "/demo", "/favicon.ico")
"""Paths that need no token: the health check, the page and its icon, and the redirects to the page."""


def _is_open(path: str) -> bool:
    """Return whether `path` needs no token."""
    return path in _OPEN or path.startswith("/web/")


class AuthAndLimitsMiddleware:
    """Refuses HTTP requests and socket handshakes without the token, and bodies that are too large.

    The whole body is read before the route runs, so that the limit also holds for a body without a length.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        token = settings.api_token
        self._token = None if token is None else token.get_secret_value().encode()
        self._bounds = {"/grader": settings.max_log_bytes}
        self._bound = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._token is not None and not _is_open(scope["path"]) and not self._known(headers):
            error = Unauthorized("send the server's token: Authorization: Bearer <token>")
            await _refuse(error, scope, send)
            return
        if scope["type"] == "http" and scope["method"] in {"POST", "PUT", "PATCH", "DELETE"}:
            bound = self._bounds.get(scope["path"], self._bound)
            try:
                if not scope["path"].startswith("/web"):
                    receive = await _whole_body(receive, headers, bound)
                elif _declared(headers) > bound:
                    raise TooLarge.of_bytes("body", bound)
            except ServiceError as error:
                await _refuse(error, scope, send)
                return
        await self._app(scope, receive, send)

    def _known(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token or b"")


def _declared(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _whole_body(receive: Receive, headers: dict[bytes, bytes], bound: int) -> Receive:
    """Read the body, and return a `receive` that returns it in one message."""
    if _declared(headers) > bound:
        raise TooLarge.of_bytes("body", bound)
    message = await receive()
    if message.get("more_body"):
        parts, length = [message.get("body", b"")], len(message.get("body", b""))
        while message.get("more_body"):
            message = await receive()
            if message["type"] != "http.request":
                break
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            if length > bound:
                raise TooLarge.of_bytes("body", bound)
        if message["type"] == "http.request":
            message = {"type": "http.request", "body": b"".join(parts), "more_body": False}
    elif len(message.get("body", b"")) > bound:
        raise TooLarge.of_bytes("body", bound)
    first: list[Message] = [message]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


async def _refuse(error: ServiceError, scope: Scope, send: Send) -> None:
    """Answer a request or a socket's handshake with `error`."""
    body = json.dumps(error.body()).encode()
    prefix = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            return
        prefix = "websocket.http"
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == Unauthorized.status:
        sent.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_s is not None:
        sent.append((b"retry-after", str(error.retry_after_s).encode()))
    if error.status == TooLarge.status and prefix == "http":
        sent.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": f"{prefix}.response.start", "status": error.status, "headers": sent})
    await send({"type": f"{prefix}.response.body", "body": body})
