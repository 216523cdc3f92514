"""A store whose file is deleted or replaced under the server is noticed: nothing is answered that would be lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from llmserve_server.errors import StoreUnavailable
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.store import files as store_files
from llmserve_server.store.episodes import EpisodeStore
from llmserve_server.store.files import StoreFiles

MakeRegistry = Callable[..., SessionRegistry]


@pytest.fixture
def file(store_url: str) -> Path:
    """The test's store."""
    if not store_url.startswith("sqlite"):
        pytest.skip("only SQLite's store is a file")
    return Path(str(make_url(store_url).database))


@pytest.fixture(autouse=True)
def _looks_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_files, "_EVERY_S", 0.0)


def _is_deleted(file: Path) -> None:
    file.unlink()


def _is_replaced(file: Path) -> None:
    copy = file.with_suffix(".copy")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)


def _loses_its_folder(file: Path) -> None:
    file.parent.rename(file.parent.with_name(f"{file.parent.name}-elsewhere"))


def _loses_its_log(file: Path) -> None:
    file.with_name(file.name + "-wal").unlink()


LOSSES = [_is_deleted, _is_replaced, _loses_its_folder, _loses_its_log]


@pytest.mark.parametrize("is_reopened", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_after_its_store_was_lost_no_call_is_answered_and_the_log_says_so_once(
    make_registry: MakeRegistry,
    file: Path,
    caplog: pytest.LogCaptureFixture,
    loss: Callable[[Path], None],
    is_reopened: bool,
) -> None:
    registry = make_registry()
    session = registry.reset(seed=5, peer="me").session_id
    if is_reopened:
        registry = make_registry()
    registry.step(session, {})
    loss(file)
    calls: list[Callable[[], object]] = [
        lambda: registry.step(session, {}),
        lambda: registry.state(session),
        lambda: registry.log(session),
        lambda: registry.reset(seed=1),
        lambda: registry.reset(seed=1, session_id=session),
        lambda: registry.fork(session),
        lambda: registry.grade(session),
        lambda: registry.resolve("me"),
        lambda: registry.leave(session),
        registry.reap,
    ]
    with caplog.at_level(logging.WARNING):
        for call in calls:
            with pytest.raises(StoreUnavailable, match=r"deleted or replaced .* put it back") as refused:
                call()
            assert refused.value.retry_after_s == 60
    assert [(record.levelname, str(file) in record.getMessage()) for record in caplog.records] == [("ERROR", True)]


def test_a_file_that_is_put_back_serves_again_and_nothing_accepted_is_lost(
    make_registry: MakeRegistry, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = make_registry()
    session = registry.reset(seed=5).session_id
    registry.step(session, {})
    aside = file.with_suffix(".aside")
    file.rename(aside)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            registry.step(session, {}, step_index=1)
    aside.rename(file)
    with caplog.at_level(logging.WARNING):
        assert registry.step(session, {}, step_index=1).observation.step_index == 2
    assert "back" in caplog.text
    assert make_registry().state(session).step_count == 2


def test_a_store_in_memory_has_no_files_to_lose() -> None:
    store = EpisodeStore.in_memory()
    assert store.counts() == (0, 0)
    store.close()


def test_between_two_looks_a_call_costs_no_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_files, "_EVERY_S", 0.25)
    file, now = tmp_path / "episodes.db", [10.0]
    file.touch()
    files = StoreFiles(str(file), clock=lambda: now[0])
    files.check()
    file.unlink()
    now[0] += 0.24
    files.check()
    now[0] += 0.01
    with pytest.raises(StoreUnavailable):
        files.check()
