"""`Dispatcher`: run a call of the registry in the event loop if it is known to be short, else in a thread.

A simulated step takes about a sixth of a millisecond, less than passing it to a thread and back. Rebuilding a session,
grading and real requests take longer and must not block other sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import ParamSpec, TypeVar

from llmserve_server.metrics import Metrics
from llmserve_server.sessions.registry import Reply, SessionRegistry
from llmserve_sim.schema import ServeAction, ServeObservation

__all__ = ["Dispatcher"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Dispatcher:
    """Runs registry calls for asynchronous callers.

    Args:
        registry: the sessions.
        metrics: counts the steps.
        threads: maximum number of calls in threads at once.
    """

    def __init__(self, registry: SessionRegistry, metrics: Metrics, *, threads: int) -> None:
        self._registry = registry
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="llmserve")
        self.inline_steps = False
        """Whether a step takes well under a millisecond: the simulator is compiled and the store is local."""

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `call` in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(call, *args, **kwargs))

    def can_step_inline(self, session_id: str) -> bool:
        """Return whether a step of the session would be short and not wait. The answer may change at any time."""
        return self.inline_steps and self._registry.is_idle(session_id)

    async def step(self, session_id: str, action: ServeAction, step_index: int | None) -> Reply:
        """Step a session, in the event loop if it would not wait."""
        registry = self._registry
        start = perf_counter()
        if self.can_step_inline(session_id):
            reply = registry.step(session_id, action, step_index=step_index)
        else:
            reply = await self.run(registry.step, session_id, action, step_index=step_index)
        self.count(session_id, reply.observation, perf_counter() - start)
        return reply

    def count(self, session_id: str, observation: ServeObservation, seconds: float) -> None:
        """Count a step that a call in a thread has made. Call it in the event loop."""
        self._metrics.step(session_id, observation, seconds)

    def close(self) -> None:
        """Accept no more calls; running ones finish by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
