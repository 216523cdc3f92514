"""Real WebSockets, by the `websockets` library: the default dialers, and the only module that imports it.

No pings are sent from here: the server sends them, and a socket that dies all the same is dialled again by the core. No
compression either: messages are small, and the processor has better things to do.
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
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidUpgrade, WebSocketException

from llmserve_client._endpoint import Endpoint
from llmserve_client._exceptions import ConnectError, ConnectionLostError, DeadlineError, WebSocketUnavailableError
from llmserve_client._network import tls_context

__all__ = ["dial", "dial_async"]

_CLOSE_S: Final = 1.0
"""How long a polite goodbye may take."""
_MAX_MESSAGE_BYTES: Final = 16 * 2**20


class _Connection(websockets.sync.client.ClientConnection):
    """A connection that can be closed whatever its peer does.

    The library's thread waits until there is something to read and then reads; over TLS what there is may be no data (a
    session ticket, half a record), and the read goes on waiting. Closing the socket does not end it, and the library
    then joins the thread for ever, after an opening that timed out as after a goodbye. Shutting the socket down does.
    """

    def close_socket(self) -> None:
        with suppress(OSError):  # it is closed, or was never connected
            self.socket.shutdown(socket.SHUT_RDWR)
        super().close_socket()


class _Socket:
    def __init__(self, opening: AbstractContextManager[Any]) -> None:
        # As a context manager: the one way to connect that no release of the library warns of.
        self._opening = opening
        self._connection = opening.__enter__()

    def send(self, text: str) -> None:
        with _sending():
            self._connection.send(text)

    def receive(self, timeout_s: float) -> str:
        with _receiving(timeout_s):
            return str(self._connection.recv(timeout=timeout_s))

    def close(self) -> None:
        with _parting():
            self._opening.__exit__(None, None, None)


class _AsyncSocket:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        with _sending():
            await self._connection.send(text)

    async def receive(self, timeout_s: float) -> str:
        with _receiving(timeout_s):
            async with asyncio.timeout(timeout_s):
                return str(await self._connection.recv())

    async def close(self) -> None:
        with _parting():
            await self._connection.close()


def _options(
    endpoint: Endpoint, headers: Mapping[str, str], timeout_s: float, tls: ssl.SSLContext | None
) -> dict[str, Any]:
    return {
        "additional_headers": dict(headers),
        "close_timeout": _CLOSE_S,
        "compression": None,
        "max_size": _MAX_MESSAGE_BYTES,
        "open_timeout": timeout_s,
        "ping_interval": None,
        "proxy": None if endpoint.local else True,
        "ssl": tls_context(endpoint, tls) if endpoint.secure else None,
    }


def dial(
    endpoint: Endpoint, headers: Mapping[str, str], timeout_s: float, *, tls: ssl.SSLContext | None = None
) -> _Socket:
    """Open a WebSocket; raises `ConnectError` where that takes longer than `timeout_s`, however far it has come."""
    with _opening(endpoint):
        options = _options(endpoint, headers, timeout_s, tls)
        return _Socket(websockets.sync.client.connect(endpoint.socket, create_connection=_Connection, **options))


async def dial_async(
    endpoint: Endpoint, headers: Mapping[str, str], timeout_s: float, *, tls: ssl.SSLContext | None = None
) -> _AsyncSocket:
    """Open a WebSocket on the running event loop, within the same bound."""
    with _opening(endpoint):
        opening = websockets.asyncio.client.connect(endpoint.socket, **_options(endpoint, headers, timeout_s, tls))
        return _AsyncSocket(await opening.__aenter__())


@contextmanager
def _opening(endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except InvalidStatus as error:
        status = error.response.status_code
        raise WebSocketUnavailableError(f"{endpoint.socket} answered with HTTP {status}", status) from error
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
def _receiving(timeout_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise DeadlineError(f"no answer within {timeout_s:g} s") from error
    except (ConnectionClosed, OSError) as error:
        raise ConnectionLostError(f"the WebSocket closed before the answer came ({error})") from error


@contextmanager
def _parting() -> Iterator[None]:
    try:
        yield
    except (WebSocketException, OSError, EOFError):
        return  # it is closed, which is what was wanted
