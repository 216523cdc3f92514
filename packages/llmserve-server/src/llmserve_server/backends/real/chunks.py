"""Decode the byte stream of a chat completion: server-sent events, and the chunks in them.

The official client would build a model of every chunk. That takes a fifth of a millisecond, which would distort the
latencies of thirty parallel streams; a few look-ups in plain JSON do not. The type of every value is checked.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmserve_server.backends.real.answers import Answer

__all__ = ["EventDecoder", "EventError", "MalformedError", "read_chunk"]

_TEXT: Final = ("content", "reasoning_content", "reasoning", "refusal")
"""Fields of a delta that may hold text: visible output, and reasoning, under vLLM's names."""
_MAX_COUNT: Final = 10**9
"""Larger token counts are ignored as nonsense."""
_MAX_EVENT_BYTES: Final = 2**20
"""Maximum length of an event; a chunk takes some hundreds of bytes."""


class MalformedError(Exception):
    """The reply is not a stream of chat completion chunks."""


class EventError(Exception):
    """The stream reported an error."""


class EventDecoder:
    """Joins events from pieces of bytes, which may be cut anywhere."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the data of each event that `piece` completes; raises `MalformedError`."""
        self._size += len(piece)
        if b"\n" not in piece:  # joining it every time would take quadratic time for a line in small pieces
            self._line += piece
            if self._size > _MAX_EVENT_BYTES:
                raise MalformedError
            return
        *lines, rest = (bytes(self._line) + piece).split(b"\n")
        self._line = bytearray(rest)
        for line in lines:
            yield from self._take(line.removesuffix(b"\r"))
        if self._size > _MAX_EVENT_BYTES:
            raise MalformedError

    def _take(self, line: bytes) -> Iterator[str]:
        if line.startswith(b"data:"):
            self._data.append(line.removeprefix(b"data:").removeprefix(b" "))
        elif not line and self._data:
            data, self._data, self._size = b"\n".join(self._data), [], len(self._line)
            try:
                yield data.decode()
            except UnicodeDecodeError:
                raise MalformedError from None
        elif not line:
            self._size = len(self._line)


def read_chunk(data: str, answer: Answer) -> bool:
    """Read one event into `answer`; return whether it has text. Raises `MalformedError` or `EventError`."""
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedError from None
    if not isinstance(chunk, dict):
        raise MalformedError
    if chunk.get("error"):
        raise EventError
    usage, choices = chunk.get("usage"), chunk.get("choices")
    if isinstance(usage, dict):
        _take_usage(usage, answer)
    if not choices and isinstance(usage, dict):  # the last chunk has only the usage
        return False
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedError
    reason, delta = choices[0].get("finish_reason"), choices[0].get("delta")
    if not isinstance(reason, str | None) or not isinstance(delta, dict | None) or (delta is None and reason is None):
        raise MalformedError
    if reason:
        answer.complete = True
    texts = [] if delta is None else [delta.get(name) for name in _TEXT]
    if not all(isinstance(text, str | None) for text in texts):
        raise MalformedError
    return any(texts)


def _take_usage(usage: dict[str, Any], answer: Answer) -> None:
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is not None and completion:
        answer.prompt_tokens, answer.completion_tokens = prompt, completion
        details = usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        answer.cached_tokens = min(prompt, cached or 0)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None
