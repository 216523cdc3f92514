"""uvicorn's HTTP protocol with bounds on headers and on slow clients, which no ASGI application can set.

`protocol_for` makes the protocol of some settings. `python -m llmserve_server` passes it to uvicorn. Where uvicorn is
started otherwise (``uvicorn server.app:app``), `ServerMiddleware` puts it in place when uvicorn starts the application,
which is before it listens. Other servers, and uvicorn with ``--http h11``, keep their own bounds.
"""

from __future__ import annotations

import http
import json
from asyncio import TimerHandle, Transport
from typing import Any, ClassVar, Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llmserve_server.errors import HeadersTooLarge, ServiceError, TooSlow
from llmserve_server.settings import Settings

__all__ = ["GuardedProtocol", "ServerMiddleware", "protocol_for", "server_options"]

_MOST_PIPELINED: Final = 32
"""Requests that may wait on one connection for the answer to an earlier one; clients send one, or a few."""
_PIECE: Final = 16_384
"""Most bytes parsed at once, so that a connection is refused before thousands of requests behind that are parsed."""
_LINGER_S: Final = 2.0
"""Seconds in which a refused client may read its answer while what it still sends is dropped."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. It is closed when headers are too large or too late, and when answers are not read.

    A request that arrives in one piece costs two comparisons and no timer.
    """

    most_header_bytes: ClassVar[int]
    header_timeout_s: ClassVar[float]
    send_timeout_s: ClassVar[float]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_headers = True
        """Whether the next bytes belong to a request line or to headers."""
        self._loose = 0
        """Bytes received since the last request began or the last piece of a body was delivered."""
        self._is_refused = False
        self._headers_timer: TimerHandle | None = None
        self._send_timer: TimerHandle | None = None
        self._linger_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Expect the first request's headers within their time."""
        super().connection_made(transport)
        self._headers_timer = self.loop.call_later(self.header_timeout_s, self._headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        for timer in (self._headers_timer, self._send_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and refuse headers, trailers and chunk extensions without an end."""
        if len(data) <= _PIECE:
            self._parse(data)
            return
        for start in range(0, len(data), _PIECE):
            if self.transport.is_closing() or self.transport.get_protocol() is not self:  # refused, or now a WebSocket
                return
            self._parse(data[start : start + _PIECE])

    def _parse(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._loose += len(data)
        super().data_received(data)
        if self._loose > self.most_header_bytes:
            self._refuse_headers()
        elif self._loose and self._in_headers and self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.header_timeout_s, self._headers_are_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. A trailer would end up among the headers of a request that is already being answered."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers are too large or too many requests wait for their turn."""
        if self._is_refused:
            return
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None
        self._in_headers = False
        if self._loose > self.most_header_bytes:  # the piece may hold a body, or more requests, beside the headers
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.most_header_bytes:
                self._refuse_headers()
                return
        self._loose = 0
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._is_refused = True
            self.transport.close()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Deliver a piece of a body."""
        if not self._is_refused:
            self._loose = 0
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect another request."""
        if not self._is_refused:
            self._loose, self._in_headers = 0, True
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Wait for the client to read, but not forever."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def _headers_are_late(self) -> None:
        self._headers_timer = None
        if self._loose == 0:  # nothing was asked, so there is nothing to answer
            self.transport.close()
            return
        bound = f"within {self.header_timeout_s:g} seconds"
        self._refuse(TooSlow(f"headers: must arrive {bound}", field="headers", bound=bound))

    def _refuse_headers(self) -> None:
        bound = f"at most {self.most_header_bytes} bytes"
        self._refuse(HeadersTooLarge(f"headers: must be {bound}", field="headers", bound=bound))

    def _refuse(self, error: ServiceError) -> None:
        """Answer with `error` unless an earlier answer is under way, and close the connection."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
            cycle.disconnected = True  # its body has no end: the application sees that the client has gone
            cycle.message_event.set()
        body = json.dumps(error.body()).encode()
        status = f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}\r\n"
        headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write((status + headers).encode() + body)
        if self.transport.can_write_eof():
            # Closed at once, the connection would be reset by what still arrives, and the answer lost with it.
            self.transport.write_eof()
            self._linger_timer = self.loop.call_later(_LINGER_S, self.transport.close)
        else:
            self.transport.close()


def protocol_for(settings: Settings) -> type[GuardedProtocol]:
    """Return the protocol with the bounds of `settings`."""
    bounds = {
        "most_header_bytes": settings.max_header_bytes,
        "header_timeout_s": settings.header_timeout_s,
        "send_timeout_s": settings.send_timeout_s,
    }
    return type("GuardedProtocol", (GuardedProtocol,), bounds)


def server_options(settings: Settings) -> dict[str, Any]:
    """Return the options of uvicorn that bound what one client can hold."""
    return {
        "http": protocol_for(settings),
        "ws_max_size": 2 * settings.max_message_bytes,  # a message just over the bound gets an answer, not a close
        "ws_per_message_deflate": False,  # 1.5 KB: compressing costs more time than it saves, and bombs need it
    }


class ServerMiddleware:
    """Puts the bounds in place where uvicorn was started without them."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look for uvicorn's configuration behind the start's `receive`, and pass everything on."""
        if scope["type"] == "lifespan":
            config = getattr(getattr(receive, "__self__", None), "config", None)
            if isinstance(config, Config) and getattr(config, "http_protocol_class", None) is HttpToolsProtocol:
                options = server_options(self._settings)
                config.http_protocol_class = options["http"]
                config.ws_max_size = options["ws_max_size"]
                config.ws_per_message_deflate = options["ws_per_message_deflate"]
        await self._app(scope, receive, send)
