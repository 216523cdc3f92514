"""A server whose answer drips or has no end: the call ends in time, reads a bounded number of bytes, and says so."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import hashlib
import logging
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import httpx
import pytest

from llmserve_client import (
    AnswerError,
    AsyncLLMServeEnv,
    DeadlineError,
    InvalidFieldError,
    LLMServeEnv,
    Retries,
    Timeouts,
    TransportError,
)

PATIENCE_S: Final = 1.0
SOON_S: Final = 15.0
"""Of patience, not of expectation: without a bound the call would take for ever."""
MAX_BYTES: Final = 2**20
MAGIC: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

Peer = Callable[[socket.socket, bytes], None]


def slowly(connection: socket.socket, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        connection.sendall(piece)
        time.sleep(0.05)


def endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def dripping_headers(connection: socket.socket, _request: bytes) -> None:
    slowly(connection, endless(b"H"))


def dripping_interim_answers(connection: socket.socket, _request: bytes) -> None:
    slowly(connection, endless(b"HTTP/1.1 100 Continue\r\n\r\n"))


def dripping_body(connection: socket.socket, _request: bytes) -> None:
    connection.sendall(OK + b"Content-Length: 100000\r\n\r\n")
    slowly(connection, endless(b" "))


def flood(connection: socket.socket) -> None:
    """Send what the client takes, until it has taken far too much."""
    for _ in range(40 * MAX_BYTES // 65536):
        connection.sendall(b" " * 65536)
    taken.append(connection)


taken: list[socket.socket] = []
"""Connections whose clients read on for ever."""


def endless_body(connection: socket.socket, _request: bytes) -> None:
    connection.sendall(OK + b"Connection: close\r\n\r\n")
    flood(connection)


def bomb(connection: socket.socket, _request: bytes) -> None:
    piece = gzip.compress(b" " * (20 * MAX_BYTES), 1)
    body = piece * 10
    connection.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def unasked_coding(connection: socket.socket, _request: bytes) -> None:
    connection.sendall(OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}")


def upgrade(connection: socket.socket, request: bytes) -> None:
    (key,) = re.findall(rb"(?i)sec-websocket-key: (\S+)", request)
    proof = base64.b64encode(hashlib.sha1(key + MAGIC.encode(), usedforsecurity=False).digest()).decode()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    connection.sendall(f"{head}Sec-WebSocket-Accept: {proof}\r\n\r\n".encode())


def dripping_frame(connection: socket.socket, request: bytes) -> None:
    upgrade(connection, request)
    connection.sendall(b"\x81\x7e\x40\x00")  # a text of 16,384 bytes
    slowly(connection, endless(b" "))


def dripping_fragments(connection: socket.socket, request: bytes) -> None:
    upgrade(connection, request)
    connection.sendall(b"\x01\x01{")  # the first fragment of a text that has no last one
    slowly(connection, endless(b"\x00\x01 "))


def huge_frame(connection: socket.socket, request: bytes) -> None:
    upgrade(connection, request)
    connection.sendall(b"\x81\x7f" + (600 * 2**20).to_bytes(8, "big"))
    flood(connection)


def reset(connection: socket.socket) -> None:
    """Break the connection as a killed server's machine does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def gone_at_once(connection: socket.socket, _request: bytes) -> None:
    reset(connection)


def gone_in_the_body(connection: socket.socket, _request: bytes) -> None:
    connection.sendall(OK + b"Content-Length: 100000\r\n\r\n{")
    reset(connection)


def gone_in_the_handshake(connection: socket.socket, _request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgr")
    reset(connection)


def gone_after_the_handshake(connection: socket.socket, request: bytes) -> None:
    upgrade(connection, request)
    reset(connection)


def gone_in_a_frame(connection: socket.socket, request: bytes) -> None:
    upgrade(connection, request)
    connection.recv(65536)
    connection.sendall(b"\x81\x7e\x40\x00half")
    reset(connection)


@contextmanager
def listening(peer: Peer) -> Iterator[str]:
    """The address of a server that treats every connection as `peer` does."""
    kept: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):  # the client has left
            request = connection.recv(65536)
            if request:
                peer(connection, request)

    def accept() -> None:
        with suppress(OSError):  # the test is over
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                thread = threading.Thread(target=serve, args=(connection,))
                threads.append(thread)
                thread.start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    for thread in (accepting, *threads):
        thread.join(SOON_S)


def ask(colour: str, url: str, transport: Any, patience_s: float) -> None:
    """Ask for the state of an episode."""
    options: Any = {
        "transport": transport,
        "timeouts": Timeouts(connect_s=5.0, answer_s=patience_s),
        "retries": Retries(attempts=0),
        "max_answer_bytes": MAX_BYTES,
    }
    if colour == "sync":
        with LLMServeEnv(url, **options) as env:
            env.state()
        return

    async def run() -> None:
        async with AsyncLLMServeEnv(url, **options) as env:
            await env.state()

    asyncio.run(run())


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> str:
    """A synchronous client or the other."""
    return str(request.param)


@pytest.mark.parametrize(
    ("transport", "peer"),
    [
        ("http", dripping_headers),
        ("http", dripping_interim_answers),
        ("http", dripping_body),
        ("websocket", dripping_frame),
        ("websocket", dripping_fragments),
    ],
)
def test_an_answer_that_drips_ends_at_the_deadline_of_the_whole_call(colour: str, transport: str, peer: Peer) -> None:
    with listening(peer) as url:
        start = time.monotonic()
        with pytest.raises(DeadlineError):
            ask(colour, url, transport, PATIENCE_S)
        assert time.monotonic() - start < SOON_S


@pytest.mark.parametrize(("transport", "peer"), [("http", endless_body), ("http", bomb), ("websocket", huge_frame)])
def test_an_answer_over_the_bound_is_not_read_on_and_the_error_names_the_bound(
    colour: str, transport: str, peer: Peer
) -> None:
    with listening(peer) as url:
        taken.clear()
        with pytest.raises(AnswerError, match=f"max_answer_bytes={MAX_BYTES}"):
            ask(colour, url, transport, SOON_S)
    assert not taken


@pytest.mark.parametrize(
    ("transport", "peer"),
    [
        ("http", gone_at_once),
        ("http", gone_in_the_body),
        ("websocket", gone_at_once),
        ("websocket", gone_in_the_handshake),
        ("websocket", gone_after_the_handshake),
        ("websocket", gone_in_a_frame),
    ],
)
def test_a_server_that_vanishes_is_one_error_and_leaves_nothing_in_the_log_or_on_the_screen(
    colour: str,
    transport: str,
    peer: Peer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with listening(peer) as url, pytest.raises(TransportError):
        ask(colour, url, transport, SOON_S)
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info] == []
    assert capfd.readouterr().err == ""


def test_an_answer_in_a_coding_that_was_not_asked_for_is_refused(colour: str) -> None:
    with listening(unasked_coding) as url, pytest.raises(AnswerError, match="'br'"):
        ask(colour, url, "http", SOON_S)


def answered(body: bytes, **headers: str) -> httpx.MockTransport:
    class Stream(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from (body[at : at + 7] for at in range(0, len(body), 7))

    return httpx.MockTransport(lambda _request: httpx.Response(200, headers=headers, stream=Stream()))


def test_an_answer_compressed_with_gzip_is_read() -> None:
    transport = answered(gzip.compress(b'{"tasks": [{"id": "x"}]}'), **{"Content-Encoding": "gzip"})
    with LLMServeEnv("http://h", transport="http", http_transport=transport) as env:
        assert env.tasks() == [{"id": "x"}]


@pytest.mark.parametrize(
    "body", [b"no gzip", gzip.compress(b'{"tasks": []}' * 99, mtime=0)[:-20]], ids=["no_gzip", "cut_short"]
)
def test_an_answer_with_broken_gzip_is_named_as_such(body: bytes) -> None:
    transport = answered(body, **{"Content-Encoding": "gzip"})
    with (
        LLMServeEnv("http://h", transport="http", http_transport=transport) as env,
        pytest.raises(AnswerError, match="gzip"),
    ):
        env.tasks()


@pytest.mark.parametrize("bound", [0, 4095, 2**31 + 1, 1e6, True])
def test_a_bound_that_is_none_is_refused_by_name(bound: Any) -> None:
    for kind in (LLMServeEnv, AsyncLLMServeEnv):
        with pytest.raises(InvalidFieldError, match=r"max_answer_bytes: must be an integer in 4096\.\."):
            kind("http://h", max_answer_bytes=bound)
