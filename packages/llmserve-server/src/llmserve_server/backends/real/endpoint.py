"""`Endpoint`: send requests to one OpenAI-compatible endpoint and record the arrival time of every piece of text.

Whatever an endpoint does wrong becomes a `Failure` of that request, within the time limit and within bounds of memory
(`llmserve_agents.llm.transport`). The endpoint's error message is dropped, because it may repeat the key. Nothing is retried, because a retry would hide a failure in a latency. The one exception is an
endpoint that refuses `stream_options`: from then on it is asked without.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    PermissionDeniedError,
    RateLimitError,
)

from llmserve_agents.llm.transport import OversizedBodyError, bare_url, guarded_client, official_http
from llmserve_server.backends.real.answers import Failure
from llmserve_server.backends.real.chunks import EventDecoder, EventError, MalformedError, read_chunk
from llmserve_server.backends.real.prompts import prompt_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmserve_server.backends.real.answers import Answer
    from llmserve_server.backends.real.config import RealConfig
    from llmserve_server.backends.real.sampling import SampledRequest

__all__ = ["Endpoint"]

_LOG = logging.getLogger(__name__)
_DRAIN_S: Final = 0.1
"""Seconds that a stream has to close after its last event, so that its connection can be reused."""
_MAX_BYTES: Final = 16 * 2**20
"""Longest stream; one of a thousand tokens takes some hundreds of kilobytes."""
_MAX_CONNECTIONS: Final = 1000
"""Most connections of a process, the official client's own limit. Requests beyond it wait within their time limit."""


class _BrokenError(Exception):
    pass


class _OverlongError(Exception):
    pass


class Endpoint:
    """Sends requests. Make, use and close it on one event loop.

    Args:
        config: URL, key, model and limits.
        http_client: the transport of the official client, for tests.
    """

    def __init__(self, config: RealConfig, *, http_client: Any = None) -> None:
        self._config = config
        url = None if config.base_url is None else config.base_url.get_secret_value()
        if http_client is None:
            http_client = guarded_client(
                official_http(), url, max_bytes=_MAX_BYTES, max_connections=_MAX_CONNECTIONS, timeout=None
            )
        self.include_usage = config.include_usage
        """Whether token counts are requested; false after the endpoint has refused to send them."""
        self._client = AsyncOpenAI(
            api_key=config.api_key.get_secret_value(),
            base_url=None if url is None else bare_url(url),
            max_retries=0,
            timeout=None,  # `send` applies one time limit to the whole answer
            http_client=http_client,
        )
        # The client imports its resources on first use, which would lengthen the first latency.
        _ = self._client.chat.completions.with_streaming_response

    async def send(self, seed: int, request: SampledRequest, answer: Answer) -> None:
        """Send one request of an episode and fill in `answer`, up to its end or its failure."""
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                await self._ask(prompt_of(seed, request.id, request.prompt_tokens), request, answer)
        except Exception as error:  # noqa: BLE001 - whatever an endpoint sends must become a named failure
            # An answer that has ended is complete, whatever happens to the connection afterwards.
            if not answer.complete:
                answer.failure = _failure_of(error, answer)
                _LOG.info("request failed: %s (%s)", answer.failure.value, type(error).__name__)
        if answer.failure is None:
            if not answer.complete:
                answer.failure = Failure.TRUNCATED
            elif not answer.times:
                answer.failure = Failure.EMPTY

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, prompt: str, request: SampledRequest, answer: Answer) -> None:
        usage = self.include_usage
        try:
            await self._stream(prompt, request, answer, usage=usage)
        except APIStatusError as error:
            if not (usage and error.status_code in {400, 422} and "stream_options" in _body_of(error)):
                raise
            self.include_usage = False
            _LOG.warning("the endpoint does not know stream_options: its tokens are counted here from now on")
            await self._stream(prompt, request, answer, usage=False)

    async def _stream(self, prompt: str, request: SampledRequest, answer: Answer, *, usage: bool) -> None:
        arguments: dict[str, Any] = {self._config.token_limit_field: request.completion_tokens}
        if usage:
            arguments["stream_options"] = {"include_usage": True}
        if self._config.extra_body:
            arguments["extra_body"] = self._config.extra_body
        create = self._client.chat.completions.with_streaming_response.create
        messages: list[Any] = [{"role": "user", "content": prompt}]
        async with create(model=self._config.model, messages=messages, stream=True, **arguments) as response:
            if "event-stream" not in response.headers.get("content-type", ""):
                raise MalformedError
            pieces = response.iter_bytes()
            await _listen(pieces, answer, limit=4 * request.completion_tokens + 64)
            with suppress(TimeoutError, _BrokenError):
                async with asyncio.timeout(_DRAIN_S):
                    async for _ in _unbroken(pieces):
                        pass


async def _listen(pieces: AsyncIterator[bytes], answer: Answer, *, limit: int) -> None:
    """Read a stream up to its last event. The time of a piece of text is that of the bytes that complete it."""
    clock = asyncio.get_running_loop().time
    events = EventDecoder()
    async for piece in _unbroken(pieces):
        now = clock()
        for data in events.feed(piece):
            if data.startswith("[DONE]"):
                return
            if read_chunk(data, answer):
                answer.times.append(now)
                if len(answer.times) > limit:  # pieces shorter than a token are unusual but allowed
                    raise _OverlongError


async def _unbroken(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces; convert every error of the transport to one class."""
    while True:
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except OversizedBodyError:
            raise
        except Exception as error:
            raise _BrokenError from error
        yield piece


def _failure_of(error: Exception, answer: Answer) -> Failure:
    match error:
        case TimeoutError() | APITimeoutError():
            return Failure.TIMEOUT
        case RateLimitError():
            answer.retry_after_s = _retry_after(error)
            return Failure.RATE_LIMITED
        case AuthenticationError() | PermissionDeniedError():
            return Failure.UNAUTHORIZED
        case APIStatusError(status_code=status):
            return Failure.SERVER_ERROR if status >= 500 else Failure.REFUSED
        case APIConnectionError() | _BrokenError():
            return Failure.TRUNCATED if answer.times else Failure.CONNECTION
        case EventError():
            return Failure.STREAM_ERROR
        case _OverlongError() | OversizedBodyError():
            return Failure.OVERLONG
        case _:
            return Failure.MALFORMED


def _retry_after(error: APIStatusError) -> float | None:
    """Return the seconds of Retry-After; None for nonsense, or for a date, which needs the endpoint's clock."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < float("inf") else None


def _body_of(error: APIStatusError) -> str:
    try:
        return error.response.text
    except Exception:  # noqa: BLE001 - the body was never read, or is not text
        return ""
