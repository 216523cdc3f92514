"""`SilenceWatch`: end a connection whose client has sent nothing for too long, without a cost per message."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

__all__ = ["SilenceWatch"]


class SilenceWatch:
    """Calls `hang_up` once the client has been silent for `limit_s()` seconds, which may change meanwhile.

    While a message is being answered nobody is silent. A message only stores the time; one timer per connection looks
    at it when the limit may have been reached.
    """

    def __init__(self, limit_s: Callable[[], float], hang_up: Callable[[], Awaitable[None]]) -> None:
        self._limit_s = limit_s
        self._hang_up = hang_up
        self._loop = asyncio.get_running_loop()
        self._listening_since: float | None = self._loop.time()
        self._timer = self._loop.call_later(limit_s(), self._look)
        self._ending: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Record that it is the client's turn from now on."""
        self._listening_since = self._loop.time()

    def heard(self) -> None:
        """Record that the client has sent something, which is being answered."""
        self._listening_since = None

    def close(self) -> None:
        """Watch no longer."""
        self._timer.cancel()
        if self._ending is not None:
            self._ending.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        since = now if self._listening_since is None else self._listening_since
        left_s = since + self._limit_s() - now
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the client has left in the same moment
            await self._hang_up()
