"""Fixtures: a server in this process, and a client of it of every kind, driven by the same test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llmserve_client import AsyncLLMServeEnv
from llmserve_client.testing import LocalServer
from llmserve_sim.env import ServingEnv

KINDS = ("sync-http", "sync-websocket", "async-http", "async-websocket")


class _Awaited:
    """An asynchronous client whose calls are run to their end, so that one test drives both kinds."""

    def __init__(self, client: AsyncLLMServeEnv, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            async def run() -> Any:
                return await found(*arguments, **named)

            answer = self._runner.run(run())
            return _Awaited(answer, self._runner) if isinstance(answer, AsyncLLMServeEnv) else answer

        return call


class _Clients:
    """Makes clients of one kind."""

    def __init__(self, kind: str, runner: asyncio.Runner) -> None:
        self.colour, self.transport = kind.split("-")
        self._runner = runner
        self.made: list[Any] = []

    def of(self, server: LocalServer, **options: Any) -> Any:
        given = {"transport": self.transport} | options
        client = (
            server.client(**given) if self.colour == "sync" else _Awaited(server.async_client(**given), self._runner)
        )
        self.made.append(client)
        return client


@pytest.fixture
def server() -> LocalServer:
    """A server that has met nobody."""
    return LocalServer()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop that runs one coroutine at a time."""
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(params=KINDS)
def clients(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[_Clients]:
    """_Clients, synchronous or not, over one transport or the other."""
    made = _Clients(request.param, runner)
    yield made
    for client in made.made:
        client.close()


@pytest.fixture
def env(clients: _Clients, server: LocalServer) -> Any:
    """A client of `server`."""
    return clients.of(server)


@pytest.fixture
def simulator() -> ServingEnv:
    """The same environment with nothing between."""
    return ServingEnv("static_workload", engine="python")
