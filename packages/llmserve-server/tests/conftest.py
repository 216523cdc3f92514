"""Fixtures of the server's tests: stores, registries and clocks that belong to one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmserve_server.backends import SimulatedBackend
from llmserve_server.sessions import SessionRegistry
from llmserve_server.settings import Settings
from llmserve_server.store import EpisodeStore


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
def open_store(tmp_path: Path) -> Iterator[Callable[[], EpisodeStore]]:
    """Open the test's store file once more, as another process would."""
    opened: list[EpisodeStore] = []

    def open_again() -> EpisodeStore:
        opened.append(EpisodeStore(f"sqlite:///{tmp_path / 'episodes.db'}"))
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
