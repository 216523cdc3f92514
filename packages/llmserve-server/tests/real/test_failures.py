"""Everything an endpoint can do wrong, over a real socket: each becomes its named failure, never an exception."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from llmserve_server.backends.real.answers import Answer, Failure
from llmserve_server.backends.real.config import RealConfig

Ask = Callable[[RealConfig], Answer]


def _cases(say: Any) -> dict[str, tuple[Any, Failure, int]]:
    """Return by name: the reply, the failure it is, and how many pieces of text came before it."""
    Reply, event, chunk = say.Reply, say.event, say.chunk
    text, end = event(chunk(content="a")), event(say.last_chunk())
    html = {"content-type": "text/html"}
    wrong_choice = chunk() | {"choices": [{"index": 0}]}
    return {
        "429": (say.refusal(429), Failure.RATE_LIMITED, 0),
        "500": (say.refusal(500), Failure.SERVER_ERROR, 0),
        "503 in plain text": (Reply([b"busy"], 503, {"content-type": "text/plain"}), Failure.SERVER_ERROR, 0),
        "401": (say.refusal(401), Failure.UNAUTHORIZED, 0),
        "403": (say.refusal(403), Failure.UNAUTHORIZED, 0),
        "404": (say.refusal(404), Failure.REFUSED, 0),
        "silence": (Reply([30.0]), Failure.TIMEOUT, 0),
        "silence after a token": (Reply([text, 30.0]), Failure.TIMEOUT, 1),
        "hangs up at once": (Reply([], hang_up=True), Failure.CONNECTION, 0),
        "hangs up in the middle": (Reply([text, text], hang_up=True), Failure.TRUNCATED, 2),
        "ends without an end": (Reply([text, text]), Failure.TRUNCATED, 2),
        "done without a reason": (Reply([text, event("[DONE]")]), Failure.TRUNCATED, 1),
        "an empty stream": (Reply([]), Failure.TRUNCATED, 0),
        "no text at all": (Reply([end, event("[DONE]")]), Failure.EMPTY, 0),
        "a web page": (Reply([b"<html>hello</html>"], headers=html), Failure.MALFORMED, 0),
        "a whole completion": (
            Reply([b'{"choices": []}'], headers={"content-type": "application/json"}),
            Failure.MALFORMED,
            0,
        ),
        "broken JSON": (Reply([text, b"data: {oops\n\n", end]), Failure.MALFORMED, 1),
        "a number": (Reply([event("5")]), Failure.MALFORMED, 0),
        "a list": (Reply([event([1, 2])]), Failure.MALFORMED, 0),
        "null": (Reply([event("null")]), Failure.MALFORMED, 0),
        "an empty object": (Reply([event({})]), Failure.MALFORMED, 0),
        "choices of another type": (Reply([event(chunk() | {"choices": "x"})]), Failure.MALFORMED, 0),
        "a choice that is no object": (Reply([event(chunk() | {"choices": [7]})]), Failure.MALFORMED, 0),
        "a choice without a delta": (Reply([event(wrong_choice)]), Failure.MALFORMED, 0),
        "text of another type": (Reply([event(chunk(content=[1]))]), Failure.MALFORMED, 0),
        "bytes that are no UTF-8": (Reply([text, b"data: \xff\xfe\n\n"]), Failure.MALFORMED, 1),
        "an error event": (Reply([text, event({"error": {"message": "out of memory"}})]), Failure.STREAM_ERROR, 1),
        "gzip that is none": (
            Reply([b"xx"], headers={"content-type": "text/event-stream", "content-encoding": "gzip"}),
            Failure.MALFORMED,
            0,
        ),
        "a redirect to nowhere": (Reply([], 302, {"location": "http://127.0.0.1:9/"}), Failure.REFUSED, 0),
    }


_NAMES = (
    "429", "500", "503 in plain text", "401", "403", "404", "silence", "silence after a token", "hangs up at once",
    "hangs up in the middle", "ends without an end", "done without a reason", "an empty stream", "no text at all",
    "a web page", "a whole completion", "broken JSON", "a number", "a list", "null", "an empty object",
    "choices of another type", "a choice that is no object", "a choice without a delta", "text of another type",
    "bytes that are no UTF-8", "an error event", "gzip that is none", "a redirect to nowhere",
)  # fmt: skip


@pytest.mark.parametrize("name", _NAMES)
def test_what_an_endpoint_does_wrong_has_a_name(
    name: str, endpoint: Any, config: Callable[..., RealConfig], say: Any, ask: Ask
) -> None:
    """And the text that came before is kept."""
    reply, failure, pieces = _cases(say)[name]
    endpoint.script = reply
    limit_s = 30.0 if failure is not Failure.TIMEOUT else 2.0 if pieces else 0.4
    answer = ask(config(endpoint.url, request_timeout_s=limit_s))
    assert (answer.failure, len(answer.times)) == (failure, pieces)
    assert len(endpoint.requests) == 1


def test_every_case_is_tried(say: Any) -> None:
    """The names above are all of them."""
    assert set(_NAMES) == set(_cases(say))


def test_a_refused_connection_is_a_failure(config: Callable[..., RealConfig], ask: Ask) -> None:
    """Nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert ask(config(url)).failure is Failure.CONNECTION


def test_gaps_add_up_to_the_time_between_first_and_last(
    endpoint: Any, config: Callable[..., RealConfig], say: Any, ask: Ask
) -> None:
    """Over a socket, with the endpoint's own count of tokens."""
    endpoint.script = say.tokens(4, first_s=0.05, gap_s=0.02, usage=say.usage(8, 4))
    answer = ask(config(endpoint.url))
    assert answer.failure is None
    assert answer.tokens == len(answer.times) == 4
    assert answer.times == sorted(answer.times)
    assert sum(gap * weight for gap, weight in answer.itl_s()) == pytest.approx(answer.times[-1] - answer.times[0])


def test_slow_text_is_measured_and_not_cut(
    endpoint: Any, config: Callable[..., RealConfig], say: Any, ask: Ask
) -> None:
    """Slow is not failed, as long as it ends in time."""
    endpoint.script = say.tokens(3, first_s=0.2, gap_s=0.1)
    answer = ask(config(endpoint.url))
    assert answer.failure is None
    assert answer.tpot_s > 0.0
