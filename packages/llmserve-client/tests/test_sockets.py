"""Real WebSockets on this machine: what the library's errors mean, and that sync and async say the same."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

from llmserve_client import (
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    Endpoint,
    LLMServeEnv,
    Retries,
    WebSocketUnavailableError,
)
from llmserve_client._sockets import dial, dial_async


@contextmanager
def serving(answer: Any, **options: Any) -> Iterator[Endpoint]:
    """A WebSocket server in a thread."""
    with serve(answer, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Endpoint.parse(f"http://127.0.0.1:{server.socket.getsockname()[1]}/below")
        server.shutdown()
        thread.join()


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Sync:
    """Both dialers behind one face."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._socket: Any = None

    def dial(self, endpoint: Endpoint, headers: dict[str, str]) -> None:
        self._socket = dial(endpoint, headers, 5.0)

    def send(self, text: str) -> None:
        self._socket.send(text)

    def receive(self, timeout_s: float) -> str:
        return str(self._socket.receive(timeout_s))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


class _Async:
    """The same, awaited."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._socket: Any = None
        self._runner = runner

    def dial(self, endpoint: Endpoint, headers: dict[str, str]) -> None:
        self._socket = self._runner.run(dial_async(endpoint, headers, 5.0))

    def send(self, text: str) -> None:
        self._runner.run(self._socket.send(text))

    def receive(self, timeout_s: float) -> str:
        return str(self._runner.run(self._socket.receive(timeout_s)))

    def close(self) -> None:
        if self._socket is not None:
            self._runner.run(self._socket.close())


@pytest.fixture(params=[_Sync, _Async])
def face(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Any]:
    """A socket, synchronous or not."""
    made = request.param(runner)
    yield made
    made.close()
    made.close()


def echo(connection: ServerConnection) -> None:
    """Say who asked for what, then repeat."""
    request = connection.request
    assert request is not None
    connection.send(json.dumps([request.path, request.headers.get("Authorization")]))
    for text in connection:
        connection.send(text)


def test_texts_go_and_come_with_the_headers_and_the_path(face: Any) -> None:
    with serving(echo) as endpoint:
        face.dial(endpoint, {"Authorization": "Bearer t"})
        assert json.loads(face.receive(5.0)) == ["/below/ws", "Bearer t"]
        face.send("héllo")
        assert face.receive(5.0) == "héllo"
        face.close()


def test_nobody_listening_is_no_connection(face: Any) -> None:
    with pytest.raises(ConnectError):
        face.dial(Endpoint.parse(f"http://127.0.0.1:{free_port()}"), {})


def test_a_handshake_answered_with_http_says_its_status(face: Any) -> None:
    with serving(echo, process_request=lambda connection, _request: connection.respond(404, "no")) as endpoint:
        with pytest.raises(WebSocketUnavailableError) as refused:
            face.dial(endpoint, {})
        assert refused.value.status == 404


def test_silence_is_a_deadline(face: Any) -> None:
    with serving(echo) as endpoint:
        face.dial(endpoint, {})
        face.receive(5.0)
        with pytest.raises(DeadlineError):
            face.receive(0.05)
        face.close()


def test_a_server_that_hangs_up_is_a_lost_connection_and_what_follows_is_unsent(face: Any) -> None:
    with serving(lambda connection: connection.send("bye")) as endpoint:
        face.dial(endpoint, {})
        assert face.receive(5.0) == "bye"
        with pytest.raises(ConnectionLostError) as lost:
            face.receive(5.0)
        assert not lost.value.unsent
        with pytest.raises(ConnectionLostError) as unsent:
            face.send("anyone?")
        assert unsent.value.unsent


def test_a_server_without_room_is_heard_before_it_hangs_up() -> None:
    full = {"type": "error", "data": {"message": "full", "code": "CAPACITY_REACHED"}}

    def refuse(connection: ServerConnection) -> None:
        connection.send(json.dumps(full))

    once = Retries(wait_for_place=False)
    with serving(refuse) as endpoint, LLMServeEnv(endpoint.http, transport="websocket", retries=once) as env:
        for _ in range(3):
            with pytest.raises(Exception, match="full") as refused:
                env.reset()
            assert getattr(refused.value, "code", None) == "at_capacity"


def test_a_client_on_http_reports_a_port_where_nobody_listens() -> None:
    env = LLMServeEnv(f"http://127.0.0.1:{free_port()}", transport="http", retries=Retries(attempts=0))
    with env, pytest.raises(ConnectError):
        env.tasks()
