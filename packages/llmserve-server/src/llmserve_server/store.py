"""`EpisodeStore`: the episodes as rows, so that a session outlives the process that answered it. SQL and nothing else.

An episode is a row of `episodes` (who, which task, which seed, made by which simulator) and a row of `steps` per accepted
action; what the simulator would answer again is not stored. SQLite (a file, or memory) and PostgreSQL are tested; other
SQLAlchemy URLs are taken as they are.

Several processes may share one store. Two constraints are the fence between them: a session's episodes are numbered, and
an episode's steps are indexed, both without gaps and each number once. Who comes second learns that it is behind.
A committed row survives the death of the process at once (SQLite runs in WAL mode with ``synchronous=NORMAL``: a
power cut may cost the last moments, and never the file's consistency).
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Self

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from llmserve_server.backends.backend import StoredStep
from llmserve_server.errors import StoreUnavailable
from llmserve_server.settings import Settings, SettingsError
from llmserve_sim.schema import ServeAction, ServeObservation

__all__ = ["EpisodeRow", "EpisodeStore", "default_folder", "open_store"]

_LOGGER = logging.getLogger(__name__)

_FORMAT = 1
"""Of the tables below; a store of another format is refused at the start."""
_BUSY_TIMEOUT_MS = 10_000
"""How long one process waits for another that writes to the same SQLite file."""
_PRUNE_BATCH = 50
"""Episodes removed in one transaction, so that steps of other sessions are not held up."""

_METADATA = MetaData()
_KEY = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows itself only where the type is INTEGER
_STORE = Table("llmserve_store", _METADATA, Column("format", Integer, primary_key=True), Column("salt", String(64)))
_EPISODES = Table(
    "episodes",
    _METADATA,
    Column("key", _KEY, primary_key=True, autoincrement=True),
    Column("session_id", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("episode_id", String(200), nullable=False),
    Column("task_id", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("mode", String(16), nullable=False),
    Column("simulator_version", String(100), nullable=False),
    Column("task_digest", String(64), nullable=False),
    Column("peer", String(64)),
    Column("created", Float(53), nullable=False),
    Column("touched", Float(53), nullable=False),
    UniqueConstraint("session_id", "number", name="episodes_fence"),
    Index("episodes_by_id", "episode_id"),
    Index("episodes_by_peer", "peer", "created"),
    Index("episodes_by_age", "touched"),
    sqlite_autoincrement=True,  # a key is never used again, so a process that is behind cannot write to another's episode
)
_STEPS = Table(
    "steps",
    _METADATA,
    Column("episode", _KEY, ForeignKey("episodes.key", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("action", Text, nullable=False),
    Column("observation", Text),
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """One episode as stored. `key` is the store's own number, `number` counts the session's episodes from 1."""

    key: int
    session_id: str
    number: int
    episode_id: str
    task_id: str
    seed: int
    mode: str
    simulator_version: str
    task_digest: str
    peer: str | None
    """Pseudonym of the caller's address, where the caller may call without a session id."""
    created: float
    """Seconds since 1970."""
    touched: float
    """Seconds since 1970; exact to a minute."""


class EpisodeStore:
    """The store at one URL; raises `SettingsError` where it cannot be opened. Thread-safe.

    Every other method raises `StoreUnavailable` when the database does not do what it was asked; nothing was stored then.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            parsed = make_url(url)
            if parsed.drivername in {"postgres", "postgresql"}:  # hosting platforms name no driver; psycopg is ours
                parsed = parsed.set(drivername="postgresql+psycopg")
            self._sqlite = parsed.get_backend_name() == "sqlite"
            self.persistent = not (self._sqlite and _in_memory(parsed))
            """Whether episodes outlive the process."""
            self._engine = _sqlite_engine(parsed) if self._sqlite else _server_engine(parsed)
            self._lock = Lock()
            self._single = self._engine.connect() if self._sqlite else None
            self._salt = self._create()
        except (SQLAlchemyError, ImportError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            raise SettingsError(f"LLMSERVE_STORE_URL: must be a store that can be opened ({cause})") from None
        self.name = parsed.render_as_string(hide_password=True)
        """The URL without its password, for a log line."""
        self._append_sql, self._append_values, self._append_order = self._compile_append()

    @classmethod
    def in_memory(cls) -> Self:
        """Return a store that ends with the process."""
        return cls("sqlite://")

    def begin(self, row: EpisodeRow, actions: Sequence[tuple[str, str | None]] = ()) -> EpisodeRow | None:
        """Store a new episode (`row.key` is ignored), with steps where it is a copy; return it with its key.

        Returns None where the session has an episode of that number already: another process began it.
        """
        values = {name: getattr(row, name) for name in EpisodeRow.__slots__ if name != "key"}
        try:
            with self._transaction() as connection:
                key = connection.execute(insert(_EPISODES), values).inserted_primary_key[0]  # type: ignore[index]
                if actions:
                    connection.execute(
                        insert(_STEPS),
                        [
                            {"episode": key, "idx": idx, "action": action, "observation": observation}
                            for idx, (action, observation) in enumerate(actions)
                        ],
                    )
        except IntegrityError:
            return None
        return replace(row, key=key)

    def append(self, row: EpisodeRow, idx: int, action: str, observation: str | None) -> bool:
        """Store a step of the session's current episode, as JSON; return whether it was the first of that index.

        False says that this process is behind: another one stored that step, or began a newer episode, or the episode is
        no longer kept.
        """
        values = self._append_values | {
            "episode": row.key,
            "idx": idx,
            "action": action,
            "observation": observation,
            "current": row.key,
            "session": row.session_id,
        }
        parameters = values if self._append_order is None else tuple(values[name] for name in self._append_order)
        try:
            with self._connection() as connection:
                return connection.exec_driver_sql(self._append_sql, parameters).rowcount == 1
        except IntegrityError:
            return False

    def current(self, session_id: str) -> tuple[EpisodeRow, int] | None:
        """Return the session's newest episode and how many steps it has; None where there is no such session."""
        count = select(func.coalesce(func.max(_STEPS.c.idx) + 1, 0)).where(_STEPS.c.episode == _EPISODES.c.key)
        query = (
            select(_EPISODES, count.scalar_subquery())
            .where(_EPISODES.c.session_id == session_id)
            .order_by(_EPISODES.c.number.desc())
            .limit(1)
        )
        with self._connection() as connection:
            found = connection.execute(query).one_or_none()
        return None if found is None else (EpisodeRow(*found[:-1]), found[-1])

    def steps(self, row: EpisodeRow) -> list[StoredStep]:
        """Return an episode's steps in order."""
        return [
            StoredStep(
                ServeAction.model_validate_json(action),
                None if observation is None else ServeObservation.model_validate_json(observation),
            )
            for action, observation in self.raw_steps(row)
        ]

    def raw_steps(self, row: EpisodeRow) -> list[tuple[str, str | None]]:
        """Return an episode's steps in order, as stored."""
        query = select(_STEPS.c.action, _STEPS.c.observation).where(_STEPS.c.episode == row.key).order_by(_STEPS.c.idx)
        with self._connection() as connection:
            return [(action, observation) for action, observation in connection.execute(query)]

    def episodes(self, episode_id: str, session_id: str | None = None) -> list[EpisodeRow]:
        """Return the episodes of that id, newest first; of one session where it is named. At most 100."""
        query = select(_EPISODES).where(_EPISODES.c.episode_id == episode_id)
        if session_id is not None:
            query = query.where(_EPISODES.c.session_id == session_id)
        with self._connection() as connection:
            return [
                EpisodeRow(*found) for found in connection.execute(query.order_by(_EPISODES.c.key.desc()).limit(100))
            ]

    def last_session(self, pseudonym: str) -> str | None:
        """Return the session that the caller with that pseudonym reset last."""
        query = select(_EPISODES.c.session_id).where(_EPISODES.c.peer == pseudonym)
        with self._connection() as connection:
            found = connection.execute(query.order_by(_EPISODES.c.created.desc(), _EPISODES.c.key.desc()).limit(1))
            return found.scalar_one_or_none()

    def touch(self, keys: Sequence[int], now: float) -> None:
        """Say that episodes are in use."""
        with self._connection() as connection:
            connection.execute(update(_EPISODES).where(_EPISODES.c.key.in_(keys)).values(touched=now))

    def prune(self, before: float) -> int:
        """Remove the episodes that nobody touched since `before` (seconds since 1970), and return how many."""
        removed = 0
        old = select(_EPISODES.c.key).where(_EPISODES.c.touched < before).limit(_PRUNE_BATCH)
        while True:
            with self._transaction() as connection:
                keys = list(connection.scalars(old.with_for_update(skip_locked=True)))
                if keys:
                    connection.execute(delete(_STEPS).where(_STEPS.c.episode.in_(keys)))
                    connection.execute(delete(_EPISODES).where(_EPISODES.c.key.in_(keys)))
            removed += len(keys)
            if len(keys) < _PRUNE_BATCH:
                return removed

    def counts(self) -> tuple[int, int]:
        """Return how many episodes and steps are stored."""
        with self._connection() as connection:
            return tuple(connection.scalar(select(func.count()).select_from(t)) or 0 for t in (_EPISODES, _STEPS))  # type: ignore[return-value]

    def close(self) -> None:
        """Let go of every connection; closing twice is allowed."""
        with self._lock:
            if self._single is not None:
                self._single.close()
            self._engine.dispose()

    def pseudonym(self, peer: str) -> str:
        """Return what is stored in place of a caller's address, so that a copied store names nobody."""
        return hashlib.blake2b(peer.encode(), key=self._salt, digest_size=16).hexdigest()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Lend a connection on which each statement is its own transaction."""
        try:
            if self._single is not None:
                with self._lock:
                    yield self._single
            else:
                with self._engine.connect() as connection:
                    yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise StoreUnavailable(
                "the episode store did not answer, and nothing was applied: try again", retry_after_s=1
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Lend a connection whose statements hold together or not at all."""
        with self._connection() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self._sqlite else "BEGIN")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise

    def _create(self) -> bytes:
        """Make the tables where there are none, one process at a time; return the salt for callers' addresses."""
        with self._transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(7860201)"))
            _METADATA.create_all(connection)
            found = connection.execute(select(_STORE)).one_or_none()
            if found is None:
                salt = secrets.token_hex(32)
                connection.execute(insert(_STORE), {"format": _FORMAT, "salt": salt})
                return bytes.fromhex(salt)
        if found.format != _FORMAT:
            raise SettingsError(
                f"LLMSERVE_STORE_URL: must be a store of format {_FORMAT}, and has format {found.format}"
            )
        return bytes.fromhex(found.salt)

    def _compile_append(self) -> tuple[str, dict[str, Any], tuple[str, ...] | None]:
        """Return the statement of `append` as the driver takes it, its values, and their order where they have no names.

        It is compiled here once: with SQLAlchemy's own execution a step would wait three times as long for it.
        """
        newest = select(_EPISODES.c.key).where(_EPISODES.c.session_id == bindparam("session"))
        newest = newest.order_by(_EPISODES.c.number.desc()).limit(1)
        columns = [_STEPS.c.episode, _STEPS.c.idx, _STEPS.c.action, _STEPS.c.observation]
        row = select(*(bindparam(column.name, type_=column.type) for column in columns))
        row = row.where(bindparam("current", type_=_KEY) == newest.scalar_subquery())
        compiled = insert(_STEPS).from_select(columns, row).compile(dialect=self._engine.dialect)
        order = tuple(compiled.positiontup) if compiled.positional else None  # type: ignore[attr-defined]
        return str(compiled), dict(compiled.params), order


def default_folder() -> Path | None:
    """Return the first writable folder for a store nobody configured, made if need be; None where there is none."""
    state = os.environ.get("XDG_STATE_HOME")
    for base in (Path(state) if state else None, Path("~/.local/state")):
        if base is None:
            continue
        try:
            folder = base.expanduser() / "llmserve"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # RuntimeError: no home folder is known
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def open_store(settings: Settings) -> EpisodeStore:
    """Return the store that the settings name, else one in the default folder, else one in memory with a warning.

    Raises `SettingsError` where a store was asked for by name and cannot be opened: only what nobody asked for is replaced.
    """
    if settings.store_url is not None:
        return EpisodeStore(settings.store_url.get_secret_value())
    folder = default_folder()
    if folder is not None:
        return EpisodeStore(URL.create("sqlite", database=str(folder / "episodes.db")))
    _LOGGER.warning(
        "no folder is writable: episodes are kept in memory and end with this process; set LLMSERVE_STORE_URL"
    )
    return EpisodeStore.in_memory()


def _in_memory(url: URL) -> bool:
    return url.database in {None, "", ":memory:"} or "mode=memory" in str(url)


def _sqlite_engine(url: URL) -> Engine:
    """One connection, one thread at a time: SQLite writes one at a time anyway, and waiting for a lock beats polling."""
    if not _in_memory(url) and url.database is not None and not url.database.startswith("file:"):
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url, poolclass=StaticPool, isolation_level="AUTOCOMMIT", connect_args={"check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "wal_autocheckpoint=4000",  # pages of 4 KiB: a pause of milliseconds every few thousand steps
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _server_engine(url: URL) -> Engine:
    """A pool whose connections are tried before they are lent: the database may have been restarted meanwhile."""
    return create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, pool_size=8, max_overflow=24)
