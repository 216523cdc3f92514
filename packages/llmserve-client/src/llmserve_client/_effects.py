"""What a flow may ask for: the vocabulary between the core and the hands that do I/O. Plain values, and nothing to load."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

__all__ = ["Answer", "Dial", "Effect", "Exchange", "Flow", "HangUp", "HttpCall", "Pause"]

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One HTTP request; `path` is below the base URL."""

    method: str
    path: str
    timeout_s: float
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back to an `HttpCall`; header names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dial:
    """Open the WebSocket (closing one that is open)."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send a text over the WebSocket and receive one."""

    text: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the WebSocket, if one is open."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


Effect: TypeAlias = HttpCall | Dial | Exchange | HangUp | Pause
Flow: TypeAlias = Generator[Effect, Any, _Result]
