"""One OpenAI-compatible endpoint: sends requests through the official client and adapts to what the endpoint accepts.

The first request asks for structured output, for temperature 0, and for a limit on the answer's length. Parameters that
the endpoint refuses are dropped and listed in `concessions`; without structured output, the request asks for any JSON
object, then for text. Requests that fail with 429 or 5xx are repeated a few times, after the time in ``Retry-After``;
others are not. The key never appears in a message, log, repr or transcript. A hostile endpoint can neither fill the
memory nor keep a caller longer than the time limit (`transport.py`). The module knows nothing about serving.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from llmserve_agents.errors import EndpointError, MissingExtraError, MissingKeyError, RequestCapError
from llmserve_agents.llm.background import BackgroundLoop
from llmserve_agents.llm.completion import Answer, Tokens, read_completion
from llmserve_agents.llm.transport import UnacceptableBodyError, bare_url, guarded_client, official_http, redact_urls
from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

__all__ = ["Answer", "ChatEndpoint", "Patience", "RequestFailedError", "Tokens"]

_FORMATS: Final = ("json_schema", "json_object", "text")
_REFUSED_FORM: Final = frozenset({400, 415, 422, 501})
"""Statuses by which endpoints refuse an unknown parameter."""
_FIRST_WAIT_S: Final = 1.0
_BYTES: Final = 2**20
"""Bytes that an answer may have in any case."""
_BYTES_PER_TOKEN: Final = 64
"""Bytes that it may have for each token: a few letters, escaped as JSON, and what endpoints tell about a token."""
_CLOSE_S: Final = 5.0
_MESSAGE_LETTERS: Final = 4000
_SECRET: Final = re.compile(r"\b(sk-|Bearer\s+)[\w*.\-]{4,}")


class RequestFailedError(Exception):
    """A request got no answer. `kind` is timeout, connection, body, or http_ and a status that did not go away."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Patience:
    """Timeouts and limits of requests."""

    timeout_s: float = 60.0
    """Longest wait for one answer, from the connection to its last byte."""
    retries: int = 4
    """Most repetitions of one request after a 429 or a 5xx."""
    longest_wait_s: float = 60.0
    """Longest pause before a repetition. If the endpoint asks for a longer one, the request fails."""
    max_requests: int | None = None
    """Most requests in all, repetitions included; None: no limit."""

    def __post_init__(self) -> None:
        for name, low, high in (("timeout_s", 0.01, 3600.0), ("longest_wait_s", 0.0, 3600.0)):
            if not low <= getattr(self, name) <= high:
                raise InvalidInputError(name, f"must be a number in {low:g}..{high:g}", got=getattr(self, name))
        if not 0 <= self.retries <= 20:
            raise InvalidInputError("retries", "must be an integer in 0..20", got=self.retries)
        if self.max_requests is not None and self.max_requests < 1:
            raise InvalidInputError("max_requests", "must be at least 1", got=self.max_requests)


class ChatEndpoint:
    """Asks one model at one endpoint.

    Args:
        model: the model's name.
        api_key: the key.
        base_url: the endpoint; None: OpenAI's own.
        max_completion_tokens: longest answer. The six knobs take about 60 tokens; a reasoning model needs more.
        patience: timeouts and limits.
        sleep, now: the clock, for tests.

    Raises `MissingKeyError` without a key, or for one with characters that a header must not have, and
    `MissingExtraError` without the official client (extra `llm`).
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None,
        base_url: str | None = None,
        max_completion_tokens: int = 1024,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not 1 <= len(model) <= 200:
            raise InvalidInputError("model", "must be a model's name of 1..200 characters", got=model)
        if not 16 <= max_completion_tokens <= 1_000_000:
            raise InvalidInputError("max_completion_tokens", "must be in 16..1000000", got=max_completion_tokens)
        self.model = model
        self.patience = Patience() if patience is None else patience
        self.requests = 0
        """HTTP requests sent so far."""
        self.retries = 0
        """Repetitions among these."""
        self.concessions: list[str] = []
        """Parameters that the endpoint refused and that are no longer sent, in order."""
        self._key = _checked_key(api_key)
        self._client = _client(self._key, base_url, _BYTES + _BYTES_PER_TOKEN * max_completion_tokens)
        self._loop = BackgroundLoop()
        self._sleep, self._now = sleep, now
        self._format = 0
        self._temperature = True
        self._limit_field = "max_completion_tokens"
        self._limit = max_completion_tokens
        self._settled = False

    def __repr__(self) -> str:
        return f"ChatEndpoint(model={self.model!r})"

    @property
    def response_format(self) -> str:
        """The present form of answers: json_schema, json_object or text."""
        return _FORMATS[self._format]

    def close(self) -> None:
        """Close the connections. Closing twice is allowed."""
        try:
            self._loop.run(self._client.close(), within_s=_CLOSE_S)
        except TimeoutError:
            pass  # the connections go with the loop
        finally:
            self._loop.close()

    def redact(self, text: str) -> str:
        """Return `text` without the key, anything that looks like a key, and the private parts of URLs."""
        return redact_urls(_SECRET.sub("[redacted]", text.replace(self._key, "[redacted]")))

    def ask(self, system: str, user: str, schema: Mapping[str, Any]) -> Answer:
        """Return the model's answer to a question.

        Raises `RequestFailedError` if this request gets no answer, `EndpointError` if no request can succeed, and
        `RequestCapError` at the limit of requests.
        """
        while True:
            try:
                answer = self._send_with_retries(self._request(system, user, schema))
            except _RefusedError as refusal:
                if self._settled or not self._concede(refusal):
                    raise EndpointError(str(refusal), status=refusal.status) from None
            else:
                self._settled = True
                return answer

    def _request(self, system: str, user: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            self._limit_field: self._limit,
        }
        if self._temperature:
            request["temperature"] = 0
        if self.response_format == "json_schema":
            named = {"name": "serving_configuration", "strict": True, "schema": dict(schema)}
            request["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self.response_format == "json_object":
            request["response_format"] = {"type": "json_object"}
        return request

    def _concede(self, refusal: _RefusedError) -> bool:
        """Drop the parameter that the endpoint refuses; return False if nothing is left to drop."""
        if refusal.status not in _REFUSED_FORM:
            return False
        said = refusal.said.lower()
        if self._temperature and "temperature" in said:
            self._temperature = False
            given_up = "temperature 0 (its own default instead)"
        elif self._limit_field == "max_completion_tokens" and "max_completion_tokens" in said:
            self._limit_field = "max_tokens"
            given_up = "max_completion_tokens (max_tokens instead)"
        elif self._format + 1 < len(_FORMATS):
            given_up = f"{self.response_format} ({_FORMATS[self._format + 1]} instead)"
            self._format += 1
        else:
            return False
        self.concessions.append(f"{given_up}: {refusal}")
        return True

    def _send_with_retries(self, request: Mapping[str, Any]) -> Answer:
        """Send a request; repeat it after a 429 or a 5xx."""
        for attempt in range(self.patience.retries + 1):
            last = attempt == self.patience.retries
            try:
                return self._send(request)
            except _OverloadedError as error:
                wait = error.retry_after_s
                wait = _FIRST_WAIT_S * 2**attempt if wait is None else wait
                if last or wait > self.patience.longest_wait_s:
                    raise RequestFailedError(f"http_{error.status}", str(error)) from None
                self._sleep(wait)
                self.retries += 1
        raise AssertionError("the last attempt returns or raises")

    def _send(self, request: Mapping[str, Any]) -> Answer:
        import openai

        cap = self.patience.max_requests
        if cap is not None and self.requests >= cap:
            raise RequestCapError(f"the cap of {cap} requests is reached")
        self.requests += 1
        try:
            body = self._loop.run(self._exchange(request), within_s=self.patience.timeout_s)
        except (TimeoutError, openai.APITimeoutError):
            message = f"no answer within {self.patience.timeout_s:g} s"
            raise RequestFailedError("timeout", message) from None
        except openai.APIConnectionError as error:
            message = self.redact(f"the connection failed ({type(error.__cause__ or error).__name__})")
            raise RequestFailedError("connection", message) from None
        except openai.APIStatusError as error:
            raise self._exception_for(error) from None
        except UnacceptableBodyError as error:
            raise RequestFailedError("body", str(error)) from None
        return read_completion(body)

    async def _exchange(self, request: Mapping[str, Any]) -> bytes:
        """Send a request and return the body of the reply."""
        reply = await self._client.chat.completions.with_raw_response.create(**request)
        return bytes(reply.http_response.content)

    def _exception_for(self, error: APIStatusError) -> Exception:
        """Return the exception for an HTTP error: to repeat later, to adapt the request, or to give up."""
        status = error.status_code
        if status in {401, 403}:
            # These messages may quote the key or parts of it, so they are not passed on.
            return EndpointError(f"the endpoint answered {status}: the API key is not accepted", status=status)
        said = self.redact(" ".join(error.message[:_MESSAGE_LETTERS].split()))[:300]
        message = f"the endpoint answered {status}: {said}"
        if 300 <= status < 400:
            message = f"the endpoint answered {status}, a redirect, which is not followed: set the URL that it leads to"
        if status == 429 or (status >= 500 and status != 501):
            return _OverloadedError(status, message, self._retry_after_s(error.response.headers))
        return _RefusedError(status, message, said)

    def _retry_after_s(self, headers: Mapping[str, str]) -> float | None:
        """Return the seconds that the endpoint asks to wait; None if the header is missing or malformed."""
        value = headers.get("retry-after")
        if value is None:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            pass
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0.0, (at - self._now()).total_seconds())


class _OverloadedError(Exception):
    def __init__(self, status: int, message: str, retry_after_s: float | None) -> None:
        self.status = status
        self.retry_after_s = retry_after_s
        super().__init__(message)


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, said: str) -> None:
        self.status = status
        self.said = said
        super().__init__(message)


def _checked_key(key: str | None) -> str:
    key = (key or "").strip()
    if not key:
        raise MissingKeyError("the openai agent needs an API key: set OPENAI_API_KEY")
    if not key.isascii() or not key.isprintable() or " " in key:
        # httpx would refuse the header with a message that quotes the key.
        raise MissingKeyError("OPENAI_API_KEY: must be printable ASCII without spaces")
    return key


def _client(key: str, base_url: str | None, max_bytes: int) -> AsyncOpenAI:
    try:
        import openai
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise MissingExtraError("llm", "the openai agent") from None
    return openai.AsyncOpenAI(
        api_key=key,
        base_url=None if base_url is None else bare_url(base_url),
        timeout=None,  # one time limit holds for the whole exchange
        max_retries=0,  # this module counts and limits repetitions
        http_client=guarded_client(official_http(), base_url, max_bytes=max_bytes, max_connections=4, timeout=None),
    )
