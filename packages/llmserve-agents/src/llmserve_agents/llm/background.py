"""`BackgroundLoop`: an event loop in a thread, so that synchronous code can stop a whole exchange at a deadline.

A synchronous client's time limit holds for each read, and an endpoint that sends a byte now and then never reaches it.
A caller may itself run inside an event loop (a notebook), so the loop needs its own thread.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["BackgroundLoop"]

_Result = TypeVar("_Result")


class BackgroundLoop:
    """Runs coroutines for synchronous callers. Its daemon thread starts with the first one."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Any = None

    def run(self, coroutine: Coroutine[Any, Any, _Result], *, within_s: float) -> _Result:
        """Return the coroutine's result; raises `TimeoutError` and cancels it if that takes longer than `within_s`."""

        async def bounded() -> _Result:
            async with asyncio.timeout(within_s):
                return await coroutine

        future = asyncio.run_coroutine_threadsafe(bounded(), self._running())
        try:
            return future.result()
        finally:
            future.cancel()  # if the wait was interrupted (Ctrl-C)

    def close(self) -> None:
        """Stop the thread. Closing twice is allowed; a later `run` starts another."""
        with self._guard:
            stop, self._loop, self._stop = self._stop, None, None
        if stop is not None:
            stop()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._loop is None:
                self._loop = loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop,), name="llmserve-endpoint", daemon=True)
                thread.start()
                self._stop = weakref.finalize(self, _end, loop, thread)
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(5.0)
