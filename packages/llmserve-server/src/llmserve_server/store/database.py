"""`Database`: connections to the store's database, and the differences between SQLite and other databases.

With SQLite all threads share one connection: SQLite allows one writer at a time, and waiting for our lock costs less
than its polling. A committed statement survives the end of the process. The mode is WAL with ``synchronous=NORMAL``:
a power cut may lose the last moments but does not damage the file. Other databases are reached through a pool.
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
from llmserve_server.store.files import StoreFiles

__all__ = ["Database"]

_BUSY_TIMEOUT_MS = 10_000
"""How long a process waits for another one that writes to the same SQLite file, ms."""
_CHECKPOINT_PAGES = 4000
"""Pages (4 KiB) of write-ahead log between checkpoints. A checkpoint delays one step by milliseconds."""
_PRAGMAS = (
    f"busy_timeout={_BUSY_TIMEOUT_MS}",
    "journal_mode=WAL",
    "synchronous=NORMAL",
    f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
)


class Database:
    """The database at a SQLAlchemy URL; raises SQLAlchemy's errors, OSError or ImportError if it cannot be opened."""

    def __init__(self, url: str | URL) -> None:
        parsed = make_url(url)
        if parsed.drivername in {"postgres", "postgresql"}:  # hosting platforms name no driver; we install psycopg
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.name = parsed.render_as_string(hide_password=True)
        """The URL without its password, for log lines."""
        self.sqlite = parsed.get_backend_name() == "sqlite"
        self.persistent = not (self.sqlite and _in_memory(parsed))
        """Whether the data survives the end of the process."""
        self._turn = Lock()
        self._files: StoreFiles | None = None
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

    def watch(self) -> None:
        """From now on refuse every call while the files are not those of now. Call it after the first write."""
        if self._driver is not None and self.persistent:
            (_, _, path) = next(row for row in self._driver.execute("PRAGMA database_list") if row[1] == "main")
            if path:
                self._files = StoreFiles(path)

    @property
    def dialect(self) -> Dialect:
        """The SQL dialect of the database."""
        return self._engine.dialect

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection on which each statement is its own transaction.

        Raises `IntegrityError` unchanged, since it tells that another process was first, and `StoreUnavailable` for
        every other failure.
        """
        if self._closed:
            raise StoreUnavailable("the episode store is closed: the server is stopping", retry_after_s=1)
        if self._files is not None:
            self._files.check()
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
        """Run and commit one INSERT, written in the driver's SQL; return False if a constraint forbids the row.

        Every step waits for this statement. With SQLite it bypasses SQLAlchemy, which halves its time.
        """
        if self._driver is None or self._closed:
            try:
                with self.connection() as connection:
                    return connection.exec_driver_sql(sql, parameters).rowcount == 1
            except IntegrityError:
                return False
        if self._files is not None:
            self._files.check()
        try:
            with self._turn:
                return self._driver.execute(sql, parameters).rowcount == 1
        except sqlite3.IntegrityError:
            return False
        except sqlite3.Error as error:
            raise _no_answer() from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Lend a connection whose statements are one transaction."""
        with self.connection() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self.sqlite else "BEGIN")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise

    def close(self) -> None:
        """Close every connection; closing twice is allowed."""
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
    """Return an engine whose pool tests a connection before lending it: the database may have been restarted."""
    return create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True, pool_size=8, max_overflow=24)
