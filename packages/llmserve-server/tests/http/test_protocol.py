"""uvicorn with our protocol: headers are bounded in size and time, however uvicorn was started."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmserve_server.protocol import GuardedProtocol, ServerMiddleware, server_options
from llmserve_server.settings import Settings

SETTINGS = Settings(max_header_bytes=4096, header_timeout_s=0.4, send_timeout_s=1)
_PATIENCE_S = 30.0


async def _echo(request: Request) -> Response:
    body = await request.body()
    return PlainTextResponse(f"{request.headers.get('x-mark', '')}:{len(body)}")


async def _long(_: Request) -> Response:
    return PlainTextResponse("x" * 50_000_000)


def application() -> Starlette:
    """An application that says the header X-Mark and the length of the body, or far too much."""
    return Starlette(routes=[Route("/", _echo, methods=["GET", "POST"]), Route("/long", _long)])


class Serving:
    """A uvicorn in a thread of this process."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.config = config
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    def start(self) -> None:
        """Start, and wait until it listens."""
        self._thread.start()
        until = time.monotonic() + _PATIENCE_S
        while not self._server.started and time.monotonic() < until:
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(_PATIENCE_S)
        self._listener.close()

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE_S)


def _explicit() -> uvicorn.Config:
    return uvicorn.Config(application(), log_config=None, lifespan="on", **server_options(SETTINGS))


def _plain() -> uvicorn.Config:
    return uvicorn.Config(ServerMiddleware(application(), SETTINGS), log_config=None, lifespan="on")


@pytest.fixture(scope="module", params=[_explicit, _plain], ids=["our command", "plain uvicorn"])
def serving(request: pytest.FixtureRequest) -> Iterator[Serving]:
    """A server, started in each of the two ways."""
    make: Callable[[], uvicorn.Config] = request.param
    found = Serving(make())
    found.start()
    yield found
    found.stop()


def answer_of(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found


def ask(serving: Serving, *parts: bytes) -> bytes:
    """Send some bytes and return what comes back until the connection closes."""
    with serving.connect() as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:
            pass
        return answer_of(connection)


LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def test_both_ways_of_starting_have_the_bounds(serving: Serving) -> None:
    assert issubclass(serving.config.http_protocol_class, GuardedProtocol)
    assert serving.config.ws_max_size == 2 * SETTINGS.max_message_bytes
    assert serving.config.ws_per_message_deflate is False


@pytest.mark.parametrize(
    "beginning",
    [b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX-"],
    ids=["value", "path", "name"],
)
def test_headers_without_an_end_are_refused_at_their_bound(serving: Serving, beginning: bytes) -> None:
    """The client can read why; nothing of the rest is kept."""
    found = ask(serving, beginning, *[b"x" * 65_536] * 64)
    assert found.startswith(b"HTTP/1.1 431 ")
    assert b'"headers_too_large"' in found


def test_headers_that_arrive_in_one_piece_are_measured_too(serving: Serving) -> None:
    long = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 90) for number in range(60))
    assert ask(serving, b"GET / HTTP/1.1\r\nHost: x\r\n" + long + b"\r\n").startswith(b"HTTP/1.1 431 ")
    short = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n" + b"z" * 50_000
    assert ask(serving, short).endswith(b":50000")


def test_a_trailer_without_an_end_is_refused(serving: Serving) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    assert ask(serving, head, b"0\r\nX-Long: ", *[b"x" * 65_536] * 16).startswith(b"HTTP/1.1 431 ")
    assert ask(serving, head, b"1;", *[b"x" * 65_536] * 16).startswith(b"HTTP/1.1 431 ")


def test_a_trailer_is_no_header(serving: Serving) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    assert ask(serving, head + b"0\r\nX-Mark: late\r\n\r\n").endswith(b":1")


def test_a_connection_that_asks_nothing_is_closed(serving: Serving) -> None:
    assert ask(serving) == b""


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"])
def test_half_a_header_is_answered_and_the_connection_closed(serving: Serving, part: bytes) -> None:
    found = ask(serving, part)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b'"too_slow"' in found


def test_the_second_request_of_a_connection_has_the_same_time(serving: Serving) -> None:
    """An idle connection between two requests is kept."""
    with serving.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        time.sleep(2 * SETTINGS.header_timeout_s)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET / HTTP/1.1\r\nHo")
        assert answer_of(connection).startswith(b"HTTP/1.1 408 ")


def test_dripping_a_header_does_not_extend_its_time(serving: Serving) -> None:
    start = time.monotonic()
    with serving.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        try:
            while time.monotonic() - start < _PATIENCE_S:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.05)
        except OSError:
            pass
    assert time.monotonic() - start < _PATIENCE_S


def test_a_client_that_does_not_read_is_cut_off(serving: Serving) -> None:
    with serving.connect() as connection:
        connection.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(2 * SETTINGS.send_timeout_s)
        assert len(answer_of(connection)) < 50_000_000


def test_a_few_requests_may_wait_on_one_connection_and_no_more(serving: Serving) -> None:
    one = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert ask(serving, one * 5 + LAST).count(b"HTTP/1.1 200 ") == 6
    assert ask(serving, one * 1000).count(b"HTTP/1.1 200 ") < 100


def test_the_requests_behind_a_refused_one_are_not_parsed(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing thousands of them would make everybody else wait."""
    parsed: list[bytes] = []
    protocol = serving.config.http_protocol_class
    assert isinstance(protocol, type)
    monkeypatch.setattr(protocol, "on_url", lambda self, url: parsed.append(url) or HttpToolsProtocol.on_url(self, url))
    ask(serving, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50_000)
    assert 32 < len(parsed) < 1000
