"""A whole server in the test's process, and one that listens on a port for clients of other libraries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from llmserve_server.app import create_app
from llmserve_server.settings import Settings


def settings(**given: object) -> Settings:
    """Return settings for tests: episodes in memory, no page."""
    return Settings(**({"store_url": "sqlite://", "web": False, "max_concurrent_envs": 100} | given))


@contextmanager
def listening(chosen: Settings) -> Iterator[str]:
    """Serve on a free port of this machine; yield the URL."""
    server = uvicorn.Server(uvicorn.Config(create_app(chosen), host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(600):
        if server.started:
            break
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The URL of a server that listens."""
    with listening(settings()) as found:
        yield found


@pytest.fixture(scope="session")
def server() -> Iterator[TestClient]:
    """A server in this process."""
    with TestClient(create_app(settings()), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def call(server: TestClient) -> Callable[..., httpx.Response]:
    """Send one JSON-RPC request; without `session` it is no message of an MCP session."""
    numbers = count(1)

    def send(method: str, params: object = None, *, session: str | None = None, **headers: str) -> httpx.Response:
        message = {"jsonrpc": "2.0", "id": next(numbers), "method": method}
        named = {} if session is None else {"Mcp-Session-Id": session}
        return server.post(
            "/mcp", json=message | ({} if params is None else {"params": params}), headers=named | headers
        )

    return send


@pytest.fixture
def session(call: Callable[..., httpx.Response]) -> str:
    """A new MCP session, without an episode."""
    return str(call("initialize", {"protocolVersion": "2025-06-18"}).headers["mcp-session-id"])
