"""The default dialers: real WebSockets by the `websockets` library. Only this module imports that library.

The client sends no pings: the server sends them, and the protocol opens a broken socket again. Messages are not
compressed: they are small, and compression costs processor time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

import websockets.asyncio.client
import websockets.sync.client
from websockets import Close
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidUpgrade, WebSocketException

from llmserve_client._endpoint import Endpoint
from llmserve_client._exceptions import ConnectError, ConnectionLostError, DeadlineError, WebSocketUnavailableError
from llmserve_client._network import tls_context
from llmserve_client._options import MAX_ANSWER_BYTES
from llmserve_client._reading import too_large

__all__ = ["dial", "dial_async"]

_CLOSE_S: Final = 1.0
"""How long the closing handshake may take."""
_TOO_BIG: Final = 1009
"""Close code of the WebSocket protocol for a message that is larger than its receiver accepts."""


class _Connection(websockets.sync.client.ClientConnection):
    """A connection that can always be closed, whatever the server does.

    The library's thread waits for the socket to become readable and then reads. Over TLS the bytes may be no data (a
    session ticket, half a record), and then the read blocks. Closing the socket does not end that read, and the library
    joins the thread for ever. Shutting the socket down ends it.
    """

    def close_socket(self) -> None:
        self._shut_down()
        super().close_socket()

    def send_data(self) -> None:
        super().send_data()
        if _refuses_size(self.protocol.close_sent):  # else the library reads on until the server closes, unbounded
            self._shut_down()

    def _shut_down(self) -> None:
        with suppress(OSError):  # already closed, or never connected
            self.socket.shutdown(socket.SHUT_RDWR)


class _AsyncConnection(websockets.asyncio.client.ClientConnection):
    """A connection that reads nothing more of an answer that is too large."""

    def send_data(self) -> None:
        super().send_data()
        if _refuses_size(self.protocol.close_sent):
            self.transport.abort()


class _Socket:
    def __init__(self, opening: AbstractContextManager[Any], max_bytes: int) -> None:
        # Only as a context manager does `connect` warn in no release of the library.
        self._opening, self._max_bytes = opening, max_bytes
        self._connection = opening.__enter__()

    def send(self, text: str) -> None:
        with _sending():
            self._connection.send(text)

    def receive(self, timeout_s: float) -> str:
        with _receiving(timeout_s, self._max_bytes):
            return str(self._connection.recv(timeout=timeout_s))

    def close(self) -> None:
        with _closing():
            self._opening.__exit__(None, None, None)

    def drop(self) -> None:
        """Close this process's handle of a socket that its parent goes on using; sends nothing."""
        self._connection.socket.close()


class _AsyncSocket:
    def __init__(self, connection: Any, max_bytes: int) -> None:
        self._connection, self._max_bytes = connection, max_bytes

    async def send(self, text: str) -> None:
        with _sending():
            await self._connection.send(text)

    async def receive(self, timeout_s: float) -> str:
        with _receiving(timeout_s, self._max_bytes):
            async with asyncio.timeout(timeout_s):
                return str(await self._connection.recv())

    async def close(self) -> None:
        with _closing():
            await self._connection.close()


def _options(
    endpoint: Endpoint, headers: Mapping[str, str], timeout_s: float, max_bytes: int, tls: ssl.SSLContext | None
) -> dict[str, Any]:
    return {
        "additional_headers": dict(headers),
        "close_timeout": _CLOSE_S,
        "compression": None,
        "max_size": max_bytes,
        "open_timeout": timeout_s,
        "ping_interval": None,
        "proxy": None if endpoint.local else True,
        "ssl": tls_context(endpoint, tls) if endpoint.secure else None,
    }


def dial(
    endpoint: Endpoint,
    headers: Mapping[str, str],
    timeout_s: float,
    *,
    max_bytes: int = MAX_ANSWER_BYTES,
    tls: ssl.SSLContext | None = None,
) -> _Socket:
    """Open a WebSocket; raises `ConnectError` if TCP, TLS and handshake together take longer than `timeout_s`."""
    with _opening(endpoint):
        options = _options(endpoint, headers, timeout_s, max_bytes, tls)
        opening = websockets.sync.client.connect(endpoint.socket, create_connection=_Connection, **options)
        return _Socket(opening, max_bytes)


async def dial_async(
    endpoint: Endpoint,
    headers: Mapping[str, str],
    timeout_s: float,
    *,
    max_bytes: int = MAX_ANSWER_BYTES,
    tls: ssl.SSLContext | None = None,
) -> _AsyncSocket:
    """Open a WebSocket on the running event loop, with the time limit of `dial`."""
    with _opening(endpoint):
        options = _options(endpoint, headers, timeout_s, max_bytes, tls)
        opening = websockets.asyncio.client.connect(endpoint.socket, create_connection=_AsyncConnection, **options)
        return _AsyncSocket(await opening.__aenter__(), max_bytes)


@contextmanager
def _opening(endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except InvalidStatus as error:
        status, advice = error.response.status_code, error.response.headers.get("Retry-After", "")
        raise WebSocketUnavailableError(
            f"{endpoint.socket} answered with HTTP {status}", status, float(advice) if advice.isdecimal() else None
        ) from error
    except InvalidUpgrade as error:
        raise WebSocketUnavailableError(f"{endpoint.socket} is no WebSocket: {error}") from error
    except (OSError, TimeoutError, WebSocketException, EOFError) as error:
        raise ConnectError(f"cannot connect to {endpoint.socket}: {str(error) or type(error).__name__}") from error


@contextmanager
def _sending() -> Iterator[None]:
    try:
        yield
    except (ConnectionClosed, OSError) as error:
        raise ConnectionLostError(f"the WebSocket is closed ({error})", unsent=True) from error


@contextmanager
def _receiving(timeout_s: float, max_bytes: int) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise DeadlineError(f"no answer within {timeout_s:g} s") from error
    except (ConnectionClosed, OSError) as error:
        if isinstance(error, ConnectionClosed) and _refuses_size(error.sent) and not error.rcvd_then_sent:
            raise too_large(max_bytes) from error
        raise ConnectionLostError(f"the WebSocket closed before the answer came ({error})") from error


def _refuses_size(sent: Close | None) -> bool:
    """Return whether the close frame that this side sent says that a message is too large."""
    return sent is not None and sent.code == _TOO_BIG


@contextmanager
def _closing() -> Iterator[None]:
    try:
        yield
    except (WebSocketException, OSError, EOFError):
        return  # the socket is closed already
