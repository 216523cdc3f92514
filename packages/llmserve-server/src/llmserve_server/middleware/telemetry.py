"""`TelemetryMiddleware`: request ids, log lines (structlog, JSON or console) and Prometheus metrics.

Neither logs nor metrics contain secrets: no query string, no session id, no body, no header but the request's id.
Routes appear only as the patterns that FastAPI matched.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.metrics import Metrics

__all__ = ["TelemetryMiddleware"]

_ERROR_FRAME: Final = ('{"type":"error"', '{"type": "error"')
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that are named in metrics and logs; a caller may make up others."""
_GONE: Final = 499
"""Status that is counted for a request whose client left before it could be answered, as nginx does."""
_HEADER: Final = b"x-request-id"
_log = structlog.get_logger("llmserve_server")
_stdlib_log = logging.getLogger("llmserve_server")
"""Its level is checked before a log line is built, so that a step does not pay for a line that is not written."""


class TelemetryMiddleware:
    """Gives each request an id, counts, times and logs it: steps and health checks at debug, the rest at info."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket."""
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (_HEADER, request_id)]}
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
            status = status or _GONE
        finally:
            status = status or 500  # it raised before it answered
            took_s = time.perf_counter() - start
            route = _route(scope)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(method, route, status, took_s)
            self._say(method, route, status, took_s, request_id)

    def _say(self, method: str, route: str, status: int, took_s: float, request_id: bytes) -> None:
        is_quiet = route in _QUIET and status < 500
        if is_quiet and not _stdlib_log.isEnabledFor(logging.DEBUG):
            return
        (_log.debug if is_quiet else _log.info)(
            "request",
            method=method,
            route=route,
            status=status,
            duration_ms=round(took_s * 1000, 3),
            request_id=request_id.decode(),
        )

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        count_ok, count_error = self._metrics.sent["ok"], self._metrics.sent["error"]
        sent = 0
        code: int | None = None

        async def observed_send(message: Message) -> None:
            nonlocal sent, code
            if message["type"] == "websocket.send":
                sent += 1
                text = message.get("text") or ""
                (count_error if text.startswith(_ERROR_FRAME) else count_ok)()
            elif message["type"] == "websocket.close":
                code = message.get("code", 1000)
            await send(message)

        async def observed_receive() -> Message:
            nonlocal code
            message = await receive()
            if message["type"] == "websocket.disconnect" and code is None:
                code = message.get("code", 1005)
            return message

        self._metrics.sockets.inc()
        try:
            await self._app(scope, observed_receive, observed_send)
        finally:
            self._metrics.sockets.dec()
            _log.info(
                "socket",
                route=_route(scope),
                messages=sent,
                code=code,
                duration_ms=round((time.perf_counter() - start) * 1000, 3),
                request_id=_request_id(scope).decode(),
            )


_QUIET: Final = frozenset({"/step", "/state", "/health", "/metrics"})


def _route(scope: Scope) -> str:
    """Return the matched route pattern, never the path, which may contain any text of the caller."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    if path is not None:
        return str(path)
    return "/web" if scope["path"].startswith("/web") else "unmatched"


def _request_id(scope: Scope) -> bytes:
    """Return the caller's request id if it is well-formed, else a new one, and store it with the request."""
    state: dict[str, Any] = scope.setdefault("state", {})
    known = state.get("request_id")
    if known is None:
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        known = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8).encode()
        state["request_id"] = known
    return bytes(known)
