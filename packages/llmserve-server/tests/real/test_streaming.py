"""The measurements of a stream, through the official client on a simulated clock, match known schedules exactly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from llmserve_server.backends.real.answers import Answer, Failure
from llmserve_server.backends.real.config import RealConfig
from llmserve_server.backends.real.endpoint import Endpoint
from llmserve_server.backends.real.sampling import SampledRequest

Run = Callable[..., Any]
REQUEST = SampledRequest(id=3, due_s=0.0, prompt_tokens=8, completion_tokens=6, priority=1, tenant=0)


async def ask(config: RealConfig, transport: Any, *requests: SampledRequest) -> list[Answer]:
    endpoint = Endpoint(config, http_client=httpx2.AsyncClient(transport=transport))
    endpoint._client._platform = (
        "Linux"  # the client looks this up in a thread, for which a leaping clock does not wait
    )
    answers = [Answer() for _ in requests]
    try:
        for request, answer in zip(requests, answers, strict=True):
            await endpoint.send(5, request, answer)
    finally:
        await endpoint.close()
    return answers


@pytest.fixture
def sent(leap: Run, config: Callable[..., RealConfig], say: Any) -> Run:
    """Send requests to a scripted transport; return the answers, and the transport."""

    def run(script: Any, *requests: SampledRequest, **values: Any) -> tuple[list[Answer], Any]:
        transport = say.Transport(script)
        return leap(ask(config(**values), transport, *(requests or (REQUEST,)))), transport

    return run


def test_times_of_a_known_schedule_are_measured_exactly(sent: Run, say: Any) -> None:
    """First text after 300 ms and then one every 40 ms: that is the TTFT, every ITL and the TPOT."""
    [answer], _ = sent(say.tokens(6, first_s=0.3, gap_s=0.04, usage=say.usage(9, 6)))
    assert answer.failure is None
    assert answer.times[0] == pytest.approx(0.3)
    assert [gap for gap, _ in answer.itl_s()] == pytest.approx([0.04] * 5)
    assert answer.tpot_s == pytest.approx(0.04)


def test_the_endpoints_own_count_of_tokens_is_used(sent: Run, say: Any) -> None:
    """Usage says 12 tokens in 6 pieces: each gap is spread over 11/5 tokens."""
    [answer], _ = sent(say.tokens(6, gap_s=0.22, usage=say.usage(9, 12, cached=4)))
    assert (answer.tokens, answer.prompt_tokens, answer.cached_tokens) == (12, 9, 4)
    assert not answer.estimated
    assert answer.tpot_s == pytest.approx(0.1)
    assert answer.itl_s() == [(pytest.approx(0.1), pytest.approx(2.2))] * 5


def test_without_usage_pieces_are_counted_and_marked_as_an_estimate(sent: Run, say: Any) -> None:
    """An endpoint that does not count leaves an estimate."""
    [answer], _ = sent(say.tokens(5))
    assert (answer.tokens, answer.prompt_tokens, answer.estimated) == (5, None, True)


@pytest.mark.parametrize("counts", [(-1, 3), (4, 0), (4, 10**12), ("4", 3), (True, 3), (4, None)])
def test_counts_that_cannot_be_are_not_taken(sent: Run, say: Any, counts: tuple[Any, Any]) -> None:
    """Neither negative nor absurd numbers, nor other types: the estimate stands."""
    [answer], _ = sent(
        say.tokens(
            3, usage=say.usage(4, 3) | {"usage": dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))}
        )
    )
    assert answer.failure is None
    assert (answer.tokens, answer.estimated) == (3, True)


def test_reasoning_text_counts_as_text(sent: Run, say: Any) -> None:
    """A model that thinks aloud first has its first token there."""
    parts = [0.1, say.event(say.chunk(reasoning_content="hm")), 0.1, say.event(say.chunk(content="so"))]
    [answer], _ = sent(say.Reply([*parts, say.event(say.last_chunk("stop"))]))
    assert answer.times == pytest.approx([0.1, 0.2])


def test_a_request_says_what_was_ordered(sent: Run, say: Any) -> None:
    """Model, a prompt of as many words, the limit of output tokens, streaming with usage, and extra fields."""
    _, transport = sent(say.tokens(1), extra_body={"ignore_eos": True}, token_limit_field="max_tokens")  # noqa: S106
    [body] = transport.requests
    [message] = body.pop("messages")
    assert message["role"] == "user"
    assert len(message["content"].split()) == 8
    assert body == {
        "model": "tiny",
        "max_tokens": 6,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def test_an_endpoint_that_does_not_know_stream_options_is_asked_without(sent: Run, say: Any) -> None:
    """Once: from then on it is not told about them again, and tokens are counted here."""

    def script(body: dict[str, Any], _: int) -> Any:
        return say.refusal(422, "unknown field: stream_options") if "stream_options" in body else say.tokens(2)

    answers, transport = sent(script, REQUEST, REQUEST)
    assert [answer.failure for answer in answers] == [None, None]
    assert [answer.estimated for answer in answers] == [True, True]
    assert ["stream_options" in body for body in transport.requests] == [True, False, False]


def test_another_refusal_is_not_asked_again(sent: Run, say: Any) -> None:
    """A 400 about something else is a failure of the request, at once."""
    [answer], transport = sent(say.refusal(400, "unknown model"))
    assert answer.failure is Failure.REFUSED
    assert len(transport.requests) == 1


def test_the_time_limit_covers_the_whole_answer(sent: Run, say: Any) -> None:
    """Tokens that keep trickling in do not extend it; those that came are kept."""
    [answer], _ = sent(say.tokens(50, gap_s=0.4), request_timeout_s=1.9)
    assert answer.failure is Failure.TIMEOUT
    assert len(answer.times) == 5


def test_trouble_after_the_end_of_an_answer_is_no_failure(sent: Run, say: Any) -> None:
    """The endpoint said why it finished; that the connection hangs or breaks afterwards costs only the usage."""
    whole = say.tokens(3, done=False).parts
    for extra in ([60.0], [b"data: {nonsense\n\n"]):
        [answer], _ = sent(say.Reply([*whole, *extra]), request_timeout_s=2.0)
        assert (answer.failure, answer.tokens) == (None, 3)
    [answer], _ = sent(say.Reply(whole, hang_up=True))
    assert answer.failure is None


def test_an_endpoint_that_ignores_the_limit_is_cut_off(sent: Run, say: Any) -> None:
    """Far beyond the limit of 6 tokens it is closed, and counts as failed."""
    [answer], _ = sent(say.tokens(500))
    assert answer.failure is Failure.OVERLONG
    assert len(answer.times) == 4 * 6 + 64 + 1


def test_retry_after_is_read_in_seconds_and_nothing_else(sent: Run, say: Any) -> None:
    """Dates and nonsense are no number of seconds."""
    for text, expected in [("7", 7.0), ("0.5", 0.5), ("-1", None), ("nan", None), ("inf", None), ("soon", None)]:
        [answer], transport = sent(say.refusal(429, **{"retry-after": text}))
        assert (answer.failure, answer.retry_after_s) == (Failure.RATE_LIMITED, expected)
        assert len(transport.requests) == 1


def test_cancelling_goes_through(leap: Run, config: Callable[..., RealConfig], say: Any) -> None:
    """Shutdown is not an endpoint's failure."""

    async def interrupted() -> None:
        transport = say.Transport(say.tokens(5, first_s=100.0))
        task = asyncio.create_task(ask(config(request_timeout_s=500.0), transport, REQUEST))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    leap(interrupted())
