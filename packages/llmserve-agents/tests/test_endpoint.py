"""How one endpoint is asked: formats, repetitions, bounds, and where the key may never be."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from llmserve_agents.errors import EndpointError, MissingExtraError, MissingKeyError, RequestCapError
from llmserve_agents.llm.endpoint import ChatEndpoint, Patience, RequestFailedError, Tokens
from llmserve_agents.llm.prompt import action_schema
from llmserve_sim.errors import InvalidInputError

SCHEMA = action_schema()


class Asker:
    """A client of the scripted endpoint with a clock of its own."""

    def __init__(self, server: Any, **options: Any) -> None:
        self.waits: list[float] = []
        self.chat = ChatEndpoint(
            "test-model",
            api_key=server.KEY,
            base_url=server.url,
            sleep=self.waits.append,
            now=lambda: datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC),
            **options,
        )

    def ask(self) -> Any:
        """Ask something."""
        return self.chat.ask("be brief", "what now?", SCHEMA)


@pytest.fixture
def asker(endpoint: Any) -> Any:
    made: list[Asker] = []

    def make(**options: Any) -> Asker:
        made.append(Asker(endpoint, **options))
        return made[-1]

    yield make
    for one in made:
        one.chat.close()


def test_a_question_asks_for_the_action_schema_at_temperature_0(endpoint: Any, asker: Any) -> None:
    answer = asker().ask()
    body = endpoint.bodies[0]
    assert body["temperature"] == 0
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["strict"] is True
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert endpoint.headers[0]["authorization"] == f"Bearer {endpoint.KEY}"
    assert answer.tokens == Tokens(100, 0, 20)


def test_cached_tokens_are_counted(endpoint: Any, asker: Any) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 64}}
    endpoint.follow(endpoint.good(usage=usage))
    assert asker().ask().tokens == Tokens(100, 64, 20)


def test_an_endpoint_without_structured_output_is_asked_for_an_object_and_then_for_text(
    endpoint: Any, asker: Any
) -> None:
    def script(_n: int, body: dict[str, Any]) -> Any:
        if "response_format" in body:
            return endpoint.reply(
                status=400, error=f"response_format {body['response_format']['type']} is not known here"
            )
        return endpoint.good()

    endpoint.script = script
    one = asker()
    one.ask()
    one.ask()
    formats = [body.get("response_format", {}).get("type") for body in endpoint.bodies]
    assert formats == ["json_schema", "json_object", None, None]
    assert one.chat.response_format == "text"
    assert [given_up.split(" ")[0] for given_up in one.chat.concessions] == ["json_schema", "json_object"]
    assert all("400" in given_up for given_up in one.chat.concessions)


def test_a_model_that_refuses_the_temperature_or_the_limit_is_asked_without(endpoint: Any, asker: Any) -> None:
    def script(_n: int, body: dict[str, Any]) -> Any:
        if "temperature" in body:
            return endpoint.reply(status=400, error="Unsupported value: 'temperature' does not support 0")
        if "max_completion_tokens" in body:
            return endpoint.reply(status=422, error="Unexpected keys: {'max_completion_tokens'}")
        return endpoint.good()

    endpoint.script = script
    one = asker()
    one.ask()
    assert endpoint.bodies[-1]["max_tokens"] == 1024
    assert one.chat.response_format == "json_schema"
    assert len(one.chat.concessions) == 2


def test_an_endpoint_that_refuses_every_form_is_an_error_with_its_words(endpoint: Any, asker: Any) -> None:
    endpoint.follow(endpoint.reply(status=400, error="the prompt is too long"))
    with pytest.raises(EndpointError, match=r"400: .*the prompt is too long") as caught:
        asker().ask()
    assert caught.value.status == 400
    assert len(endpoint.bodies) == 3


def test_a_refusal_after_the_first_answer_changes_no_format(endpoint: Any, asker: Any) -> None:
    endpoint.follow(endpoint.good(), endpoint.reply(status=400, error="response_format"))
    one = asker()
    one.ask()
    with pytest.raises(EndpointError):
        one.ask()
    assert one.chat.response_format == "json_schema"
    assert one.chat.concessions == []


def test_an_unknown_model_is_an_error_at_once(endpoint: Any, asker: Any) -> None:
    endpoint.follow(endpoint.reply(status=404, error="The model does not exist"))
    with pytest.raises(EndpointError, match="404"):
        asker().ask()
    assert len(endpoint.bodies) == 1


def test_a_429_is_repeated_as_late_as_the_endpoint_says(endpoint: Any, asker: Any) -> None:
    endpoint.follow(
        endpoint.reply(status=429, headers={"retry-after": "7"}),
        endpoint.reply(status=429, headers={"retry-after": "Thu, 01 Jan 2026 12:00:09 GMT"}),
        endpoint.reply(status=429, headers={"retry-after": "soon"}),
        endpoint.reply(status=429),
        endpoint.good(),
    )
    one = asker()
    one.ask()
    assert one.waits == [7.0, 9.0, 4.0, 8.0]
    assert (one.chat.requests, one.chat.retries) == (5, 4)


def test_a_5xx_is_repeated_a_bounded_number_of_times(endpoint: Any, asker: Any) -> None:
    endpoint.follow(endpoint.reply(status=500, error="out of memory"))
    one = asker(patience=Patience(retries=2))
    with pytest.raises(RequestFailedError, match=r"500.*out of memory") as caught:
        one.ask()
    assert caught.value.kind == "http_500"
    assert one.waits == [1.0, 2.0]
    assert len(endpoint.bodies) == 3


def test_an_endpoint_that_asks_for_a_longer_wait_than_allowed_is_not_asked_again(endpoint: Any, asker: Any) -> None:
    endpoint.follow(endpoint.reply(status=429, headers={"retry-after": "3600"}))
    one = asker()
    with pytest.raises(RequestFailedError, match="429"):
        one.ask()
    assert one.waits == []
    assert len(endpoint.bodies) == 1


def test_nothing_but_a_429_or_a_5xx_is_repeated(endpoint: Any, asker: Any) -> None:
    for status in (402, 408, 409, 413):
        endpoint.bodies.clear()
        endpoint.follow(endpoint.reply(status=status))
        with pytest.raises(EndpointError):
            asker().ask()
        assert len(endpoint.bodies) == 1


def test_a_slow_answer_is_a_timeout_and_not_repeated(endpoint: Any, asker: Any) -> None:
    answer = threading.Event()
    endpoint.follow(endpoint.good(delay=answer))
    one = asker(patience=Patience(timeout_s=0.1))
    with pytest.raises(RequestFailedError, match=r"0\.1 s") as caught:
        one.ask()
    answer.set()
    assert caught.value.kind == "timeout"
    assert len(endpoint.bodies) == 1


def test_a_connection_that_breaks_in_the_middle_is_a_failed_request(endpoint: Any, asker: Any) -> None:
    endpoint.follow(endpoint.good(cut=True))
    with pytest.raises(RequestFailedError) as caught:
        asker().ask()
    assert caught.value.kind == "connection"


def test_an_endpoint_that_is_not_there_is_a_failed_request() -> None:
    chat = ChatEndpoint("m", api_key="sk-none", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(RequestFailedError) as caught:
        chat.ask("", "", SCHEMA)
    chat.close()
    assert caught.value.kind == "connection"


@pytest.mark.parametrize("raw", [b"", b"<html>busy</html>", b"[]", b'{"choices": []}', b'{"choices": [{}]}', b"null"])
def test_a_body_that_is_no_completion_is_an_answer_without_text(endpoint: Any, asker: Any, raw: bytes) -> None:
    endpoint.follow(endpoint.reply(raw=raw))
    answer = asker().ask()
    assert (answer.text, answer.tokens) == (None, None)


def test_a_page_in_place_of_an_answer_is_an_answer_without_text(endpoint: Any, asker: Any) -> None:
    endpoint.follow(endpoint.reply(raw=b"<html>busy</html>", headers={"content-type": "text/html"}))
    assert asker().ask().text is None


def test_the_cap_counts_every_request(endpoint: Any, asker: Any) -> None:
    endpoint.follow(endpoint.reply(status=503), endpoint.good())
    one = asker(patience=Patience(max_requests=3))
    one.ask()
    one.ask()
    with pytest.raises(RequestCapError, match="3"):
        one.ask()
    assert len(endpoint.bodies) == 3


@pytest.mark.parametrize("key", [None, "", "  ", "sk-\x00", "sk-a b", "sk-é"])
def test_a_key_that_is_missing_or_unfit_for_a_header_is_refused_without_quoting_it(key: str | None) -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY") as caught:
        ChatEndpoint("m", api_key=key)
    assert "sk-" not in str(caught.value)


def test_a_key_with_a_trailing_newline_is_the_key(endpoint: Any) -> None:
    chat = ChatEndpoint("m", api_key=endpoint.KEY + "\n", base_url=endpoint.url)
    chat.ask("", "", SCHEMA)
    chat.close()
    assert endpoint.headers[0]["authorization"] == f"Bearer {endpoint.KEY}"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_the_key_is_in_no_error_log_or_repr_even_where_the_endpoint_quotes_it(
    endpoint: Any, asker: Any, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.follow(
        endpoint.reply(status=status, error=f"bad key {endpoint.KEY}, Bearer {endpoint.KEY}, sk-te****seen")
    )
    one = asker(patience=Patience(retries=0))
    with pytest.raises((EndpointError, RequestFailedError)) as caught:
        one.ask()
    told = "".join([str(caught.value), repr(caught.value), repr(one.chat), caplog.text, *one.chat.concessions])
    assert caught.value.__suppress_context__
    assert endpoint.KEY not in told
    assert "seen" not in told


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"model": ""}, "model"),
        ({"max_completion_tokens": 1}, "max_completion_tokens"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        ChatEndpoint(**({"model": "m", "api_key": "sk-x"} | options))


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"retries": -1}, {"longest_wait_s": float("nan")}, {"max_requests": 0}]
)
def test_wrong_patience_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        Patience(**options)


def test_without_the_official_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"llmserve-agents\[llm\]"):
        ChatEndpoint("m", api_key="sk-x")
