"""I/O operations that `_protocol.py` asks a transport to perform. Plain values; this module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

__all__ = ["CloseSocket", "Flow", "HttpRequest", "HttpResponse", "OpenSocket", "Operation", "SendAndReceive", "Sleep"]

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Send an HTTP request; `path` is relative to the base URL."""

    method: str
    path: str
    timeout_s: float
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The response to an `HttpRequest`; header names are in lower case."""

    status: int
    body: bytes | bytearray
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """Open the WebSocket. Close the old one first, if there is one."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class SendAndReceive:
    """Send one text message over the WebSocket and receive one."""

    text: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close the WebSocket, if it is open."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait before the next try."""

    seconds: float


Operation: TypeAlias = HttpRequest | OpenSocket | SendAndReceive | CloseSocket | Sleep
Flow: TypeAlias = Generator[Operation, Any, _Result]
"""One method of the protocol: yields operations, is sent their results, and returns the method's result."""
