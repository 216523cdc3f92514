"""How a window's requests are dispatched, on a clock that leaps: who goes when, who gives up, what is counted when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmserve_server.backends.real.answers import Answer, Failure
from llmserve_server.backends.real.load_generator import Backoff, Rules, WindowRecord, run_window
from llmserve_server.backends.real.sampling import SampledRequest

RULES = Rules(batch_cap=4, priority=False, patience_s=10.0, window_s=5.0, max_backoff_s=30.0)
Run = Callable[..., Any]


def request(number: int, due_s: float, *, priority: int = 1) -> SampledRequest:
    return SampledRequest(id=number, due_s=due_s, prompt_tokens=10, completion_tokens=4, priority=priority, tenant=0)


class Server:
    """Answers each request with one piece of text after half of its time, and notes who was under way."""

    def __init__(
        self, *durations_s: float, failures: dict[int, Failure] | None = None, retry: float | None = None
    ) -> None:
        self.durations_s = durations_s
        self.failures = failures or {}
        self.retry = retry
        self.started: list[int] = []
        self.under_way = 0
        self.most = 0

    async def __call__(self, request: SampledRequest, answer: Answer) -> None:
        """Answer one request."""
        duration_s = self.durations_s[len(self.started) % len(self.durations_s)]
        self.started.append(request.id)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(duration_s / 2)
            failure = self.failures.get(request.id)
            if failure is None:
                answer.times.append(asyncio.get_running_loop().time())
            else:
                answer.failure = failure
                answer.retry_after_s = self.retry
            await asyncio.sleep(duration_s / 2)
        finally:
            self.under_way -= 1


def results(record: WindowRecord) -> dict[int, str]:
    return {result.request.id: result.status for result in record.results}


def test_requests_are_sent_when_they_arrive_while_there_is_room(leap: Run) -> None:
    """Below the cap nothing waits: each request is sent at its due time, to the microsecond."""
    requests = [request(0, 0.5), request(1, 1.25), request(2, 4.0)]
    record = leap(run_window(requests, Server(1.0), RULES))
    assert [result.sent_s for result in record.results] == pytest.approx([0.5, 1.25, 4.0], abs=2e-6)
    assert [result.ttft_s for result in record.results] == pytest.approx([0.5, 0.5, 0.5], abs=2e-6)


def test_batch_cap_limits_what_is_under_way_and_waiting_counts_in_the_latency(leap: Run) -> None:
    """With a cap of one, the second of two simultaneous requests waits for the first, and its latency says so."""
    server = Server(2.0)
    record = leap(run_window([request(0, 0.0), request(1, 0.0)], server, replace(RULES, batch_cap=1)))
    assert server.most == 1
    assert [result.ttft_s for result in record.results] == pytest.approx([1.0, 3.0], abs=2e-6)


def test_the_oldest_goes_first_without_priority_routing(leap: Run) -> None:
    """Both classes share one line."""
    server = Server(1.0)
    requests = [request(0, 0.0), request(1, 0.1), request(2, 0.2, priority=0)]
    leap(run_window(requests, server, replace(RULES, batch_cap=1)))
    assert server.started == [0, 1, 2]


def test_the_priority_class_goes_first_with_priority_routing(leap: Run) -> None:
    """A priority request overtakes those that wait, and nobody who is under way."""
    server = Server(1.0)
    requests = [request(0, 0.0), request(1, 0.1), request(2, 0.2, priority=0)]
    leap(run_window(requests, server, replace(RULES, batch_cap=1, priority=True)))
    assert server.started == [0, 2, 1]


def test_who_waits_longer_than_the_patience_gives_up_and_is_never_sent(leap: Run) -> None:
    """It ends at its arrival plus the patience; one that is under way is not affected."""
    server = Server(9.0)
    record = leap(run_window([request(0, 0.0), request(1, 1.0)], server, replace(RULES, batch_cap=1, patience_s=3.0)))
    assert results(record) == {0: "finished", 1: "abandoned"}
    assert server.started == [0]
    assert record.results[1].ended_s == pytest.approx(4.0)


def test_nobody_gives_up_where_patience_is_zero(leap: Run) -> None:
    """0 means never, as in the task files."""
    record = leap(
        run_window([request(0, 0.0), request(1, 0.0)], Server(50.0), replace(RULES, batch_cap=1, patience_s=0.0))
    )
    assert results(record) == {0: "finished", 1: "finished"}


def test_a_window_without_requests_lasts_its_time(leap: Run) -> None:
    """Time passes for an idle endpoint as well."""
    record = leap(run_window([], Server(1.0), RULES))
    assert record.elapsed_s == pytest.approx(5.0)
    assert record.results == []


def test_a_window_is_drained_and_its_levels_are_those_of_its_end(leap: Run) -> None:
    """What waits or runs at the window's end is counted there, and finished before the next window."""
    requests = [request(0, 0.0), request(1, 1.0), request(2, 3.0, priority=0), request(3, 4.5)]
    record = leap(run_window(requests, Server(8.0), replace(RULES, batch_cap=2)))
    assert (record.running, record.queue) == (2, (1, 1))
    assert record.oldest_wait_s == pytest.approx(2.0, abs=2e-6)
    assert set(results(record).values()) == {"finished"}
    assert record.elapsed_s == pytest.approx(17.0, abs=1e-5)


def test_running_requests_without_text_count_as_prefilling(leap: Run) -> None:
    """At the window's end one has its first text and one has not."""
    record = leap(run_window([request(0, 0.0), request(1, 4.0)], Server(8.0), RULES))
    assert (record.running, record.prefilling) == (2, 1)


def test_nothing_is_sent_while_the_endpoint_asks_for_a_pause(leap: Run) -> None:
    """A 429 with Retry-After: 3 that ends at second 2 holds everybody back until second 5."""
    server = Server(2.0, failures={0: Failure.RATE_LIMITED}, retry=3.0)
    record = leap(run_window([request(0, 0.0), request(1, 2.5)], server, RULES))
    assert record.results[1].sent_s == pytest.approx(5.0, abs=1e-5)
    assert results(record) == {0: "failed", 1: "finished"}


def test_a_pause_outlasts_its_window_and_holds_for_every_session(leap: Run) -> None:
    """The endpoint asked the key, not the window: what is dispatched next waits for the rest of it."""

    async def two_windows() -> WindowRecord:
        backoff = Backoff()
        refused = Server(2.0, failures={0: Failure.RATE_LIMITED}, retry=9.0)
        await run_window([request(0, 0.0)], refused, RULES, backoff)
        return await run_window([request(1, 0.0)], Server(1.0), RULES, backoff)

    record = leap(two_windows())
    assert record.started == pytest.approx(5.0, abs=1e-5)
    assert record.results[0].sent_s == pytest.approx(6.0, abs=1e-5)


def test_a_pause_of_an_hour_is_cut_so_that_the_window_ends(leap: Run) -> None:
    """Even where nobody ever gives up: thirty seconds after the refusal the next one goes."""
    server = Server(2.0, failures={0: Failure.RATE_LIMITED}, retry=3600.0)
    requests = [request(0, 0.0), request(1, 3.0)]
    record = leap(run_window(requests, server, replace(RULES, patience_s=0.0)))
    assert record.results[1].sent_s == pytest.approx(32.0, abs=1e-5)


def test_cancelling_a_window_cancels_every_request(leap: Run) -> None:
    """Nothing is left under way."""
    server = Server(100.0)

    async def interrupted() -> None:
        task = asyncio.create_task(run_window([request(0, 0.0), request(1, 0.0)], server, RULES))
        await asyncio.sleep(1.0)
        assert server.under_way == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    leap(interrupted())
    assert server.under_way == 0


def test_a_defect_in_sending_is_not_swallowed(leap: Run) -> None:
    """Sending raises nothing by contract; if it does, the step fails loudly and nothing stays under way."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leap(run_window([request(0, 0.0)], broken, RULES))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dues=st.lists(st.floats(0.0, 4.9), max_size=20),
    durations=st.lists(st.floats(0.01, 12.0), min_size=1, max_size=5),
    cap=st.integers(1, 5),
    priority=st.booleans(),
    patience=st.sampled_from([0.0, 0.5, 3.0]),
    failing=st.sets(st.integers(0, 19)),
)
def test_every_request_ends_once_and_the_cap_holds(
    leaping_loop: type[asyncio.AbstractEventLoop],
    dues: list[float],
    durations: list[float],
    cap: int,
    priority: bool,
    patience: float,
    failing: set[int],
) -> None:
    """Conservation, the cap, causality, and no idle place while somebody waits, whatever the traffic."""
    requests = [request(i, due, priority=i % 3 != 0) for i, due in enumerate(sorted(dues))]
    server = Server(*durations, failures=dict.fromkeys(failing, Failure.SERVER_ERROR))
    rules = replace(RULES, batch_cap=cap, priority=priority, patience_s=patience)
    with asyncio.Runner(loop_factory=leaping_loop) as runner:
        record = runner.run(run_window(requests, server, rules))
    assert len(record.results) == len(requests)
    assert sorted(server.started) == sorted(f.request.id for f in record.results if f.sent_s is not None)
    assert server.most <= cap
    assert server.under_way == 0
    for result in record.results:
        if result.sent_s is not None:
            assert result.sent_s >= result.request.due_s
            assert result.ended_s >= result.sent_s - 2e-6
            assert not patience or result.sent_s <= result.request.due_s + patience + 1e-5
        if result.sent_s is None or result.sent_s > result.request.due_s + 1e-5:
            until = result.ended_s if result.sent_s is None else result.sent_s
            busy = [f for f in record.results if f.sent_s is not None and f.sent_s < until and f.ended_s > until - 1e-5]
            assert len(busy) >= cap
    assert record.elapsed_s >= rules.window_s
