"""`Database`: connections to the store's database, and what differs between SQLite and the rest. Knows no table.

SQLite is reached over one connection that threads take turns with: it lets one writer in at a time anyway, and waiting for
a lock costs less than polling for it. A committed statement survives the death of the process at once (WAL mode with
``synchronous=NORMAL``: a power cut may cost the last moments, and never the file's consistency). Other databases are
reached through a pool.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, cast

from sqlalchemy import URL, Connection, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from llmserve_server.errors import StoreUnavailable

__all__ = ["Database"]

_BUSY_TIMEOUT_MS = 10_000
"""How long one process waits for another that writes to the same SQLite file."""
_CHECKPOINT_PAGES = 4000
"""Of 4 KiB: SQLite moves its log into the file every few thousand steps, and whose turn it is waits for milliseconds."""
_PRAGMAS = (
    f"busy_timeout={_BUSY_TIMEOUT_MS}",
    "journal_mode=WAL",
    "synchronous=NORMAL",
    f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
)


class Database:
    """The database at one SQLAlchemy URL; raises SQLAlchemy's errors (or OSError, ImportError) where it cannot be opened."""

    def __init__(self, url: str | URL) -> None:
        parsed = make_url(url)
        if parsed.drivername in {"postgres", "postgresql"}:  # hosting platforms name no driver; psycopg is ours
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.name = parsed.render_as_string(hide_password=True)
        """The URL without its password, for a log line."""
        self.sqlite = parsed.get_backend_name() == "sqlite"
        self.persistent = not (self.sqlite and _in_memory(parsed))
        """Whether what is stored outlives the process."""
        self._turn = Lock()
        self._closed = False
        self._engine = _sqlite(parsed) if self.sqlite else _pooled(parsed)
        self._single: Connection | None = None
        self._driver: sqlite3.Connection | None = None
        try:
            connection = self._engine.connect()
            if self.sqlite:
                self._single = connection
                self._driver = cast("sqlite3.Connection", connection.connection.driver_connection)
            else:
                connection.close()
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def dialect(self) -> Dialect:
        """How SQL is said here."""
        return self._engine.dialect

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection on which each statement is a transaction of its own.

        Raises `IntegrityError` as it is, for it says who was first, and every other failure as `StoreUnavailable`.
        """
        if self._closed:
            raise StoreUnavailable("the episode store is closed: the server is stopping", retry_after_s=1)
        try:
            if self._single is not None:
                with self._turn:
                    yield self._single
            else:
                with self._engine.connect() as connection:
                    yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise _no_answer() from error

    def insert(self, sql: str, parameters: Any) -> bool:
        """Run one INSERT in the driver's own terms, committed on return; return whether it inserted a row.

        False where a constraint forbids the row. For the one statement that every step waits for: with SQLite it goes to
        the driver directly, in half the time that SQLAlchemy takes.
        """
        if self._driver is None or self._closed:
            try:
                with self.connection() as connection:
                    return connection.exec_driver_sql(sql, parameters).rowcount == 1
            except IntegrityError:
                return False
        try:
            with self._turn:
                return self._driver.execute(sql, parameters).rowcount == 1
        except sqlite3.IntegrityError:
            return False
        except sqlite3.Error as error:
            raise _no_answer() from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection whose statements hold together or not at all."""
        with self.connection() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self.sqlite else "BEGIN")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise

    def close(self) -> None:
        """Let go of every connection; closing twice is allowed."""
        self._closed = True
        with self._turn:
            if self._single is not None:
                self._single.close()
            self._engine.dispose()


def _no_answer() -> StoreUnavailable:
    return StoreUnavailable(
        "the episode store does not answer: try again; if it was a step, repeat it with its step_index", retry_after_s=1
    )


def _in_memory(url: URL) -> bool:
    return url.database in {None, "", ":memory:"} or "mode=memory" in str(url)


def _sqlite(url: URL) -> Engine:
    if not _in_memory(url) and url.database is not None and not url.database.startswith("file:"):
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    arguments = {"check_same_thread": False}
    engine = create_engine(url, poolclass=StaticPool, isolation_level="AUTOCOMMIT", connect_args=arguments)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _pooled(url: URL) -> Engine:
    """A connection is tried before it is lent: the database may have been restarted meanwhile."""
    return create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, pool_size=8, max_overflow=24)
