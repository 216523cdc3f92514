"""Interfaces to the network: the WebSocket protocol classes, httpx's settings, and httpx's errors as this package's.

A `SyncDialer` (or `AsyncDialer`) opens a WebSocket; an httpx transport carries HTTP. A caller can pass in both:
`llmserve_client.testing` uses this to serve clients within one process.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import httpx

from llmserve_client._endpoint import Endpoint
from llmserve_client._exceptions import ConnectError, ConnectionLostError, DeadlineError, TransportError
from llmserve_client._operations import HttpRequest
from llmserve_client._reading import CODING

__all__ = [
    "AsyncDialer",
    "AsyncSocket",
    "SyncDialer",
    "SyncSocket",
    "http_errors",
    "http_options",
    "tls_context",
    "to_request",
]


class SyncSocket(Protocol):
    """An open WebSocket that carries text messages."""

    def send(self, text: str) -> None:
        """Send a text; raises `ConnectionLostError`, with `unsent` if the server cannot have received it."""
        ...

    def receive(self, timeout_s: float) -> str:
        """Return the next text; raises `DeadlineError` and `ConnectionLostError`."""
        ...

    def close(self) -> None:
        """Close. Closing twice is allowed; raises nothing."""
        ...


class AsyncSocket(Protocol):
    """An open WebSocket whose methods are awaited."""

    async def send(self, text: str) -> None:
        """Send a text; raises `ConnectionLostError`, with `unsent` if the server cannot have received it."""
        ...

    async def receive(self, timeout_s: float) -> str:
        """Return the next text; raises `DeadlineError` and `ConnectionLostError`."""
        ...

    async def close(self) -> None:
        """Close. Closing twice is allowed; raises nothing."""
        ...


SyncDialer: TypeAlias = Callable[[Endpoint, Mapping[str, str], float], SyncSocket]
"""Opens a socket: (endpoint, headers, timeout in s). Raises `ConnectError` or `WebSocketUnavailableError`."""
AsyncDialer: TypeAlias = Callable[[Endpoint, Mapping[str, str], float], Awaitable[AsyncSocket]]
"""Opens a socket, awaited; arguments and errors as for `SyncDialer`."""


def tls_context(endpoint: Endpoint, given: ssl.SSLContext | None) -> ssl.SSLContext:
    """Return the caller's TLS context, else httpx's (certifi, or $SSL_CERT_FILE), for both transports."""
    if given is not None:
        return given
    if endpoint.secure:
        return httpx.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loads no certificates: this connection does not use TLS


def http_options(
    endpoint: Endpoint, headers: Mapping[str, str], connect_s: float, tls: ssl.SSLContext | None
) -> dict[str, Any]:
    """Return the arguments of an httpx client: one connection, kept alive, no proxy for a local server."""
    sent = httpx.Headers(dict(headers))
    sent["Accept-Encoding"] = CODING
    return {
        "base_url": endpoint.http,
        "headers": sent,
        "timeout": httpx.Timeout(connect_s),
        "limits": httpx.Limits(max_connections=1, max_keepalive_connections=1),
        "mounts": {f"all://{endpoint.host}": None} if endpoint.local else None,
        "verify": tls_context(endpoint, tls),
    }


def to_request(client: httpx.Client | httpx.AsyncClient, call: HttpRequest, connect_s: float) -> httpx.Request:
    """Return the httpx request of an `HttpRequest`."""
    return client.build_request(
        call.method,
        call.path,
        content=call.body,
        headers=dict(call.headers),
        params=dict(call.params) or None,
        timeout=httpx.Timeout(call.timeout_s, connect=connect_s, pool=connect_s),
    )


@contextmanager
def http_errors(endpoint: Endpoint) -> Iterator[None]:
    """Raise httpx's errors as this package's errors."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
        raise ConnectError(f"cannot connect to {endpoint.http}: {_reason(error)}") from error
    except httpx.TimeoutException as error:
        raise DeadlineError(f"no answer from {endpoint.http} in time") from error
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise ConnectionLostError(f"lost the connection to {endpoint.http}: {_reason(error)}") from error
    except httpx.TransportError as error:
        raise TransportError(f"HTTP with {endpoint.http} failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
