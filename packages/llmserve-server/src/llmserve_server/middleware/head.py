"""`HeadMiddleware`: answer HEAD like GET, without the body. Monitors and link checkers send HEAD.

Starlette's routes do so by themselves; FastAPI's and Gradio's do not. Below ``/web/`` only the page itself is answered,
because some of Gradio's replies never end.
"""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HeadMiddleware"]

_PAGE: Final = "/web/"


class HeadMiddleware:
    """ASGI middleware that passes HEAD on as GET and drops the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or socket."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or _may_never_end(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def bodiless_send(message: Message) -> None:
            scope["method"] = "HEAD"  # uvicorn looks at it before it misses the body
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        try:
            await self._app(scope, receive, bodiless_send)
        finally:
            scope["method"] = "HEAD"


def _may_never_end(path: str) -> bool:
    return path.startswith(_PAGE) and path != _PAGE
