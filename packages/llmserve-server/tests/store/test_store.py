"""What the store promises: what was taken is there, once, in order, whoever asks."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest

from llmserve_server.errors import StoreUnavailable
from llmserve_server.settings import Settings, SettingsError
from llmserve_server.store.database import Database
from llmserve_server.store.episodes import EpisodeRow, EpisodeStore, default_folder
from llmserve_server.store.episodes import open_store as open_configured
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ServeAction

ROW = EpisodeRow(0, "session", 1, "episode", "static_workload", 7, "sim", "1.0", "d" * 64, None, 100.0)
ACTION = ServeAction(kv_budget_fraction=1 / 3).model_dump_json()
OpenStore = Callable[[], EpisodeStore]


def _begin(store: EpisodeStore, **changes: object) -> EpisodeRow:
    row = store.begin(replace(ROW, **changes))  # type: ignore[arg-type]
    assert row is not None
    return row


def test_what_one_process_stored_another_reads(open_store: OpenStore) -> None:
    first, second = open_store(), open_store()
    row = _begin(first, peer=first.pseudonym("10.0.0.1"))
    assert first.append(row, 0, ACTION)
    assert first.append(row, 1, "{}")
    assert second.current("session") == (row, 2)
    assert [step.action for step in second.steps(row)] == [ServeAction(kv_budget_fraction=1 / 3), ServeAction()]
    assert second.sessions_of(second.pseudonym("10.0.0.1"), since=100.0) == ["session"]
    assert second.sessions_of(second.pseudonym("10.0.0.2"), since=100.0) == []
    assert second.sessions_of(second.pseudonym("10.0.0.1"), since=100.5) == []


def test_an_observation_that_was_kept_comes_back_to_the_byte(open_store: OpenStore) -> None:
    store = open_store()
    row = _begin(store)
    env = ServingEnv()
    env.reset(1)
    seen = env.step(ServeAction()).model_dump_json()
    store.append(row, 0, "{}", seen)
    kept = store.steps(row)[0].observation
    assert kept is not None
    assert kept.model_dump_json() == seen


def test_an_episode_number_is_taken_once(open_store: OpenStore) -> None:
    first, second = open_store(), open_store()
    assert first.begin(ROW) is not None
    assert second.begin(replace(ROW, episode_id="other")) is None
    assert first.counts() == (1, 1)


def test_a_step_index_is_taken_once(open_store: OpenStore) -> None:
    first, second = open_store(), open_store()
    row = _begin(first)
    assert first.append(row, 0, ACTION)
    assert not second.append(row, 0, "{}")
    assert [step.action.kv_budget_fraction for step in second.steps(row)] == [1 / 3]


def test_an_episode_that_the_session_left_behind_takes_no_step(open_store: OpenStore) -> None:
    first, second = open_store(), open_store()
    old = _begin(first)
    new = _begin(second, number=2)
    assert not first.append(old, 0, ACTION)
    assert first.append(new, 0, ACTION)
    assert first.current("session") == (new, 1)


def test_an_episode_that_is_gone_takes_no_step_and_its_key_is_not_used_again(open_store: OpenStore) -> None:
    store = open_store()
    row = _begin(store)
    assert store.prune(before=101.0, keep=10) == 1
    assert not store.append(row, 0, ACTION)
    assert _begin(store).key != row.key


def test_of_many_threads_that_append_one_step_one_is_first(open_store: OpenStore) -> None:
    stores = [open_store() for _ in range(4)]
    row = _begin(stores[0])
    barrier = Barrier(8)
    taken: list[int] = []

    def append(number: int) -> None:
        barrier.wait()
        taken.extend(idx for idx in range(20) if stores[number % 4].append(row, idx, ACTION))

    threads = [Thread(target=append, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(20))


def test_a_copy_has_the_steps_up_to_the_fork(open_store: OpenStore) -> None:
    store = open_store()
    row = _begin(store)
    for idx in range(5):
        store.append(row, idx, ServeAction(batch_cap=idx + 1).model_dump_json())
    copy = store.begin(replace(ROW, session_id="fork"), copied=row, count=3)
    assert copy is not None
    assert [step.action.batch_cap for step in store.steps(copy)] == [1, 2, 3]
    assert store.append(copy, 3, "{}")
    assert store.current("session") == (row, 5)


def test_a_copy_of_what_is_gone_is_no_episode(open_store: OpenStore) -> None:
    store = open_store()
    row = _begin(store)
    with pytest.raises(StoreUnavailable, match="removed for its age"):
        store.begin(replace(ROW, session_id="fork"), copied=row, count=3)
    assert store.current("fork") is None
    assert store.counts() == (1, 1)


def test_episodes_are_found_by_id_newest_first(open_store: OpenStore) -> None:
    store = open_store()
    for session_id, number in (("a", 1), ("b", 1), ("a", 2)):
        _begin(store, session_id=session_id, number=number)
    _begin(store, session_id="c", episode_id="other")
    assert [(row.session_id, row.number) for row in store.episodes("episode")] == [("a", 2), ("b", 1), ("a", 1)]
    assert [row.number for row in store.episodes("episode", "a")] == [2, 1]
    assert store.episodes("none") == []


def test_pruning_by_age_spares_what_was_touched(open_store: OpenStore) -> None:
    store = open_store()
    rows = [_begin(store, session_id=f"s{number}") for number in range(50)]
    for row in rows:
        store.append(row, 0, ACTION)
    store.touch(rows[3], 200.0)
    assert store.prune(before=200.0, keep=1000) == 49
    assert store.current("s3") == (replace(rows[3], touched=200.0), 1)
    assert store.counts() == (1, 1)
    assert store.steps(rows[4]) == []


def test_pruning_by_number_takes_what_sessions_left_behind_first(open_store: OpenStore) -> None:
    store = open_store()
    for number in (1, 2, 3):
        _begin(store, session_id="busy", number=number, touched=1000.0 + number)
    for session in ("old", "older"):
        _begin(store, session_id=session, touched={"old": 20.0, "older": 10.0}[session])
    assert store.prune(before=0.0, keep=4) == 1
    assert store.counts() == (4, 3)
    assert store.prune(before=0.0, keep=2) == 2
    assert store.current("older") is None
    assert store.current("old") is not None
    found = store.current("busy")
    assert found is not None
    assert found[0].number == 3


def test_a_store_of_another_format_is_refused_at_the_start(open_store: OpenStore) -> None:
    with open_store()._database.connection() as connection:
        connection.exec_driver_sql("UPDATE llmserve_store SET format = 99")
    with pytest.raises(SettingsError, match=r"LLMSERVE_STORE_URL: .*it has format 99"):
        open_store()


@pytest.mark.parametrize("url", ["sqlite:////proc/none/episodes.db", "postgresql://127.0.0.1:1/none", "nonsense://x"])
def test_a_store_asked_for_by_name_that_cannot_be_opened_stops_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^LLMSERVE_STORE_URL: must be a store that can be opened"):
        open_configured(Settings(store_url=url))


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but somebody's notes\n" * 100)
    with pytest.raises(SettingsError, match="not a database"):
        EpisodeStore(f"sqlite:///{file}")
    assert file.read_text().startswith("not a database")


def test_a_closed_store_refuses_and_says_how_long_to_wait(open_store: OpenStore) -> None:
    store = open_store()
    row = _begin(store)
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable) as refused:
        store.append(row, 0, ACTION)
    assert refused.value.retry_after_s == 1


def test_a_transaction_that_fails_leaves_the_store_usable(open_store: OpenStore) -> None:
    store = open_store()
    assert store.begin(ROW) is not None
    assert store.begin(ROW) is None
    assert store.begin(replace(ROW, number=2)) is not None


def test_by_default_a_file_in_the_state_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    store = open_configured(Settings())
    assert store.persistent
    assert (tmp_path / "state" / "llmserve" / "episodes.db").exists()
    store.close()
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "llmserve"


def test_where_no_folder_is_writable_episodes_live_in_memory_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        store = open_configured(Settings())
    assert not store.persistent
    assert "no folder is writable" in caplog.text
    row = _begin(store)
    assert store.append(row, 0, ACTION)
    store.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "llmserve"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() is None


def test_a_stored_address_is_a_pseudonym_that_another_store_does_not_share(open_store: OpenStore) -> None:
    store, other = open_store(), EpisodeStore.in_memory()
    assert store.pseudonym("10.0.0.1") == open_store().pseudonym("10.0.0.1")
    assert store.pseudonym("10.0.0.1") != other.pseudonym("10.0.0.1")
    assert "10.0.0.1" not in store.pseudonym("10.0.0.1")
    other.close()


def test_the_password_of_a_store_does_not_show() -> None:
    with pytest.raises(SettingsError) as refused:
        EpisodeStore("postgresql://me:geheim@127.0.0.1:1/none")
    assert "geheim" not in str(refused.value)


OLDER = """
CREATE TABLE llmserve_store (format INTEGER NOT NULL, salt VARCHAR(64) NOT NULL, PRIMARY KEY (format));
CREATE TABLE episodes (
    key {key}, session_id VARCHAR(64) NOT NULL, number INTEGER NOT NULL, episode_id VARCHAR(200) NOT NULL,
    task_id VARCHAR(64) NOT NULL, seed BIGINT NOT NULL, mode VARCHAR(16) NOT NULL,
    simulator_version VARCHAR(100) NOT NULL, task_digest VARCHAR(64) NOT NULL, peer VARCHAR(64),
    touched FLOAT(53) NOT NULL, CONSTRAINT episodes_fence UNIQUE (session_id, number)
);
CREATE INDEX episodes_by_id ON episodes (episode_id);
CREATE INDEX episodes_by_peer ON episodes (peer, key);
CREATE INDEX episodes_by_age ON episodes (touched);
CREATE TABLE steps (
    episode {reference}, idx INTEGER NOT NULL, action TEXT NOT NULL, observation TEXT, PRIMARY KEY (episode, idx),
    FOREIGN KEY (episode) REFERENCES episodes (key)
);
INSERT INTO llmserve_store VALUES (1, '{salt}');
INSERT INTO episodes
    (session_id, number, episode_id, task_id, seed, mode, simulator_version, task_digest, peer, touched)
    VALUES ('old', 1, 'episode', 'static_workload', 7, 'sim', '1.0', 'd', NULL, 100.0);
INSERT INTO steps VALUES (1, 0, '{{}}', NULL);
"""
"""What a store of the first version holds."""


def test_a_store_of_an_older_version_is_taken_over_with_what_it_holds(store_url: str, open_store: OpenStore) -> None:
    database = Database(store_url)
    keys = (
        {"key": "INTEGER PRIMARY KEY AUTOINCREMENT", "reference": "INTEGER NOT NULL"}
        if database.sqlite
        else {"key": "BIGSERIAL PRIMARY KEY", "reference": "BIGINT NOT NULL"}
    )
    with database.transaction() as connection:
        for statement in OLDER.format(salt="ab" * 32, **keys).split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    database.close()
    for _ in range(2):
        store = open_store()
        found = store.current("old")
        assert found is not None
        row, count = found
        assert (row.seed, row.address, row.foresight, row.forecasts, count) == (7, None, None, None, 1)
    assert store.append(row, 1, ACTION)
    new = _begin(store, session_id="new", foresight=True, address="here", forecasts="[[1,2]]")
    assert open_store().current("new") == (new, 0)
    assert store.episodes("episode", "old") == [row], "of what nobody wrote down, nobody knows"
