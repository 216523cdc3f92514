"""A clock that leaps, and an OpenAI-compatible endpoint that does exactly what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import selectors
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import httpx2
import pytest
from pydantic import SecretStr

from llmserve_server.backends.real.answers import Answer
from llmserve_server.backends.real.config import RealConfig
from llmserve_server.backends.real.endpoint import Endpoint
from llmserve_server.backends.real.sampling import SampledRequest

Result = TypeVar("Result")
KEY = "sk-test-0123456789-never-shown"


class LeapingSelector(selectors.DefaultSelector):
    """Does not wait for a timer: it moves the clock to it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; if nothing is, let the time pass."""
        if timeout is None:
            return super().select(None)
        events = super().select(0)
        if not events:
            self.now += timeout
        return events


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop in which time passes only where everything waits for it."""

    def __init__(self) -> None:
        self._clock = LeapingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the leaping clock's time, seconds."""
        return self._clock.now


@pytest.fixture
def leap() -> Iterator[Callable[[Coroutine[Any, Any, Result]], Result]]:
    """Run a coroutine to its end on a clock that leaps."""
    loop = LeapingLoop()
    yield loop.run_until_complete
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture
def leaping_loop() -> type[LeapingLoop]:
    """The loop itself, for a worker."""
    return LeapingLoop


# --- what endpoints send ------------------------------------------------------------------------------------------


def event(payload: object) -> bytes:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return f"data: {text}\n\n".encode()


def chunk(**delta: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }


def last_chunk(reason: str = "length") -> dict[str, Any]:
    made = chunk()
    made["choices"][0]["finish_reason"] = reason
    return made


def usage_chunk(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
    return {**chunk(), "choices": [], "usage": counts | details}


@dataclass
class Reply:
    """What an endpoint does with one request: waits (a time, or for the test) and bytes; then how it closes."""

    parts: list[bytes | float | threading.Event] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})
    hang_up: bool = False
    """Cut the connection after the parts."""


def tokens(
    count: int, *, first_s: float = 0.0, gap_s: float = 0.0, usage: dict[str, Any] | None = None, done: bool = True
) -> Reply:
    """Return a well-behaved stream of `count` pieces of text: the first after `first_s`, then one every `gap_s`."""
    parts: list[bytes | float | threading.Event] = [event(chunk(role="assistant", content=""))]
    for i in range(count):
        parts += [first_s if i == 0 else gap_s, event(chunk(content=f" t{i}"))]
    parts.append(event(last_chunk()))
    if usage is not None:
        parts.append(event(usage))
    if done:
        parts.append(event("[DONE]"))
    return Reply(parts)


def refusal(status: int, text: str = "no", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": text, "type": "t", "code": "c"}}).encode()
    return Reply([body], status, {"content-type": "application/json", **headers})


Script = Reply | Callable[[dict[str, Any], int], Reply]
"""The reply to every request, or what chooses it, given the request's body and its number (from 0)."""


def _reply(script: Script, requests: list[dict[str, Any]]) -> Reply:
    return script if isinstance(script, Reply) else script(requests[-1], len(requests) - 1)


class ScriptedTransport(httpx2.AsyncBaseTransport):
    """The script as a transport underneath the official client: no socket, so that the clock may leap."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer as the script says."""
        body = json.loads(await request.aread())
        self.requests.append(body)
        reply = _reply(self.script, self.requests)
        return httpx2.Response(reply.status, headers=reply.headers, stream=_Stream(reply), request=request)


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._reply.parts:
            if isinstance(part, float):
                await asyncio.sleep(part)
            elif isinstance(part, bytes):
                yield part
        if self._reply.hang_up:
            raise httpx2.RemoteProtocolError("peer closed connection")


# --- a real socket ------------------------------------------------------------------------------------------------


class LoopbackEndpoint:
    """The script behind a real socket on the loopback interface, in a thread of its own."""

    def __init__(self) -> None:
        self.script: Script = tokens(2)
        self.requests: list[dict[str, Any]] = []
        self.sent = 0
        """Bytes of bodies that went out."""
        self.heads: list[str] = []
        self.page: str | Reply | None = None
        self.page_heads: list[str] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        """Return its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

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
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET"):
            self.page_heads.append(head)
            reply = self.page if isinstance(self.page, Reply) else refusal(404)
            if isinstance(self.page, str):
                reply = Reply([self.page.encode()], headers={"content-type": "text/plain"})
        else:
            length = next(
                int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-l")
            )
            body = json.loads(await reader.readexactly(length))
            self.heads.append(head)
            self.requests.append(body)
            reply = _reply(self.script, self.requests)
        lines = [f"HTTP/1.1 {reply.status} X", "transfer-encoding: chunked", "connection: close"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        for part in reply.parts:
            if isinstance(part, float):
                await writer.drain()
                await asyncio.sleep(part)
            elif isinstance(part, threading.Event):
                while not part.is_set():  # noqa: ASYNC110 - the event is another thread's
                    await asyncio.sleep(0.01)
            else:
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.sent += len(part)
                await writer.drain()
        await writer.drain()
        if not reply.hang_up:
            writer.write(b"0\r\n\r\n")
            await writer.drain()


@pytest.fixture
def endpoint() -> Iterator[LoopbackEndpoint]:
    """An endpoint on the loopback interface; give it a `script`."""
    with LoopbackEndpoint() as made:
        yield made


@pytest.fixture
def config() -> Callable[..., RealConfig]:
    """A configuration for tests: windows of a twentieth of a second, and whatever else is given."""

    def make(url: str = "http://127.0.0.1:9/v1", **values: Any) -> RealConfig:
        fields = {"time_scale": 0.01, "request_timeout_s": 30.0, "max_prompt_tokens": 16, "max_completion_tokens": 4}
        return RealConfig(
            **{
                "provider": "other",
                "model": "tiny",
                "base_url": SecretStr(url),
                "api_key": SecretStr(KEY),
                **fields,
                **values,
            }
        )

    return make


class _Say:
    """What endpoints say, in one name."""

    KEY = KEY
    event = staticmethod(event)
    chunk = staticmethod(chunk)
    last_chunk = staticmethod(last_chunk)
    usage = staticmethod(usage_chunk)
    tokens = staticmethod(tokens)
    refusal = staticmethod(refusal)
    Reply = Reply
    Transport = ScriptedTransport


@pytest.fixture(scope="session")
def say() -> type[_Say]:
    """The vocabulary of endpoints."""
    return _Say


@pytest.fixture
def ask() -> Callable[[RealConfig], Answer]:
    """Send one request to an endpoint, and return its answer."""
    request = SampledRequest(id=0, due_s=0.0, prompt_tokens=8, completion_tokens=6, priority=1, tenant=0)

    async def once(config: RealConfig) -> Answer:
        endpoint, answer = Endpoint(config), Answer()
        try:
            await endpoint.send(1, request, answer)
        finally:
            await endpoint.close()
        return answer

    return lambda config: asyncio.run(once(config))
