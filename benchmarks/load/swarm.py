"""Steps many sessions at once, half over WebSocket and half over HTTP; each steps as soon as it gets an answer.

It runs in a process of its own beside the server and counts errors. A session that meets an error stops and reports it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load.clients import OURS
from websockets.asyncio.client import connect

Ask = Callable[[dict[str, Any] | None], Awaitable[dict[str, Any]]]
"""One request and its answer: a step's action, or None for a reset with the session's own seed."""


@dataclass
class Tally:
    """The measurements of the swarm: when each step was answered, how long it took, and every error."""

    steps: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the start, latency in seconds) of every step."""
    episodes: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass
class Swarm:
    """`sessions` sessions on the server at `url`, until `stop` is set."""

    url: str
    sessions: int
    tally: Tally = field(default_factory=Tally)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    full: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once every session has begun, or one has failed."""
    opened: int = 0
    started: float = 0.0

    async def run(self) -> None:
        """Open the sessions and step until told to stop.

        Only a few sessions open at a time: opening many at once is not what is measured.
        """
        door = asyncio.Semaphore(8)
        self.started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(self.sessions):
                over = self._over_socket(number, door) if number % 2 else self._over_http(number, door)
                group.create_task(self._guarded(number, over))

    async def _guarded(self, number: int, session: Awaitable[None]) -> None:
        try:
            await session
        except Exception as error:  # noqa: BLE001 - any failure of a session is a finding, and must not end the others
            self.tally.errors.append(f"session {number}: {type(error).__name__}: {error}"[:500])
            self.full.set()

    async def _over_socket(self, number: int, door: asyncio.Semaphore) -> None:
        address = self.url.replace("http", "ws", 1) + "/ws"
        await door.acquire()
        try:
            socket = await connect(address, compression=None, max_size=2**24, open_timeout=60, ping_interval=None)
        finally:
            door.release()
        async with socket:

            async def ask(action: dict[str, Any] | None) -> dict[str, Any]:
                message = {"type": "step", "data": action} if action else {"type": "reset", "data": _reset(number)}
                await socket.send(json.dumps(message))
                reply = json.loads(await asyncio.wait_for(socket.recv(), 60))
                if reply["type"] != "observation":
                    raise RuntimeError(f"answered with {reply}")
                answer: dict[str, Any] = reply["data"]
                return answer

            await self._play(ask)

    async def _over_http(self, number: int, door: asyncio.Semaphore) -> None:
        address = urlsplit(self.url)
        async with door:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
        session: dict[str, str] = {}

        async def ask(action: dict[str, Any] | None) -> dict[str, Any]:
            path, body = ("/step", {"action": action}) if action else ("/reset", _reset(number))
            writer.write(_request(path, json.dumps(body | session).encode()))
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode("latin-1").lower()
            length = int(head.partition("content-length: ")[2].partition("\r")[0])
            text = await asyncio.wait_for(reader.readexactly(length), 60)
            if not head.startswith("http/1.1 200 "):
                raise RuntimeError(f"{path} answered {head.partition(chr(13))[0]}: {text[:300]!r}")
            answer: dict[str, Any] = json.loads(text)
            session["session_id"] = answer["session_id"]
            return answer

        try:
            await self._play(ask)
        finally:
            writer.close()

    async def _play(self, ask: Ask) -> None:
        answer = await ask(None)
        self.opened += 1
        if self.opened == self.sessions:
            self.full.set()
        await self.full.wait()
        expected = 0
        while not self.stop.is_set():
            if answer["done"]:
                answer, expected = await ask(None), 0
                self.tally.episodes += 1
            begin = time.perf_counter()
            answer = await ask(OURS.action)
            end = time.perf_counter()
            self.tally.steps.append((end - self.started, end - begin))
            expected += 1
            if answer["observation"]["step_index"] != expected:
                raise RuntimeError(f"step {expected} was answered as {answer['observation']['step_index']}")


def _request(path: str, body: bytes) -> bytes:
    """Return an HTTP request as bytes.

    A pooling client would spend more time on 128 connections than the server spends on the requests.
    """
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reset(number: int) -> dict[str, Any]:
    return OURS.reset | {"seed": number}
