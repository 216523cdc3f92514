"""Ends a synchronous HTTP call at a point in time, however slowly its answer drips.

httpx limits every single read, so an answer that sends a byte now and then never times out. `asyncio.timeout` solves
this for the asynchronous client. Here the streams under httpx's connections pass on the time that is left.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx

__all__ = ["Deadline", "limit_time"]

_PIECE_BYTES: Final = 64 * 1024


class Deadline:
    """The time by which the present call must end."""

    def __init__(self) -> None:
        self._end = float("inf")

    def start(self, timeout_s: float) -> None:
        """Begin a call that may take `timeout_s`."""
        self._end = time.monotonic() + timeout_s

    def left(self, timeout_s: float | None, expired: type[httpcore.TimeoutException]) -> float:
        """Return the time in s for one operation with its own limit; raises `expired` if none is left."""
        seconds = self._end - time.monotonic()
        if seconds <= 0.0:
            raise expired("the whole call took too long")
        return seconds if timeout_s is None else min(seconds, timeout_s)


def limit_time(client: httpx.Client) -> Deadline:
    """Return the deadline that every connection of the client obeys from now on.

    httpcore takes a network backend; httpx hands none on, so it is set on the pools that httpx has made.
    """
    deadline = Deadline()
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001 - see above
        pool = getattr(transport, "_pool", None)
        if isinstance(pool, httpcore.ConnectionPool):
            pool._network_backend = _Backend(pool._network_backend, deadline)  # noqa: SLF001 - see above
    return deadline


class _Backend(httpcore.NetworkBackend):
    """A network backend whose connections know the deadline."""

    def __init__(self, backend: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._backend, self._deadline = backend, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._backend.connect_tcp(host, port, seconds, local_address, socket_options), self._deadline)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._backend.connect_unix_socket(path, seconds, socket_options), self._deadline)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _PIECE_BYTES):
            seconds = self._deadline.left(timeout, httpcore.WriteTimeout)
            self._stream.write(buffer[at : at + _PIECE_BYTES], seconds)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        seconds = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
