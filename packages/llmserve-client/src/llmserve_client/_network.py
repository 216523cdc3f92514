"""The seams to the outside: what a WebSocket must be able to do, and how httpx's errors read here.

A `SyncDialer` (or `AsyncDialer`) opens a WebSocket; an httpx transport carries HTTP. Both can be passed in, which is how
`llmserve_client.testing` serves clients in their own process.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import httpx

from llmserve_client._effects import Answer, HttpCall
from llmserve_client._endpoint import Endpoint
from llmserve_client._exceptions import ConnectError, ConnectionLostError, DeadlineError, TransportError

__all__ = [
    "AsyncDialer",
    "AsyncSocket",
    "SyncDialer",
    "SyncSocket",
    "http_errors",
    "http_options",
    "tls_context",
    "to_answer",
    "to_request",
]


class SyncSocket(Protocol):
    """An open WebSocket that carries texts."""

    def send(self, text: str) -> None:
        """Send a text; raises `ConnectionLostError` with `unsent` where the server cannot have got it."""
        ...

    def receive(self, timeout_s: float) -> str:
        """Return the next text; raises `DeadlineError` and `ConnectionLostError`."""
        ...

    def close(self) -> None:
        """Close; closing twice is allowed and nothing is raised."""
        ...


class AsyncSocket(Protocol):
    """The same, awaited."""

    async def send(self, text: str) -> None:
        """Send a text; raises `ConnectionLostError` with `unsent` where the server cannot have got it."""
        ...

    async def receive(self, timeout_s: float) -> str:
        """Return the next text; raises `DeadlineError` and `ConnectionLostError`."""
        ...

    async def close(self) -> None:
        """Close; closing twice is allowed and nothing is raised."""
        ...


SyncDialer: TypeAlias = Callable[[Endpoint, Mapping[str, str], float], SyncSocket]
"""Opens a socket: (endpoint, headers, timeout in s). Raises `ConnectError` or `WebSocketUnavailableError`."""
AsyncDialer: TypeAlias = Callable[[Endpoint, Mapping[str, str], float], Awaitable[AsyncSocket]]
"""The same, awaited."""


def tls_context(endpoint: Endpoint, given: ssl.SSLContext | None) -> ssl.SSLContext:
    """Return whom to trust: httpx's choice (certifi, or $SSL_CERT_FILE) for both transports, unless the caller chose."""
    if given is not None:
        return given
    if endpoint.secure:
        return httpx.create_ssl_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and loads nothing: no TLS will be spoken


def http_options(
    endpoint: Endpoint, headers: Mapping[str, str], connect_s: float, tls: ssl.SSLContext | None
) -> dict[str, Any]:
    """Return what an httpx client of this server is made with: one connection, kept alive, no proxy to this machine."""
    return {
        "base_url": endpoint.http,
        "headers": headers,
        "timeout": httpx.Timeout(connect_s),
        "limits": httpx.Limits(max_connections=1, max_keepalive_connections=1),
        "mounts": {f"all://{endpoint.host}": None} if endpoint.local else None,
        "verify": tls_context(endpoint, tls),
    }


def to_request(client: httpx.Client | httpx.AsyncClient, call: HttpCall, connect_s: float) -> httpx.Request:
    """Return an effect as httpx's request."""
    return client.build_request(
        call.method,
        call.path,
        content=call.body,
        headers=dict(call.headers),
        params=dict(call.params) or None,
        timeout=httpx.Timeout(call.timeout_s, connect=connect_s, pool=connect_s),
    )


def to_answer(response: httpx.Response) -> Answer:
    """Return httpx's response as an effect's answer."""
    return Answer(
        response.status_code, response.content, {name.lower(): text for name, text in response.headers.items()}
    )


@contextmanager
def http_errors(endpoint: Endpoint) -> Iterator[None]:
    """Say httpx's errors in this package's words."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
        raise ConnectError(f"cannot connect to {endpoint.http}: {_words(error)}") from error
    except httpx.TimeoutException as error:
        raise DeadlineError(f"no answer from {endpoint.http} in time") from error
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise ConnectionLostError(f"lost the connection to {endpoint.http}: {_words(error)}") from error
    except httpx.TransportError as error:
        raise TransportError(f"HTTP with {endpoint.http} failed: {_words(error)}") from error


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
