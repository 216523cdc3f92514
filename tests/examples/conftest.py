"""A server and an endpoint that all examples share, and for each a copy of the repository to run in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("llmserve_server", reason="the examples are run on the composed environment: nox -s examples")

from tests.examples.endpoint import Endpoint
from tests.examples.shell import KEY, Shell, copy_of_the_repository

from local_server import Running, running


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    """What answers in OpenAI's place; it must never have seen another key than the documented one."""
    with Endpoint() as answering:
        yield answering
        assert answering.keys <= {KEY, "", "EMPTY", "none"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, endpoint: Endpoint) -> Iterator[Running]:
    """What answers in place of localhost:7860."""
    settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": endpoint.url, "LLMSERVE_BASELINE_MIN_INTERVAL_S": "0"}
    with running(tmp_path_factory.mktemp("server"), env=settings, within_s=300) as answering:
        yield answering


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it is now; each block gets a copy of this copy."""
    return copy_of_the_repository(tmp_path_factory.mktemp("repository") / "llmserve-env")


@pytest.fixture
def shell(repository: Path, tmp_path: Path, server: Running, endpoint: Endpoint) -> Iterator[Shell]:
    """A shell in a copy of the repository, which is gone afterwards."""
    folder = tmp_path / "llmserve-env"
    shutil.copytree(repository, folder)
    yield Shell(folder, server, endpoint)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def proved() -> set[tuple[str, ...]]:
    """Commands that need nothing of those before them, as they were run: pages repeat them, and once is enough."""
    return set()
