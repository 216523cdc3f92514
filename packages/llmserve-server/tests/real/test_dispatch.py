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
from llmserve_server.backends.real.dispatch import Pause, Rules, WindowRecord, run_window
from llmserve_server.backends.real.orders import Order

RULES = Rules(batch_cap=4, priority=False, patience_s=10.0, window_s=5.0, max_pause_s=30.0)
Run = Callable[..., Any]


def order(number: int, due_s: float, *, priority: int = 1) -> Order:
    return Order(id=number, due_s=due_s, prompt_tokens=10, completion_tokens=4, priority=priority, tenant=0)


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

    async def __call__(self, order: Order, answer: Answer) -> None:
        """Answer one order."""
        duration_s = self.durations_s[len(self.started) % len(self.durations_s)]
        self.started.append(order.id)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(duration_s / 2)
            failure = self.failures.get(order.id)
            if failure is None:
                answer.times.append(asyncio.get_running_loop().time())
            else:
                answer.failure = failure
                answer.retry_after_s = self.retry
            await asyncio.sleep(duration_s / 2)
        finally:
            self.under_way -= 1


def fates(record: WindowRecord) -> dict[int, str]:
    return {fate.order.id: fate.status for fate in record.fates}


def test_requests_are_sent_when_they_arrive_while_there_is_room(leap: Run) -> None:
    """Below the cap nothing waits: each request is sent at its due time, to the microsecond."""
    orders = [order(0, 0.5), order(1, 1.25), order(2, 4.0)]
    record = leap(run_window(orders, Server(1.0), RULES))
    assert [fate.sent_s for fate in record.fates] == pytest.approx([0.5, 1.25, 4.0], abs=2e-6)
    assert [fate.ttft_s for fate in record.fates] == pytest.approx([0.5, 0.5, 0.5], abs=2e-6)


def test_batch_cap_limits_what_is_under_way_and_waiting_counts_in_the_latency(leap: Run) -> None:
    """With a cap of one, the second of two simultaneous requests waits for the first, and its latency says so."""
    server = Server(2.0)
    record = leap(run_window([order(0, 0.0), order(1, 0.0)], server, replace(RULES, batch_cap=1)))
    assert server.most == 1
    assert [fate.ttft_s for fate in record.fates] == pytest.approx([1.0, 3.0], abs=2e-6)


def test_the_oldest_goes_first_without_priority_routing(leap: Run) -> None:
    """Both classes share one line."""
    server = Server(1.0)
    orders = [order(0, 0.0), order(1, 0.1), order(2, 0.2, priority=0)]
    leap(run_window(orders, server, replace(RULES, batch_cap=1)))
    assert server.started == [0, 1, 2]


def test_the_priority_class_goes_first_with_priority_routing(leap: Run) -> None:
    """A priority request overtakes those that wait, and nobody who is under way."""
    server = Server(1.0)
    orders = [order(0, 0.0), order(1, 0.1), order(2, 0.2, priority=0)]
    leap(run_window(orders, server, replace(RULES, batch_cap=1, priority=True)))
    assert server.started == [0, 2, 1]


def test_who_waits_longer_than_the_patience_gives_up_and_is_never_sent(leap: Run) -> None:
    """It ends at its arrival plus the patience; one that is under way is not affected."""
    server = Server(9.0)
    record = leap(run_window([order(0, 0.0), order(1, 1.0)], server, replace(RULES, batch_cap=1, patience_s=3.0)))
    assert fates(record) == {0: "finished", 1: "abandoned"}
    assert server.started == [0]
    assert record.fates[1].ended_s == pytest.approx(4.0)


def test_nobody_gives_up_where_patience_is_zero(leap: Run) -> None:
    """0 means never, as in the task files."""
    record = leap(run_window([order(0, 0.0), order(1, 0.0)], Server(50.0), replace(RULES, batch_cap=1, patience_s=0.0)))
    assert fates(record) == {0: "finished", 1: "finished"}


def test_a_window_without_requests_lasts_its_time(leap: Run) -> None:
    """Time passes for an idle endpoint as well."""
    record = leap(run_window([], Server(1.0), RULES))
    assert record.elapsed_s == pytest.approx(5.0)
    assert record.fates == []


def test_a_window_is_drained_and_its_levels_are_those_of_its_end(leap: Run) -> None:
    """What waits or runs at the window's end is counted there, and finished before the next window."""
    orders = [order(0, 0.0), order(1, 1.0), order(2, 3.0, priority=0), order(3, 4.5)]
    record = leap(run_window(orders, Server(8.0), replace(RULES, batch_cap=2)))
    assert (record.running, record.queue) == (2, (1, 1))
    assert record.oldest_wait_s == pytest.approx(2.0, abs=2e-6)
    assert set(fates(record).values()) == {"finished"}
    assert record.elapsed_s == pytest.approx(17.0, abs=1e-5)


def test_running_requests_without_text_count_as_prefilling(leap: Run) -> None:
    """At the window's end one has its first text and one has not."""
    record = leap(run_window([order(0, 0.0), order(1, 4.0)], Server(8.0), RULES))
    assert (record.running, record.prefilling) == (2, 1)


def test_nothing_is_sent_while_the_endpoint_asks_for_a_pause(leap: Run) -> None:
    """A 429 with Retry-After: 3 that ends at second 2 holds everybody back until second 5."""
    server = Server(2.0, failures={0: Failure.RATE_LIMITED}, retry=3.0)
    record = leap(run_window([order(0, 0.0), order(1, 2.5)], server, RULES))
    assert record.fates[1].sent_s == pytest.approx(5.0, abs=1e-5)
    assert fates(record) == {0: "failed", 1: "finished"}


def test_a_pause_outlasts_its_window_and_holds_for_every_session(leap: Run) -> None:
    """The endpoint asked the key, not the window: what is dispatched next waits for the rest of it."""

    async def two_windows() -> WindowRecord:
        pause = Pause()
        refused = Server(2.0, failures={0: Failure.RATE_LIMITED}, retry=9.0)
        await run_window([order(0, 0.0)], refused, RULES, pause)
        return await run_window([order(1, 0.0)], Server(1.0), RULES, pause)

    record = leap(two_windows())
    assert record.started == pytest.approx(5.0, abs=1e-5)
    assert record.fates[0].sent_s == pytest.approx(6.0, abs=1e-5)


def test_a_pause_of_an_hour_is_cut_so_that_the_window_ends(leap: Run) -> None:
    """Even where nobody ever gives up: thirty seconds after the refusal the next one goes."""
    server = Server(2.0, failures={0: Failure.RATE_LIMITED}, retry=3600.0)
    orders = [order(0, 0.0), order(1, 3.0)]
    record = leap(run_window(orders, server, replace(RULES, patience_s=0.0)))
    assert record.fates[1].sent_s == pytest.approx(32.0, abs=1e-5)


def test_cancelling_a_window_cancels_every_request(leap: Run) -> None:
    """Nothing is left under way."""
    server = Server(100.0)

    async def interrupted() -> None:
        task = asyncio.create_task(run_window([order(0, 0.0), order(1, 0.0)], server, RULES))
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
        leap(run_window([order(0, 0.0)], broken, RULES))


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
    orders = [order(i, due, priority=i % 3 != 0) for i, due in enumerate(sorted(dues))]
    server = Server(*durations, failures=dict.fromkeys(failing, Failure.SERVER_ERROR))
    rules = replace(RULES, batch_cap=cap, priority=priority, patience_s=patience)
    with asyncio.Runner(loop_factory=leaping_loop) as runner:
        record = runner.run(run_window(orders, server, rules))
    assert len(record.fates) == len(orders)
    assert sorted(server.started) == sorted(f.order.id for f in record.fates if f.sent_s is not None)
    assert server.most <= cap
    assert server.under_way == 0
    for fate in record.fates:
        if fate.sent_s is not None:
            assert fate.sent_s >= fate.order.due_s
            assert fate.ended_s >= fate.sent_s - 2e-6
            assert not patience or fate.sent_s <= fate.order.due_s + patience + 1e-5
        if fate.sent_s is None or fate.sent_s > fate.order.due_s + 1e-5:
            until = fate.ended_s if fate.sent_s is None else fate.sent_s
            busy = [f for f in record.fates if f.sent_s is not None and f.sent_s < until and f.ended_s > until - 1e-5]
            assert len(busy) >= cap
    assert record.elapsed_s >= rules.window_s
