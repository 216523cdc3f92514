"""A whole server in the test's process, with its episodes in memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from llmserve_server.app import create_app
from llmserve_server.settings import Settings


@pytest.fixture(scope="session")
def shared() -> Iterator[TestClient]:
    """A server with its default limits, for every test that can share one."""
    with TestClient(
        create_app(Settings(store_url="sqlite://", web=False, engine="python", max_concurrent_envs=1000)),
        raise_server_exceptions=False,
    ) as client:
        yield client


@pytest.fixture
def client(shared: TestClient) -> TestClient:
    """The shared server, as a caller who was never there before sees it."""
    shared.cookies.clear()
    shared.headers["user-agent"] = uuid.uuid4().hex
    return shared
