"""A whole server in the test's process, with its episodes in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llmserve_server.app import create_app
from llmserve_server.settings import Settings

Serve = Callable[..., TestClient]


def _settings(**settings: Any) -> Settings:
    given = {"store_url": "sqlite://", "web": False, "engine": "python", "max_concurrent_envs": 1000}
    return Settings(**(given | settings))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server with some settings, and stop it afterwards. `address` is the caller's; without, it is this machine."""
    running: list[TestClient] = []

    def start(*, address: str = "127.0.0.1", **settings: Any) -> TestClient:
        client = TestClient(
            create_app(_settings(**settings)),
            base_url="http://localhost:7860",
            raise_server_exceptions=False,
            client=(address, 50_000),
        )
        client.__enter__()
        running.append(client)
        return client

    yield start
    for client in running:
        client.__exit__(None, None, None)


@pytest.fixture(scope="session")
def shared() -> Iterator[TestClient]:
    """A server with its default limits, for every test that can share one."""
    with TestClient(create_app(_settings()), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(shared: TestClient) -> TestClient:
    """The shared server, as a caller who was never there before sees it."""
    shared.cookies.clear()
    shared.headers["user-agent"] = uuid.uuid4().hex
    return shared
