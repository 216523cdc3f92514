"""Bodies are bounded in size, values, time and memory on every path, while they are read and before any route runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from llmserve_server.middleware.limits import LimitsMiddleware
from llmserve_server.settings import Settings

PATHS = ("/step", "/mcp", "/nowhere", "/web/gradio_api/queue/join", "/web/gradio_api/upload", "/grader", "/docs")


class App:
    """An application that says how long its body was."""

    def __init__(self) -> None:
        self.bodies: list[int] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(len(message["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(
    layer: LimitsMiddleware, pieces: AsyncIterator[bytes], path: str = "/step", *, length: int | None = None
) -> tuple[int, str, dict[bytes, bytes]]:
    """Send a request in pieces; return status, error code and headers of the answer; 0 where there is none."""
    sent: list[Message] = []

    async def receive() -> Message:
        try:
            return {"type": "http.request", "body": await anext(pieces), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}
        except ConnectionResetError:
            return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    await layer({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
    if not sent:
        return 0, "", {}
    status, body = sent[0]["status"], sent[1]["body"]
    return status, json.loads(body)["error"]["code"] if body else "", dict(sent[0]["headers"])


async def steady(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def limits(app: App | None = None, **settings: Any) -> LimitsMiddleware:
    """The layer around an application."""
    return LimitsMiddleware(app or App(), Settings(**settings))


@pytest.mark.parametrize("header", [(b"content-length", b"9"), (b"transfer-encoding", b"chunked")])
def test_a_body_that_never_begins_is_refused_after_its_time(header: tuple[bytes, bytes]) -> None:
    sent: list[Message] = []

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/step", "headers": [header]}
    asyncio.run(limits(body_timeout_s=0.1)(scope, never, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]) == (408, "too_slow")


@pytest.mark.parametrize("path", PATHS)
def test_a_body_without_a_length_is_refused_where_it_passes_the_bound(path: str) -> None:
    app = App()
    layer = limits(app, max_body_bytes=1024, max_log_bytes=1024)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 100
            yield b" " * 100

    status, code, headers = asyncio.run(ask(layer, endless(), path))
    assert (status, code, headers[b"connection"]) == (413, "too_large", b"close")
    assert read == 1100
    assert app.bodies == []


@pytest.mark.parametrize("path", PATHS)
def test_a_body_whose_length_is_over_the_bound_is_not_read(path: str) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError
        yield b""

    for length in (2000, 10**30):
        status, code, _ = asyncio.run(
            ask(limits(max_body_bytes=1024, max_log_bytes=1024), unread(), path, length=length)
        )
        assert (status, code) == (413, "too_large")


def test_the_page_gets_no_more_than_its_components_send() -> None:
    status, _, _ = asyncio.run(ask(limits(), steady(b" " * 70_000), "/web/gradio_api/queue/join"))
    assert status == 413


def test_a_log_is_refused_by_its_values_before_it_is_parsed() -> None:
    """66 MB of `{}` would be 1.5 GB of objects; its first part is enough to know."""
    app = App()
    read = 0

    async def empty_objects() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 65_536
            yield b",{}" * 21_845

    status, code, _ = asyncio.run(ask(limits(app), empty_objects(), "/grader"))
    assert (status, code) == (413, "too_large")
    assert read < 2**20
    assert app.bodies == []


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(3600)
        yield b"}"

    status, code, headers = asyncio.run(ask(limits(body_timeout_s=0.1), stalled()))
    assert (status, code, headers[b"connection"]) == (408, "too_slow", b"close")


def test_dripping_does_not_extend_the_time() -> None:
    async def dripping() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b" "

    status, code, _ = asyncio.run(ask(limits(body_timeout_s=0.2), dripping()))
    assert (status, code) == (408, "too_slow")


def test_all_bodies_together_are_bounded_and_small_ones_still_pass() -> None:
    """Beyond the bound: 429 with the time to come back after; what is released can be used again."""

    async def play() -> None:
        app = App()
        layer = limits(app, max_buffered_bytes=2**20, max_log_bytes=2**20)
        go = asyncio.Event()

        async def held(size: int) -> AsyncIterator[bytes]:
            yield b" " * size
            await go.wait()

        first = asyncio.create_task(ask(layer, held(700_000), "/grader"))
        await asyncio.sleep(0.05)
        status, code, headers = await ask(layer, held(200_000), "/grader")
        assert (status, code) == (429, "overloaded")
        assert int(headers[b"retry-after"]) >= 1
        assert (await ask(layer, steady(b"{", b"}")))[0] == 200
        go.set()
        assert (await first)[0] == 200
        assert (await ask(layer, steady(b" " * 700_000, b" "), "/grader"))[0] == 200

    asyncio.run(play())


def test_a_single_body_may_use_its_whole_bound() -> None:
    layer = limits(max_buffered_bytes=1024, max_log_bytes=100_000)
    assert asyncio.run(ask(layer, steady(b" " * 50_000, b" " * 40_000), "/grader"))[0] == 200


def test_a_client_that_goes_away_half_way_reaches_no_route_and_leaves_no_memory() -> None:
    app = App()
    layer = limits(app, max_buffered_bytes=100_000, max_log_bytes=90_000)

    async def vanishing() -> AsyncIterator[bytes]:
        yield b" " * 60_000
        raise ConnectionResetError

    async def play() -> None:
        for _ in range(10):
            assert await ask(layer, vanishing(), "/grader") == (0, "", {})
        assert (await ask(layer, steady(b" " * 60_000, b" "), "/grader"))[0] == 200

    asyncio.run(play())
    assert app.bodies == [60_001]


def test_a_body_in_pieces_is_the_same_to_the_route(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for byte in json.dumps({"action": {"batch_cap": 64}}).encode():
            yield bytes([byte])

    client.post("/reset")
    assert client.post("/step", content=pieces()).json()["observation"]["step_index"] == 1


def test_a_log_with_too_many_steps_is_refused_before_they_are_validated(serve: Callable[..., TestClient]) -> None:
    client = serve(max_log_steps=10)
    log = {"episode_log": {"steps": [{}] * 11}}
    response = client.post("/grader", json=log)
    assert (response.status_code, response.json()["error"]["field"]) == (413, "steps")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/step", {"action": {f"a{i}": 1 for i in range(20_000)}}),
        ("/step", {f"a{i}": 1 for i in range(20_000)}),
        ("/reset", {f"a{i}": 1 for i in range(20_000)}),
        ("/grader", {"episode_log": {f"a{i}": 1 for i in range(20_000)}}),
        ("/grader", {"episode_log": {"initial_observation": {f"a{i}": 1 for i in range(20_000)}}}),
        ("/grader", {"episode_log": {"steps": [{"action": {f"a{i}": 1 for i in range(20_000)}}]}}),
    ],
)
def test_many_unknown_fields_are_one_short_error(client: TestClient, path: str, content: dict[str, Any]) -> None:
    """Each of them as an error of its own would hold the interpreter for a second."""
    response = client.post(path, json=content)
    assert response.status_code == 422
    assert response.json()["error"]["field"]
    assert len(response.content) < 2000


def test_nothing_is_logged_as_a_failure_when_a_client_goes_away(serve: Callable[..., TestClient]) -> None:
    app = serve().app
    sent: list[Message] = []

    async def receive() -> Message:
        received.append(1)
        if len(received) == 1:
            return {"type": "http.request", "body": b'{"a":', "more_body": True}
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    with structlog.testing.capture_logs() as lines:
        for path in ("/reset", "/step", "/grader", "/fork", "/mcp", "/llmserve_env/tasks"):
            received: list[int] = []
            scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
            scope |= {"headers": [], "client": None, "scheme": "http", "http_version": "1.1", "server": ("x", 80)}
            asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert sent == []
    assert {line["log_level"] for line in lines} <= {"debug", "info"}
