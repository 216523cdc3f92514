"""`LimitsMiddleware`: bound the size, the time and the memory of every request's body, before any route parses it.

The bounds hold on every path, mounted applications included, and for a body without a length too: it is counted while
it is read. A log for the grader is also counted in JSON values, because ``{}`` takes two bytes and sixty as an object.
"""

from __future__ import annotations

import asyncio
import mmap
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmserve_server.callers.paths import is_page, route_path
from llmserve_server.errors import Overloaded, ServiceError, TooLarge, TooSlow
from llmserve_server.middleware.refusal import refuse
from llmserve_server.settings import Settings

__all__ = ["LimitsMiddleware", "replayed"]

_GRADER: Final = "/grader"
_PAGE_BYTES: Final = 64 * 1024
"""Largest body of the page's own requests; the largest that its components send has 2 KB."""
_VALUES_PER_STEP: Final = 256
"""JSON values in one step of a log: twice those of the tasks' own."""
_LEAST_VALUES: Final = 2**17
_RATE: Final = 64 * 1024
"""Bytes of a body that buy another second of its time limit."""
_RETRY_S: Final = 5
_MOST_DIGITS: Final = 12
"""Digits of a length that is worth comparing."""


class LimitsMiddleware:
    """Reads the whole body before the route runs, and refuses it once it is over a bound.

    A body that arrives in one piece, as a step's does, costs no copy and no task. Of the memory for bodies in several
    pieces, the last quarter is kept for small ones, so that large logs cannot shut out steps.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._most_values = max(_LEAST_VALUES, _VALUES_PER_STEP * settings.max_log_steps)
        self._held = 0
        """Bytes of the bodies in several pieces that are being read or answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; pass on anything else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        bound = self._bound(path)
        most_values = self._most_values if path == _GRADER else None
        body: _Body | None = None
        try:
            message = await self._first(scope, receive, bound)
            if message["type"] == "http.request":
                piece = message.get("body", b"")
                if message.get("more_body"):
                    body = _Body(bound, most_values)
                    message = await self._rest(body, piece, receive)
                elif len(piece) > bound or most_values is not None:
                    _Body(bound, most_values).count(piece)
            if message["type"] != "http.request":
                return  # the client has gone before its request was complete
            await self._app(scope, replayed(message, receive), send)
        except ServiceError as error:  # of this layer: the application answers its own
            await refuse(error, scope, send)
        finally:
            if body is not None:
                self._release(body)

    def _bound(self, path: str) -> int:
        if path == _GRADER:
            return self._settings.max_log_bytes
        if is_page(path):
            return min(_PAGE_BYTES, self._settings.max_body_bytes)
        return self._settings.max_body_bytes

    async def _first(self, scope: Scope, receive: Receive, bound: int) -> Message:
        """Return the first piece of the body, unless its declared length is over the bound."""
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > _MOST_DIGITS or int(length) > bound):
            raise TooLarge.of_bytes("body", bound)
        if length or b"transfer-encoding" in headers:
            return await self._in_time(receive, asyncio.get_running_loop().time(), 0)
        return await receive()  # it is there: the request has no body

    async def _rest(self, body: _Body, piece: bytes, receive: Receive) -> Message:
        """Read the rest of a body in several pieces, and return it as one message, or the client's disconnect."""
        body.count(piece)
        body.keep(piece)
        self._hold(body)
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            message = await self._in_time(receive, start, body.size)
            if message["type"] != "http.request":
                return message
            piece = message.get("body", b"")
            body.count(piece)
            body.keep(piece)
            self._hold(body)
            if not message.get("more_body"):
                return {"type": "http.request", "body": body.whole(), "more_body": False}

    async def _in_time(self, receive: Receive, start: float, size: int) -> Message:
        """Receive the next piece of a body that began to arrive at `start`, and of which `size` bytes are here."""
        patience = self._settings.body_timeout_s
        try:
            async with asyncio.timeout_at(start + patience + size / _RATE):
                return await receive()
        except TimeoutError:
            bound = f"within {patience:g} seconds and one more for each {_RATE // 1024} KiB"
            raise TooSlow(f"body: must arrive {bound}", field="body", bound=bound) from None

    def _hold(self, body: _Body) -> None:
        """Account for what has arrived of `body`; refuse it if all bodies together are too large."""
        self._held += body.size - body.held
        body.held = body.size
        most = self._settings.max_buffered_bytes
        if body.size > _PAGE_BYTES:
            most -= most // 4
        if self._held > most and self._held > body.held:
            raise Overloaded(
                "the server is receiving all the bodies that it has memory for: come back in a moment",
                retry_after_s=_RETRY_S,
            )

    def _release(self, body: _Body) -> None:
        self._held -= body.held
        body.held = 0
        body.close()


def replayed(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that gives `message` again, and then what the client sends."""
    pending = [message]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


class _Body:
    """A body while it is read."""

    def __init__(self, bound: int, most_values: int | None) -> None:
        self._bound = bound
        self._values = most_values
        # Neither a list of pieces, which may be a byte each, nor an array that grows: what the allocator leaves behind
        # of several growing arrays stays with the process. Pages of a mapping take memory once they are written.
        self._data: mmap.mmap | None = None
        self.size = 0
        self.held = 0
        """Bytes that the memory for bodies counts."""

    def count(self, piece: bytes) -> None:
        """Count a piece; refuse the body once it is over a bound."""
        self.size += len(piece)
        if self.size > self._bound:
            raise TooLarge.of_bytes("body", self._bound)
        if self._values is not None:
            # A value begins the document, or follows one of these. Those inside texts are counted too.
            self._values -= piece.count(b",") + piece.count(b"[") + piece.count(b":")
            if self._values < 0:
                bound = "must hold fewer JSON values"
                raise TooLarge(f"episode_log: {bound}", field="episode_log", bound=bound)

    def keep(self, piece: bytes) -> None:
        """Keep a piece of several, which `count` has counted."""
        if self._data is None:
            self._data = mmap.mmap(-1, self._bound)
        self._data.write(piece)

    def whole(self) -> bytes:
        """Return the body, and keep no other copy of it."""
        data = b"" if self._data is None else self._data[: self.size]
        self.close()
        return data

    def close(self) -> None:
        """Give the memory back."""
        if self._data is not None:
            self._data.close()
            self._data = None
