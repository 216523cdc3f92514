"""Fixtures of the server's tests: stores, registries and clocks that belong to one test."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient
from sqlalchemy import make_url

from llmserve_server.app import create_app
from llmserve_server.backends import SimulatedBackend
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.settings import Settings
from llmserve_server.store.database import Database
from llmserve_server.store.episodes import EpisodeStore

_LOGGERS = (None, "llmserve_server", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpx2", "openai")
"""Loggers that `configure_logging`, uvicorn or a test sets; None is the root."""


@pytest.fixture(autouse=True)
def logging_is_restored() -> Iterator[None]:
    """Undo what a test configures of the log, so that tests may run in any order."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    kept = [(logger.handlers[:], logger.level, logger.propagate, logger.disabled) for logger in loggers]
    known = structlog.get_config()
    yield
    for logger, (handlers, level, propagate, disabled) in zip(loggers, kept, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
    structlog.configure(**known)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def store_url(tmp_path: Path) -> Iterator[str]:
    """The URL of the test's own store: a SQLite file, or a schema in the database of LLMSERVE_TEST_POSTGRES_URL."""
    server = os.environ.get("LLMSERVE_TEST_POSTGRES_URL")
    if server is None:
        yield f"sqlite:///{tmp_path / 'episodes.db'}"
        return
    schema = f"test_{uuid.uuid4().hex}"
    database = Database(server)
    with database.connection() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    url = make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
    yield url.render_as_string(hide_password=False)
    with database.connection() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    database.close()


@pytest.fixture
def open_store(store_url: str) -> Iterator[Callable[[], EpisodeStore]]:
    """Open the test's store once more, as another process would."""
    opened: list[EpisodeStore] = []

    def open_again() -> EpisodeStore:
        opened.append(EpisodeStore(store_url))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@pytest.fixture
def make_registry(open_store: Callable[[], EpisodeStore], clock: Clock) -> Callable[..., SessionRegistry]:
    """Make a registry over the test's store file; arguments are settings, or the registry's own."""

    def make(**options: Any) -> SessionRegistry:
        own = {name: options.pop(name) for name in ("backend_factory", "new_id") if name in options}
        return SessionRegistry(
            settings=Settings(**options),
            store=open_store(),
            monotonic=clock,
            wall_clock=clock,
            **{"backend_factory": SimulatedBackend, **own},
        )

    return make


@pytest.fixture
def registry(make_registry: Callable[..., SessionRegistry]) -> SessionRegistry:
    """A registry with the default settings."""
    return make_registry()


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Start a whole server with some settings in the test's process, and stop it afterwards. `address` is the caller's; without, it is this machine."""
    given = {"store_url": "sqlite://", "web": False, "engine": "python", "max_concurrent_envs": 1000}
    running: list[TestClient] = []

    def start(*, address: str = "127.0.0.1", **settings: Any) -> TestClient:
        client = TestClient(
            create_app(Settings(**(given | settings))),
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
