"""A peer that takes the connection and then says nothing, or half of it: opening and closing end all the same."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest

from llmserve_client import ConnectError, Endpoint
from llmserve_client._sockets import dial, dial_async

TIMEOUT_S: Final = 0.5
SOON_S: Final = 10.0
"""Of patience, not of expectation: without a bound the call would take for ever."""
HALF_A_RECORD: Final = b"\x17\x03\x03\x00\x40half"
MAGIC: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Peer = Callable[[socket.socket, ssl.SSLContext], socket.socket]
"""What happens on a connection before the silence; returns what is kept open."""


def mute(connection: socket.socket, _context: ssl.SSLContext) -> socket.socket:
    """Not even TLS."""
    return connection


def after_tls(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    """Session tickets are the last that is heard."""
    return context.wrap_socket(connection, server_side=True)


def in_the_answer(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    """Half of the upgrade."""
    secure = after_tls(connection, context)
    secure.recv(65536)
    secure.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgr")
    return secure


def in_a_record(connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
    """The whole upgrade, and half a record of TLS."""
    secure = after_tls(connection, context)
    (key,) = re.findall(rb"(?i)sec-websocket-key: (\S+)", secure.recv(65536))
    proof = base64.b64encode(hashlib.sha1(key + MAGIC.encode(), usedforsecurity=False).digest()).decode()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    secure.sendall(f"{head}Sec-WebSocket-Accept: {proof}\r\n\r\n".encode())
    socket.socket.sendall(secure, HALF_A_RECORD)
    return secure


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side of TLS, and that of a client who trusts it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("a certificate is made with the openssl command, which is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-out", made, "-keyout", key], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made, key)
    return server, ssl.create_default_context(cafile=made)


@contextmanager
def listening(peer: Peer, context: ssl.SSLContext) -> Iterator[Endpoint]:
    """Where `peer` takes one connection, which it keeps until the end."""
    kept: list[socket.socket] = []

    def take() -> None:
        with suppress(OSError):  # nobody came, or whoever came has left
            kept.append(listener.accept()[0])
            kept.append(peer(kept[0], context))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON_S)
        thread = threading.Thread(target=take)
        thread.start()
        yield Endpoint.parse(f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
        for connection in kept:
            connection.close()


@contextmanager
def soon() -> Iterator[None]:
    """What is done within ends soon and leaves no thread behind."""
    threads = set(threading.enumerate())
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SOON_S
    left = {thread for thread in set(threading.enumerate()) - threads if thread.name.endswith("(recv_events)")}
    for thread in left:
        thread.join(SOON_S)
    assert not any(thread.is_alive() for thread in left)


@pytest.mark.parametrize("peer", [mute, after_tls, in_the_answer])
def test_a_peer_that_falls_silent_is_no_connection(peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with listening(peer, tls[0]) as endpoint, soon(), pytest.raises(ConnectError):
        dial(endpoint, {}, TIMEOUT_S, tls=tls[1])


@pytest.mark.parametrize("peer", [mute, after_tls, in_the_answer])
def test_nor_is_it_one_on_an_event_loop(peer: Peer, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with listening(peer, tls[0]) as endpoint, soon(), pytest.raises(ConnectError):
        asyncio.run(dial_async(endpoint, {}, TIMEOUT_S, tls=tls[1]))


def test_a_peer_that_falls_silent_later_is_left_soon(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    with listening(in_a_record, tls[0]) as endpoint, soon():
        dial(endpoint, {}, SOON_S, tls=tls[1]).close()


def test_nor_does_it_hold_an_event_loop(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def visit(endpoint: Endpoint) -> None:
        await (await dial_async(endpoint, {}, SOON_S, tls=tls[1])).close()

    with listening(in_a_record, tls[0]) as endpoint, soon():
        asyncio.run(visit(endpoint))
