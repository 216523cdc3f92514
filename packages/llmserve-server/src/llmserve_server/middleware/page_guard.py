"""`PageGuardMiddleware`: a request that the page's framework fails on is answered with 400, not with 500.

Gradio answers much that its own script never sends with a 500 and a trace in the log: a file name too long for the file
system, a component that does not exist, JSON of another shape. What goes wrong inside our own handlers does not come
this way: it is reported in the page's event stream.
"""

from __future__ import annotations

import json
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.errors import ServiceError

__all__ = ["PageGuardMiddleware"]

_log = structlog.get_logger(__name__)
_PAGE: Final = "/web"
_STATUS: Final = 400


class PageGuardMiddleware:
    """Replaces the 5xx answers of everything below ``/web``, and logs them as warnings."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass on anything else."""
        if not _is_page(scope):
            await self._app(scope, receive, send)
            return
        started = refused = False

        async def guarded_send(message: Message) -> None:
            nonlocal started, refused
            if message["type"] == "http.response.start":
                started = True
                refused = message["status"] >= 500
                if refused:
                    await _refuse(send)
            if not refused:
                await send(message)

        try:
            await self._app(scope, receive, guarded_send)
        except Exception as error:  # noqa: BLE001 - whatever the framework raises
            if started and not refused:
                await _end(error, send)
                return
            if ClientDisconnect in {type(error), type(error.__cause__)}:
                return
            if not started:
                await _refuse(send)
            _log.warning("page_request_failed", kind=type(error).__name__)


async def _end(error: Exception, send: Send) -> None:
    """End an answer that is half sent, where that is right; else raise, so that the connection is closed."""
    if ClientDisconnect in {type(error), type(error.__cause__)}:
        return
    if not isinstance(error.__cause__, HTTPException):
        raise error
    # Gradio refuses an unknown session only after its event stream has begun.
    await send({"type": "http.response.body", "body": b""})


def _is_page(scope: Scope) -> bool:
    path = str(scope.get("path", ""))
    return scope["type"] == "http" and (path == _PAGE or path.startswith(f"{_PAGE}/"))


async def _refuse(send: Send) -> None:
    error = ServiceError("the page does not understand this request", code="bad_request")
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": _STATUS, "headers": headers})
    await send({"type": "http.response.body", "body": body})
