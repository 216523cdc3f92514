"""An endpoint that means harm fills no memory, keeps nobody waiting, sends nobody elsewhere and shows no password."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self

import pytest

from llmserve_agents.errors import EndpointError
from llmserve_agents.llm.endpoint import ChatEndpoint, Patience, RequestFailedError
from llmserve_agents.llm.transport import bare_url, redact_urls

KEY = "sk-test-4f9a-never-to-be-seen"
MIB = 2**20
JSON = b"content-type: application/json\r\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class HostileServer:
    """Answers every request with what a test tells it to, and counts the bytes that went out."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heads: list[bytes] = []
        self.sent = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        write = writer.write

        def counted(data: bytes) -> None:
            self.sent += len(data)
            write(data)

        writer.write = counted  # type: ignore[method-assign]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            await self._answer(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@pytest.fixture
def ask() -> Iterator[Callable[..., Any]]:
    """Ask a hostile endpoint once; returns what it raised or answered, and the server."""
    servers: list[HostileServer] = []

    def once(answer: Answer, *, user: str = "", timeout_s: float = 30.0) -> tuple[Any, HostileServer]:
        server = HostileServer(answer).__enter__()
        servers.append(server)
        chat = ChatEndpoint(
            "m",
            api_key=KEY,
            base_url=f"http://{user}127.0.0.1:{server.port}/v1",
            patience=Patience(timeout_s=timeout_s, retries=0),
        )
        try:
            return chat.ask("system", "user", {}), server
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error, server
        finally:
            chat.close()

    yield once
    for server in servers:
        server.__exit__()


def _endless(status: str, headers: bytes = JSON) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + status.encode() + b"\r\n" + headers + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(400):
            writer.write(b"100000\r\n" + b" " * MIB + b"\r\n")
            await writer.drain()

    return answer


def _whole(status: str, body: bytes, headers: bytes = JSON) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 " + status.encode() + b"\r\nconnection: close\r\n" + headers)
        writer.write(f"content-length: {len(body)}\r\n\r\n".encode() + body)

    return answer


def _dripping(head: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            await asyncio.sleep(0.1)
            writer.write(b"x")
            await writer.drain()

    return answer


@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "429 Busy", "500 Oops", "307 Elsewhere"])
def test_a_body_of_hundreds_of_megabytes_is_not_read(ask: Any, status: str) -> None:
    error, server = ask(_endless(status))
    assert isinstance(error, RequestFailedError | EndpointError)
    assert server.sent < 40 * MIB  # what the kernel's buffers took
    assert len(str(error)) < 1000


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip"])
@pytest.mark.parametrize("status", ["200 OK", "503 Busy"])
def test_a_compressed_body_is_refused_unopened(ask: Any, status: str, encoding: bytes) -> None:
    bomb = gzip.compress(b" " * (64 * MIB))
    error, server = ask(_whole(status, bomb, JSON + b"content-encoding: " + encoding + b"\r\n"))
    assert isinstance(error, RequestFailedError)
    assert error.kind == ("body" if status.startswith("200") else "http_503")
    assert b"accept-encoding: identity" in server.heads[0].lower()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nx-drip: ",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n",
        b"HTTP/1.1 500 Oops\r\ncontent-length: 1000000\r\n\r\n",
    ],
    ids=["status", "headers", "body", "error"],
)
def test_one_deadline_holds_for_the_whole_exchange(ask: Any, head: bytes) -> None:
    start = time.monotonic()
    error, _ = ask(_dripping(head), timeout_s=1.0)
    assert isinstance(error, RequestFailedError)
    assert error.kind in {"timeout", "connection"}
    assert time.monotonic() - start < 15.0


def test_a_redirect_is_not_followed_and_says_so(ask: Any) -> None:
    with HostileServer(_whole("200 OK", b"{}")) as elsewhere:
        location = f"location: http://127.0.0.1:{elsewhere.port}/v1/chat/completions\r\n".encode()
        for status in ("301 Moved", "302 Found", "307 Elsewhere", "308 Elsewhere"):
            error, _ = ask(_whole(status, b"", location))
            assert isinstance(error, EndpointError)
            assert "redirect" in str(error)
        assert elsewhere.heads == []


def test_a_url_with_a_password_works_and_is_written_nowhere(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    completion = json.dumps({"choices": [{"message": {"content": "{}"}}]}).encode()
    answer, server = ask(_whole("200 OK", completion), user="reader:s3cr%40t@")
    assert answer.text == "{}"
    assert b"authorization: basic cmvhzgvyonmzy3jadA==".lower() in server.heads[0].lower()
    error, _ = ask(_whole("500 Oops", b"{}"), user="reader:s3cr%40t@")
    assert caplog.records
    for text in (caplog.text, str(error), repr(error)):
        assert "s3cr" not in text
        assert KEY not in text


def test_cookies_are_not_kept() -> None:
    answer = _whole("500 Oops", b"", b"set-cookie: a=" + b"x" * 4000 + b"\r\n")
    with HostileServer(answer) as server:
        chat = ChatEndpoint(
            "m", api_key=KEY, base_url=f"http://127.0.0.1:{server.port}/v1", patience=Patience(retries=0)
        )
        for _ in range(2):
            with pytest.raises(RequestFailedError):
                chat.ask("system", "user", {})
        chat.close()
        assert b"cookie" not in server.heads[1].lower()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"choices":' * 50_000,
        b'{"choices": {"0": 1}}',
        b'{"choices": [[]]}',
        b'{"choices": [{"message": 5}], "usage": []}',
        b'{"choices": [{"message": {"content": "{}"}}], "usage": {"prompt_tokens": -5, "completion_tokens": 1e999}}',
        b'{"choices": [{"message": {"content": "{}"}}], "usage": {"prompt_tokens": true, "completion_tokens": true}}',
        b'{"usage": {"prompt_tokens": 99999999999999999999, "completion_tokens": 1}}',
        b"\xff\xfe\x00",
        b"",
    ],
)
def test_a_body_that_is_no_completion_has_no_text_and_no_tokens(ask: Any, body: bytes) -> None:
    answer, _ = ask(_whole("200 OK", body))
    assert answer.tokens is None
    assert answer.text in {None, "{}"}


def test_an_endpoint_is_asked_from_inside_a_running_event_loop(endpoint: Any) -> None:
    async def notebook() -> Any:
        chat = ChatEndpoint("m", api_key=KEY, base_url=endpoint.url)
        try:
            return chat.ask("system", "user", {})
        finally:
            chat.close()
            chat.close()

    assert asyncio.run(notebook()).text is not None


def test_the_private_parts_of_urls_are_redacted() -> None:
    assert bare_url("https://u:p@h:1/v1?a=b") == "https://h:1/v1?a=b"
    assert redact_urls('POST https://u:p%40q@h/v1?api-key=x "HTTP/1.1 200"') == (
        'POST https://[redacted]@h/v1?[redacted] "HTTP/1.1 200"'
    )
    assert redact_urls("is it? see http://h/v1, a@b") == "is it? see http://h/v1, a@b"
