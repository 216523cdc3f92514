"""`refuse`: answer a request or a socket's handshake with a typed error, from a layer outside the routes."""

from __future__ import annotations

import json
from typing import Final

from starlette.types import Scope, Send

from llmserve_server.errors import ServiceError, Unauthorized

__all__ = ["refuse"]

_UNREAD: Final = frozenset({408, 413, 429})
"""Statuses after which the rest of the body is not read, so the connection cannot be used again."""


async def refuse(error: ServiceError, scope: Scope, send: Send, *, status: int | None = None) -> None:
    """Answer a request or a socket's handshake with `error`, and with its class's status unless another is given."""
    status = error.status if status is None else status
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
    if status in _UNREAD and prefix == "http":
        sent.append((b"connection", b"close"))
    await send({"type": f"{prefix}.response.start", "status": status, "headers": sent})
    await send({"type": f"{prefix}.response.body", "body": body})
