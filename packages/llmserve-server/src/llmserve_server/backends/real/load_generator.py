"""Replay one window's requests against an endpoint in real time, and wait until all of them are done.

The rules are the simulator's. A request arrives at its due time and waits. At most `batch_cap` requests run at once;
the next one is the oldest, with `priority` the oldest of the priority class first. A request that has waited for
`patience_s` without being sent gives up. After a 429 with a Retry-After, nothing is sent until that time has passed.

The clock is the running event loop's (`loop.time()`), so that a test can pass a loop with its own clock. Latencies
count from the due time, however late the loop wakes up, so that they always include the waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

from llmserve_server.backends.real.answers import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmserve_server.backends.real.sampling import SampledRequest

__all__ = ["Backoff", "RequestResult", "Rules", "Send", "WindowRecord", "run_window"]

_EARLY_S: Final = 1e-6
"""An event this close is due: clocks and sums of floats are not more exact, and a shorter wait might never end."""


class Send(Protocol):
    """Sends one request and fills in its answer; raises only `asyncio.CancelledError`."""

    async def __call__(self, request: SampledRequest, answer: Answer, /) -> None:
        """Return when the request is done or has failed."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a window."""

    batch_cap: int
    priority: bool
    patience_s: float
    """0: no request gives up."""
    window_s: float
    """Wall seconds."""
    max_backoff_s: float
    """Upper limit of a Retry-After, so that a window always ends."""


@dataclass(slots=True)
class Backoff:
    """The time on the loop's clock until which nothing may be sent. All sessions share it, as they share the key."""

    until: float = 0.0


@dataclass(slots=True)
class RequestResult:
    """The result of one request. Times are seconds after the window's start."""

    request: SampledRequest
    answer: Answer = field(default_factory=Answer)
    sent_s: float | None = None
    ended_s: float = 0.0
    ttft_s: float | None = None
    """From the arrival, not the sending, to the first piece of text; None if there was none."""

    @property
    def status(self) -> Literal["finished", "failed", "abandoned"]:
        """How the request ended."""
        if self.sent_s is None:
            return "abandoned"
        return "finished" if self.answer.failure is None else "failed"


@dataclass(slots=True)
class WindowRecord:
    """A served window: the result of every request, and the levels at the window's end."""

    results: list[RequestResult]
    started: float
    """On the loop's clock."""
    elapsed_s: float = 0.0
    """Until the last request was done; at least the length of the window."""
    queue: tuple[int, int] = (0, 0)
    """Requests waiting at the window's end, by class."""
    running: int = 0
    prefilling: int = 0
    """Running requests without any text yet."""
    oldest_wait_s: float = 0.0


async def run_window(
    requests: Sequence[SampledRequest], send: Send, rules: Rules, backoff: Backoff | None = None
) -> WindowRecord:
    """Serve `requests` (sorted by due time) and return when all are done and the window is over.

    Windows that use the same key share `backoff`. Cancelling the call cancels every running request.
    """
    window = _Window(requests, send, rules, Backoff() if backoff is None else backoff)
    try:
        await window.run()
    finally:
        await window.cancel()
    return window.record


class _Window:
    def __init__(self, requests: Sequence[SampledRequest], send: Send, rules: Rules, backoff: Backoff) -> None:
        self._loop = asyncio.get_running_loop()
        self._backoff = backoff
        self._send = send
        self._rules = rules
        self.record = WindowRecord([RequestResult(request) for request in requests], self._loop.time())
        self._coming = deque(self.record.results)
        self._waiting: tuple[deque[RequestResult], deque[RequestResult]] = (deque(), deque())
        self._running: dict[asyncio.Task[None], RequestResult] = {}
        self._closed = False

    async def run(self) -> None:
        while True:
            now = self._now() + _EARLY_S
            self._arrive(now)
            self._give_up(now)
            if not self._closed and now >= self._rules.window_s:
                self._close(now)
            self._start(now)
            wake_s = self._next_event()
            if not self._running and wake_s is None:
                break
            await self._sleep(wake_s)
        self.record.elapsed_s = max(self._now(), self._rules.window_s)

    async def cancel(self) -> None:
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _now(self) -> float:
        return self._loop.time() - self.record.started

    def _arrive(self, now: float) -> None:
        while self._coming and self._coming[0].request.due_s <= now:
            result = self._coming.popleft()
            self._waiting[result.request.priority].append(result)

    def _give_up(self, now: float) -> None:
        if self._rules.patience_s <= 0.0:
            return
        for queue in self._waiting:
            while queue and queue[0].request.due_s + self._rules.patience_s <= now:
                queue[0].ended_s = queue[0].request.due_s + self._rules.patience_s
                queue.popleft()

    def _close(self, now: float) -> None:
        """Record the levels at the window's end."""
        self._closed = True
        record = self.record
        record.queue = (len(self._waiting[0]), len(self._waiting[1]))
        record.running = len(self._running)
        record.prefilling = sum(not result.answer.times for result in self._running.values())
        record.oldest_wait_s = max((now - queue[0].request.due_s for queue in self._waiting if queue), default=0.0)

    def _start(self, now: float) -> None:
        while now >= self._resume_s() and len(self._running) < self._rules.batch_cap:
            queue = self._next_queue()
            if queue is None:
                return
            result = queue.popleft()
            result.sent_s = now
            task = self._loop.create_task(self._serve(result))
            self._running[task] = result

    def _next_queue(self) -> deque[RequestResult] | None:
        first, second = self._waiting
        if first and second and not self._rules.priority:
            return first if first[0].request.id < second[0].request.id else second
        return first or second or None

    async def _serve(self, result: RequestResult) -> None:
        await self._send(result.request, result.answer)
        result.ended_s = self._now()
        if result.answer.times:
            result.ttft_s = result.answer.times[0] - self.record.started - result.request.due_s
        wanted_s = result.answer.retry_after_s
        if wanted_s is not None:
            until = self._loop.time() + min(wanted_s, self._rules.max_backoff_s)
            self._backoff.until = max(self._backoff.until, until)

    def _resume_s(self) -> float:
        return self._backoff.until - self.record.started

    def _next_event(self) -> float | None:
        """Return the time (s) of the next event that no request causes; None if there is none."""
        events = []
        if self._coming:
            events.append(self._coming[0].request.due_s)
        if not self._closed:
            events.append(self._rules.window_s)
        queues = [queue for queue in self._waiting if queue]
        if queues and self._rules.patience_s > 0.0:
            events.append(min(queue[0].request.due_s for queue in queues) + self._rules.patience_s)
        if queues and self._resume_s() > self._now():
            events.append(self._resume_s())
        return min(events, default=None)

    async def _sleep(self, wake_s: float | None) -> None:
        delay = None if wake_s is None else max(0.0, wake_s - self._now())
        if not self._running:
            await asyncio.sleep(delay or 0.0)
            return
        done, _ = await asyncio.wait(self._running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del self._running[task]
            task.result()
