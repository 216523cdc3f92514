"""`Worker`: an event loop in its own thread, on which the requests of all sessions run.

Sessions are synchronous and run in many threads, but connections belong to one event loop. A caller waits for its
result; it must not be on the server's own loop.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

from llmserve_server.errors import ShuttingDown

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Worker"]

_Result = TypeVar("_Result")
_CLOSE_S: Final = 5.0
"""Seconds that connections have to close."""


class Worker:
    """Runs coroutines for other threads. Its thread starts with the first one.

    Args:
        new_loop: makes the event loop; a test passes one with its own clock.
    """

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self._new_loop = new_loop
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run `coroutine` on the loop and return its result; raises `ShuttingDown` if `close` cancels it."""
        return self.wait(self.start(coroutine))

    def start(self, coroutine: Coroutine[Any, Any, _Result]) -> Future[_Result]:
        """Start `coroutine` on the loop; pass the result to `wait`, or cancel it."""
        try:
            with self._lock:
                return asyncio.run_coroutine_threadsafe(coroutine, self._running())
        except ShuttingDown:
            coroutine.close()
            raise

    def wait(self, future: Future[_Result]) -> _Result:
        """Return the result of a started coroutine; an interrupted wait (Ctrl-C) cancels it."""
        try:
            return future.result()
        except CancelledError:
            raise ShuttingDown("the step was cut short and does not count: take it again", retry_after_s=5) from None
        finally:
            future.cancel()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel what is running, run `last` and stop the thread. Closing twice is allowed."""
        with self._lock:
            already, self._closed = self._closed, True
            loop, thread = self._loop, self._thread
        if already or loop is None or thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_wind_down(last), loop).result(2 * _CLOSE_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLOSE_S)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise ShuttingDown("the server is stopping: nothing was sent", retry_after_s=5)
        if self._loop is None:
            self._loop = self._new_loop()
            # A daemon thread, so that a stopping process does not wait for the endpoint.
            self._thread = threading.Thread(target=_serve, args=(self._loop,), name="llmserve-real-mode", daemon=True)
            self._thread.start()
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _wind_down(last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
    mine = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not mine]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if last is not None:
        async with asyncio.timeout(_CLOSE_S):
            await last()
