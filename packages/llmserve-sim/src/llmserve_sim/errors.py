"""The exceptions of llmserve-sim: one root, one leaf per thing a caller can do about it.

::

    LLMServeError
    ├── InvalidInputError (also ValueError)       a field is wrong: fix that field
    │   └── UnknownTaskError                      no such task: pick one that exists
    ├── EpisodeStateError (also RuntimeError)     the call came at the wrong time: reset first, or stop stepping
    └── MissingExtraError (also ImportError)      an optional dependency is absent: install the named extra
"""

from __future__ import annotations

__all__ = [
    "EpisodeStateError",
    "InvalidInputError",
    "LLMServeError",
    "MissingExtraError",
    "UnknownTaskError",
]


class LLMServeError(Exception):
    """Root of every error that this package raises on purpose."""


class InvalidInputError(LLMServeError, ValueError):
    """A value was refused. `field` names it (dotted path), `bound` says what would have been accepted."""

    def __init__(self, field: str, bound: str, *, got: object = None) -> None:
        self.field = field
        self.bound = bound
        self.got = got
        shown = "" if got is None else f", got {_short(got)}"
        super().__init__(f"{field}: {bound}{shown}")


class UnknownTaskError(InvalidInputError):
    """A task id that is not in the catalogue; `bound` lists those that are."""


class EpisodeStateError(LLMServeError, RuntimeError):
    """A call that the episode's present state does not allow, such as a step before a reset or after the end."""


class MissingExtraError(LLMServeError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, extra: str, wanted_by: str) -> None:
        self.extra = extra
        super().__init__(f"{wanted_by} needs the extra '{extra}': pip install 'llmserve-sim[{extra}]'")


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
