"""One OpenAI-compatible endpoint, asked through the official client, with a time on every piece of text that streams in.

Whatever an endpoint does wrong becomes a `Failure` of that request. Its own words are dropped: an error message may
repeat the key it was sent. Nothing is retried, since a retry would hide a failure inside a latency; the one exception is
an endpoint that does not know `stream_options`, which is asked again without, and from then on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AuthenticationError,
    PermissionDeniedError,
    RateLimitError,
)
from openai.types.chat import ChatCompletionChunk

from llmserve_server.backends.real.answers import Failure
from llmserve_server.backends.real.prompts import prompt_of

if TYPE_CHECKING:
    from llmserve_server.backends.real.answers import Answer
    from llmserve_server.backends.real.config import RealConfig
    from llmserve_server.backends.real.orders import Order

__all__ = ["Endpoint"]

_LOG = logging.getLogger(__name__)
_TEXT: Final = ("content", "reasoning_content", "reasoning", "refusal")
"""Where a delta may carry text: visible output, and the reasoning of models that show it (vLLM's names)."""
_MAX_COUNT: Final = 10**9
"""Token counts beyond this are no counts."""


class _MalformedError(Exception):
    pass


class _OverlongError(Exception):
    pass


class Endpoint:
    """Sends orders. Make, use and close it on one event loop.

    Args:
        config: where to, as whom, and within which limits.
        http_client: the transport underneath the official client, for tests.
    """

    def __init__(self, config: RealConfig, *, http_client: Any = None) -> None:
        self._config = config
        self.include_usage = config.include_usage
        """Whether token counts are asked for; false once the endpoint has refused to be asked."""
        self._client = AsyncOpenAI(
            api_key=config.api_key.get_secret_value(),
            base_url=None if config.base_url is None else config.base_url.get_secret_value(),
            max_retries=0,
            timeout=config.request_timeout_s,
            http_client=http_client,
        )

    async def send(self, seed: int, order: Order, answer: Answer) -> None:
        """Send one order of an episode and fill in `answer`, completely or up to its failure."""
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                await self._ask(prompt_of(seed, order.id, order.prompt_tokens), order, answer)
        except Exception as error:  # noqa: BLE001 - whatever an endpoint sends must end in a named failure
            # An answer that had ended is complete, whatever happened to the connection after it.
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

    async def _ask(self, prompt: str, order: Order, answer: Answer) -> None:
        usage = self.include_usage
        try:
            await self._stream(prompt, order, answer, usage=usage)
        except APIStatusError as error:
            if not (usage and error.status_code in {400, 422} and "stream_options" in _body_of(error)):
                raise
            self.include_usage = False
            _LOG.warning("the endpoint does not know stream_options: its tokens are counted here from now on")
            await self._stream(prompt, order, answer, usage=False)

    async def _stream(self, prompt: str, order: Order, answer: Answer, *, usage: bool) -> None:
        arguments: dict[str, Any] = {self._config.token_limit_field: order.completion_tokens}
        if usage:
            arguments["stream_options"] = {"include_usage": True}
        if self._config.extra_body:
            arguments["extra_body"] = self._config.extra_body
        stream = await self._client.chat.completions.create(
            model=self._config.model, messages=[{"role": "user", "content": prompt}], stream=True, **arguments
        )
        clock = asyncio.get_running_loop().time
        limit = 4 * order.completion_tokens + 64  # pieces shorter than a token are odd, but allowed
        async with stream:
            if "event-stream" not in stream.response.headers.get("content-type", ""):
                raise _MalformedError
            async for chunk in stream:
                now = clock()
                if _take(chunk, answer):
                    answer.times.append(now)
                    if len(answer.times) > limit:
                        raise _OverlongError


def _take(chunk: object, answer: Answer) -> bool:
    """Read one chunk into `answer`; return whether it carries text. The client checks no types, so this does."""
    if not isinstance(chunk, ChatCompletionChunk):
        raise _MalformedError
    _take_usage(getattr(chunk, "usage", None), answer)
    choices = getattr(chunk, "choices", None)
    if choices is None or choices == []:  # the last chunk carries only the usage
        if getattr(chunk, "usage", None) is None:
            raise _MalformedError
        return False
    if not isinstance(choices, list):
        raise _MalformedError
    choice = choices[0]
    reason = getattr(choice, "finish_reason", None)
    delta = getattr(choice, "delta", None)
    if not (reason is None or isinstance(reason, str)) or (delta is None and reason is None):
        raise _MalformedError
    if reason:
        answer.complete = True
    texts = [getattr(delta, name, None) for name in _TEXT]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise _MalformedError
    return any(texts)


def _take_usage(usage: object, answer: Answer) -> None:
    prompt, completion = (_count(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens"))
    if prompt is not None and completion:
        answer.prompt_tokens, answer.completion_tokens = prompt, completion
        details = getattr(usage, "prompt_tokens_details", None)
        answer.cached_tokens = min(prompt, _count(getattr(details, "cached_tokens", None)) or 0)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


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
        case APIConnectionError():
            return Failure.TRUNCATED if answer.times else Failure.CONNECTION
        case APIError():
            return Failure.STREAM_ERROR
        case _OverlongError():
            return Failure.OVERLONG
        case _:
            return Failure.MALFORMED


def _retry_after(error: APIStatusError) -> float | None:
    """Seconds asked for; None for a date or for nonsense, which only the official services' clocks could judge."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0.0 <= seconds < float("inf") else None


def _body_of(error: APIStatusError) -> str:
    try:
        return error.response.text
    except Exception:  # noqa: BLE001 - a body that was never read, or is no text: it asks for nothing
        return ""
