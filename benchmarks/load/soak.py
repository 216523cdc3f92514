"""Fills a server for minutes: latency, errors and memory, and how it refuses one more session."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from benchmarks.load.swarm import Swarm
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

import local_server

#: Largest p99 latency of a step as a multiple of its p50.
MAX_TAIL = 20.0
#: Largest growth of memory from the warm-up to the end, as a share.
MAX_GROWTH = 0.05
#: Shares of the run: the warm-up, and the slice of it over which memory is taken at the beginning and at the end.
WARM_UP, SLICE = 0.2, 0.2
KNOCK_EVERY_S = 5.0


@dataclass(frozen=True)
class Soak:
    """The measurements of a full server over `seconds`; latencies in seconds, memory as (seconds, bytes)."""

    sessions: int
    seconds: float
    steps: list[tuple[float, float]]
    episodes: int
    errors: list[str]
    memory: list[tuple[float, int]]
    knocks: list[str]
    """What a session beyond capacity was answered, each time: `refused` is what is wanted."""

    def latency(self, percent: float) -> float:
        """Return a percentile of the steps' latency."""
        ordered = sorted(latency for _, latency in self.steps)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    @property
    def tail(self) -> float:
        """Return the p99 latency as a multiple of the p50."""
        return self.latency(99) / self.latency(50)

    @property
    def growth(self) -> float:
        """Return the memory at the end over the memory after the warm-up, minus one."""
        end = self.memory[-1][0]

        def median(low: float, high: float) -> float:
            return statistics.median(size for at, size in self.memory if low * end <= at <= high * end)

        return median(1 - SLICE, 1) / median(WARM_UP, WARM_UP + SLICE) - 1

    def problems(self) -> list[str]:
        """Return a sentence for every bar that was missed."""
        found = [f"{len(self.errors)} errors, the first: {self.errors[0]}"] if self.errors else []
        if not self.steps:
            return [*found, "no step was taken"]
        if self.tail > MAX_TAIL:
            found.append(f"p99 is {self.tail:.1f} x p50, more than {MAX_TAIL:g}")
        if self.growth > MAX_GROWTH:
            found.append(f"memory grew by {self.growth:.1%} after the warm-up, more than {MAX_GROWTH:.0%}")
        if not self.knocks or set(self.knocks) != {"refused"}:
            found.append(
                f"a session beyond capacity was answered: {', '.join(sorted(set(self.knocks))) or 'never tried'}"
            )
        return found


def soak(folder: Path, *, sessions: int, seconds: float) -> Soak:
    """Fill a server that holds `sessions` sessions and keep it full for `seconds`."""
    env = {"LLMSERVE_MAX_CONCURRENT_ENVS": str(sessions), "LLMSERVE_LOG_LEVEL": "warning"}
    with local_server.running(folder, env=env) as server:
        return asyncio.run(_soak(server, sessions, seconds))


async def _soak(server: local_server.Running, sessions: int, seconds: float) -> Soak:
    swarm = Swarm(server.url, sessions)
    memory: list[tuple[float, int]] = []
    knocks: list[str] = []
    stepping = asyncio.create_task(swarm.run())
    await swarm.full.wait()
    begin = time.perf_counter()
    swarm.tally.steps.clear()
    visitors = asyncio.create_task(_keep_knocking(server.url, knocks))
    if (
        swarm.opened < sessions
    ):  # a place that stayed free would be a visitor's: nothing of what follows could be judged
        swarm.tally.errors.insert(0, f"only {swarm.opened} of {sessions} sessions began")
        seconds = 0.0
    while (at := time.perf_counter() - begin) < seconds and not stepping.done() and server.process.poll() is None:
        memory.append((at, server.memory_bytes()))
        await asyncio.sleep(1)
    visitors.cancel()
    spent = time.perf_counter() - begin
    swarm.stop.set()
    await stepping
    offset = begin - swarm.started
    steps = [(at - offset, latency) for at, latency in swarm.tally.steps] if memory else []
    return Soak(sessions, spent, steps, swarm.tally.episodes, swarm.tally.errors, memory, knocks)


async def _keep_knocking(url: str, knocks: list[str]) -> None:
    while True:
        knocks += [await _knock_over_http(url), await _knock_over_socket(url)]
        await asyncio.sleep(KNOCK_EVERY_S)


async def _knock_over_http(url: str) -> str:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        reply = await client.post("/reset", json={})
    if reply.status_code != 429:
        return f"HTTP {reply.status_code}"
    if not reply.headers.get("retry-after", "").isdigit():
        return "429 without Retry-After"
    return "refused"


async def _knock_over_socket(url: str) -> str:
    """Connect to `/ws` of a full server: it refuses the handshake with 429, or the first reset with its code."""
    try:
        async with connect(url.replace("http", "ws", 1) + "/ws", open_timeout=60) as socket:
            await socket.send('{"type": "reset", "data": {}}')
            reply = str(await asyncio.wait_for(socket.recv(), 60))
    except InvalidStatus as error:
        refused = error.response.status_code == 429 and error.response.headers.get("retry-after", "").isdigit()
        return "refused" if refused else f"WS {error.response.status_code}"
    except WebSocketException as error:
        return f"WS {type(error).__name__}"
    return "refused" if '"error"' in reply and "capacity" in reply.lower() else f"WS {reply[:80]}"
