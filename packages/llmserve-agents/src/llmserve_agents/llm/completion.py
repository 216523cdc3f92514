"""`read_completion`: read the body of a chat completion, in which anything may be missing or of another type.

Compatible endpoints leave fields out, and the official client's types would fail on what is not theirs.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

__all__ = ["Answer", "Tokens", "read_completion"]

_MAX_COUNT: Final = 10**9
"""Larger token counts are nonsense."""


class Tokens(NamedTuple):
    """Tokens of one answer, as the endpoint counted them."""

    prompt: int
    cached_prompt: int
    """Part of `prompt`."""
    completion: int


class Answer(NamedTuple):
    """An endpoint's answer; any part may be missing."""

    text: str | None
    refusal: str | None
    finish_reason: str | None
    tokens: Tokens | None


def read_completion(body: bytes) -> Answer:
    """Read the body of a chat completion. Whatever is missing or of another type is None."""
    try:
        completion = json.loads(body)
    except (ValueError, RecursionError):
        return Answer(None, None, None, None)
    choices = _part(completion, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _part(choice, "message")
    text, refusal, reason = _part(message, "content"), _part(message, "refusal"), _part(choice, "finish_reason")
    return Answer(
        text=text if isinstance(text, str) else None,
        refusal=refusal if isinstance(refusal, str) and refusal else None,
        finish_reason=reason if isinstance(reason, str) else None,
        tokens=_tokens(_part(completion, "usage")),
    )


def _part(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _tokens(usage: object) -> Tokens | None:
    prompt, completion = _count(_part(usage, "prompt_tokens")), _count(_part(usage, "completion_tokens"))
    if prompt is None or completion is None:
        return None
    cached = _count(_part(_part(usage, "prompt_tokens_details"), "cached_tokens"))
    return Tokens(prompt, min(prompt, cached or 0), completion)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None
