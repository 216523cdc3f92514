"""`PageGate`: let only those requests through to Gradio that the page needs.

Gradio also has routes for uploads, for files of this machine, for recordings and for editing the program. The page uses
none of them, and some write files that nobody removes. So what is not listed here does not exist.
"""

from __future__ import annotations

import re
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.callers.paths import route_path
from llmserve_server.errors import InvalidField, ServiceError, TooLarge
from llmserve_server.middleware.refusal import refuse

__all__ = ["PageGate"]

_GET: Final = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)/.*"
    r"|/gradio_api/(info/?|app_id/?|theme\.css|startup-events|queue/(data|status)|heartbeat/[A-Za-z0-9_-]{1,64})"
)
_POST: Final = re.compile(r"/gradio_api/(queue/join|run/predict/?|cancel|reset/?)")
_UPLOAD: Final = "/gradio_api/upload"
_log = structlog.get_logger(__name__)


class PageGate:
    """Wraps Gradio's application, below the path that it is mounted at."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; there are no sockets below the page."""
        if scope["type"] == "http":
            path = route_path(scope)
            listed = {"GET": _GET, "HEAD": _GET, "POST": _POST}.get(scope["method"])
            if listed is not None and listed.fullmatch(path):
                await self._pass(scope, receive, send)
                return
            if path == _UPLOAD:
                await refuse(TooLarge("files: nothing is uploaded here", field="files", bound="no file"), scope, send)
                return
        await refuse(ServiceError("Not Found", code="not_found"), scope, send, status=404)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. Where Gradio fails, the request is one that the page never sends: it is refused."""
        is_started = is_failed = False

        async def checked_send(message: Message) -> None:
            nonlocal is_started, is_failed
            if message["type"] == "http.response.start":
                is_failed = message["status"] >= 500
                is_started = True
            if not is_failed:
                await send(message)

        try:
            await self._app(scope, receive, checked_send)
        except Exception as error:  # noqa: BLE001 - whatever Gradio raises, the answer ends
            _log.warning("page_request_failed", path=route_path(scope), problem=type(error).__name__)
            if is_started and not is_failed:  # a stream, most likely one for a session that there is not
                await send({"type": "http.response.body", "body": b""})
                return
            is_failed = True
        if is_failed:
            bound = "what the page sends"
            await refuse(InvalidField(f"body: must be {bound}", field="body", bound=bound), scope, send)
