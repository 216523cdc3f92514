"""The exceptions of llmserve-sim: one root, one leaf per thing a caller can do about it.

::

    LLMServeError
    ├── InvalidInputError (also ValueError)       a field is wrong: fix that field
    │   └── UnknownTaskError                      no such task: pick one that exists
    ├── EpisodeStateError (also RuntimeError)     the call came at the wrong time: reset first, or stop stepping
    └── MissingExtraError (also ImportError)      an optional dependency is absent: install the named extra
"""

from __future__ import annotations

from typing import Any

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
        super().__init__(f"{_shorten(field, 200)}: {bound}{shown}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way from a worker process to its parent; what was got goes as its text."""
        got = None if self.got is None else _Shown(_short(self.got))
        return _refused, (type(self), self.field, self.bound, got)


class UnknownTaskError(InvalidInputError):
    """A task id that is not in the catalogue; `bound` lists those that are."""


class EpisodeStateError(LLMServeError, RuntimeError):
    """A call that the episode's present state does not allow, such as a step before a reset or after the end."""


class MissingExtraError(LLMServeError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, extra: str, wanted_by: str) -> None:
        self.extra = extra
        self.wanted_by = wanted_by
        super().__init__(f"{wanted_by} needs the extra '{extra}': pip install 'llmserve-sim[{extra}]'")

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way from a worker process to its parent."""
        return type(self), (self.extra, self.wanted_by)


class _Shown(str):
    """The text of a value that stayed in another process."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _refused(kind: type[InvalidInputError], field: str, bound: str, got: object) -> InvalidInputError:
    return kind(field, bound, got=got)


def _short(value: object, limit: int = 80) -> str:
    return _shorten(repr(value), limit)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
