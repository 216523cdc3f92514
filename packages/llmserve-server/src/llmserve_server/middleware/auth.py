"""`AuthMiddleware`: ask for the token on every route and socket but the health check and the page's form.

In real mode a server without a token takes calls only from its own machine, because they spend the owner's key.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from llmserve_server.callers.access import Access
from llmserve_server.callers.paths import is_page, prefix_of, route_path
from llmserve_server.errors import TokenRequired, Unauthorized
from llmserve_server.middleware.refusal import refuse
from llmserve_server.settings import Settings

__all__ = ["LOGIN", "AuthMiddleware"]

LOGIN: Final = "/web/login"
"""The form that asks a visitor for the token."""
_OPEN: Final = frozenset({"/health", "/web", "/", "/demo", "/favicon.ico", LOGIN})
"""Paths that need no token: the health check, the form and its icon, and the redirects to the page."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class AuthMiddleware:
    """Refuses requests and handshakes without the token; a visitor of the page is sent to the form."""

    def __init__(self, app: ASGIApp, settings: Settings, access: Access) -> None:
        self._app = app
        self._access = access
        self._spends = settings.mode == "real"
        self._has_form = settings.web

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket."""
        if scope["type"] in {"http", "websocket"} and (self._access.required or self._spends):
            path = route_path(scope)
            if path not in _OPEN:
                if not self._access.admits(scope["headers"]):
                    if self._has_form and path == "/web/" and scope.get("method") in _SAFE:
                        await _to_form(scope, send)
                    else:
                        error = Unauthorized("send the server's token: Authorization: Bearer <token>")
                        await refuse(error, scope, send)
                    return
                if self._spends and _spends(scope, path) and not self._access.may_spend(scope):
                    await refuse(
                        TokenRequired(
                            "real mode spends its owner's key, so without a token it serves its own machine only: set "
                            "LLMSERVE_API_TOKEN where the server runs, and send it"
                        ),
                        scope,
                        send,
                    )
                    return
        await self._app(scope, receive, send)


def _spends(scope: Scope, path: str) -> bool:
    return scope["type"] == "websocket" or scope["method"] not in _SAFE or is_page(path)


async def _to_form(scope: Scope, send: Send) -> None:
    where = f"{prefix_of(scope)}{LOGIN}".encode("latin-1", "replace")
    headers = [(b"location", where), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
