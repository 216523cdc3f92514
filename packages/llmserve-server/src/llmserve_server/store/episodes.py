"""`EpisodeStore`: episodes as rows of a database, so that sessions survive the end of the process.

A row per step holds the action. It holds the observation only if it cannot be replayed. SQLite (a file, or in memory)
and PostgreSQL are tested; other SQLAlchemy URLs may work. Several processes may share a store: the second one to
store an episode or a step is told so, and nothing is overwritten.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

from pydantic_core import from_json
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Update,
    bindparam,
    delete,
    func,
    insert,
    inspect,
    literal,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateColumn

from llmserve_server.backends.backend import StoredStep
from llmserve_server.errors import StoreUnavailable
from llmserve_server.settings import Settings, SettingsError
from llmserve_server.store.database import Database
from llmserve_server.store.tables import EPISODES, FORMAT, METADATA, STEPS, STORE, EpisodeRow
from llmserve_sim.schema import ServeAction, ServeObservation

__all__ = ["EpisodeRow", "EpisodeStore", "default_folder", "forecast_seed", "forecasts_of", "open_store"]

_LOGGER = logging.getLogger(__name__)
_PRUNE_BATCH = 20
"""Episodes removed in one transaction; few, so that steps wait only milliseconds for it."""
_ADVISORY_LOCK = 7_860_201
"""Key of the PostgreSQL advisory lock; any number that no other program uses in the same database."""


class EpisodeStore:
    """The store at one SQLAlchemy URL; raises `SettingsError` if it cannot be opened. Thread-safe.

    Every method raises `StoreUnavailable` if the database fails.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            self._database = Database(url)
        except ImportError as error:
            if error.name != "psycopg":
                raise _cannot_open(error) from error
            raise _cannot_open("PostgreSQL needs the extra: pip install 'llmserve-server[postgres]'") from error
        except (SQLAlchemyError, OSError) as error:
            raise _cannot_open(getattr(error, "orig", None) or error) from error
        self.name = self._database.name
        """The URL without its password, for log lines."""
        self.persistent = self._database.persistent
        """Whether episodes survive the end of the process."""
        try:
            self._salt = self._create()
        except StoreUnavailable as error:
            self.close()
            raise _cannot_open(getattr(error.__cause__, "orig", None) or error) from error
        except BaseException:
            self.close()
            raise
        self._database.watch()
        self._append_sql, self._append_values, self._append_order = self._compile_append()

    @classmethod
    def in_memory(cls) -> Self:
        """Return a store in memory, which ends with the process."""
        return cls("sqlite://")

    def begin(self, row: EpisodeRow, *, copied: EpisodeRow | None = None, count: int = 0) -> EpisodeRow | None:
        """Store a new episode (`row.key` is ignored) and return it with its key.

        The first `count` steps of the episode `copied`, if given, are copied, and it gets the new one's `foresight`.
        Returns None if the session already has an episode of that number, which another process began.
        """
        values = {column.name: getattr(row, column.name) for column in fields(row) if column.name != "key"}
        try:
            with self._database.transaction() as connection:
                key: int = connection.execute(insert(EPISODES).returning(EPISODES.c.key), values).scalar_one()
                if copied is not None and count:
                    steps = select(literal(key), STEPS.c.idx, STEPS.c.action, STEPS.c.observation).where(
                        STEPS.c.episode == copied.key, STEPS.c.idx < count
                    )
                    connection.execute(insert(STEPS).from_select(list(STEPS.c), steps))
                    copies = select(func.count()).select_from(STEPS).where(STEPS.c.episode == key)
                    if connection.scalar(copies) != count:
                        raise StoreUnavailable("the episode is being removed for its age: reset to start another")
                if copied is not None and row.foresight:
                    connection.execute(_foreseen(copied))
        except IntegrityError:
            return None
        return replace(row, key=key)

    def append(self, row: EpisodeRow, idx: int, action: str, observation: str | None = None) -> bool:
        """Store a step of the session's current episode, as JSON; return whether it was stored.

        False means that this process is behind: another one stored a step of that index or began a newer episode, or
        the episode has been pruned.
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
        return self._database.insert(self._append_sql, parameters)

    def current(self, session_id: str) -> tuple[EpisodeRow, int] | None:
        """Return the session's newest episode and its number of steps; None if there is no such session."""
        count = select(func.coalesce(func.max(STEPS.c.idx) + 1, 0)).where(STEPS.c.episode == EPISODES.c.key)
        query = select(EPISODES, count.scalar_subquery()).where(EPISODES.c.session_id == session_id)
        with self._database.connection() as connection:
            found = connection.execute(query.order_by(EPISODES.c.number.desc()).limit(1)).one_or_none()
        return None if found is None else (EpisodeRow(*found[:-1]), found[-1])

    def steps(self, row: EpisodeRow) -> list[StoredStep]:
        """Return an episode's steps in order."""
        query = select(STEPS.c.action, STEPS.c.observation).where(STEPS.c.episode == row.key).order_by(STEPS.c.idx)
        with self._database.connection() as connection:
            found = connection.execute(query).all()
        return [
            StoredStep(
                ServeAction.model_validate_json(action),
                None if observation is None else ServeObservation.model_validate_json(observation),
            )
            for action, observation in found
        ]

    def episodes(self, episode_id: str, session_id: str | None = None) -> list[EpisodeRow]:
        """Return the episodes with that id, newest first and at most 100; only those of `session_id` if given."""
        query = select(EPISODES).where(EPISODES.c.episode_id == episode_id)
        if session_id is not None:
            query = query.where(EPISODES.c.session_id == session_id)
        with self._database.connection() as connection:
            return [EpisodeRow(*row) for row in connection.execute(query.order_by(EPISODES.c.key.desc()).limit(100))]

    def sessions_of(self, pseudonym: str, since: float) -> list[str]:
        """Return the sessions that the caller with that pseudonym has used since then: one, or two if there are more."""
        query = select(EPISODES.c.session_id).distinct()
        query = query.where(EPISODES.c.peer == pseudonym, EPISODES.c.touched >= since).limit(2)
        with self._database.connection() as connection:
            return list(connection.scalars(query))

    def pseudonym(self, peer: str) -> str:
        """Return what is stored in place of a caller's address, so that a copy of the table identifies nobody."""
        return hashlib.blake2b(peer.encode(errors="replace"), key=self._salt, digest_size=16).hexdigest()

    def foresee(self, row: EpisodeRow) -> None:
        """Store that the episode's future was shown before it was played."""
        with self._database.connection() as connection:
            connection.execute(_foreseen(row))

    def touch(self, row: EpisodeRow, now: float) -> None:
        """Store that an episode was used at `now` (seconds since 1970)."""
        with self._database.connection() as connection:
            connection.execute(update(EPISODES).where(EPISODES.c.key == row.key).values(touched=now))

    def forget_caller(self, session_id: str) -> None:
        """Forget from which address the session's episodes were reset: calls without an id no longer mean it."""
        with self._database.connection() as connection:
            connection.execute(update(EPISODES).where(EPISODES.c.session_id == session_id).values(peer=None))

    def prune(self, before: float, keep: int) -> int:
        """Remove the episodes not used since `before` (seconds since 1970), and the oldest beyond `keep`.

        Past episodes of a session are removed before current ones. Returns the number of removed episodes.
        """
        newer = EPISODES.alias()
        superseded = select(newer.c.key).where(
            newer.c.session_id == EPISODES.c.session_id, newer.c.number > EPISODES.c.number
        )
        removed = self._remove(EPISODES.c.touched < before, None)
        surplus = self.counts()[0] - keep
        for condition in (superseded.exists(), true()):
            if surplus > 0:
                gone = self._remove(condition, surplus)
                removed, surplus = removed + gone, surplus - gone
        return removed

    def counts(self) -> tuple[int, int]:
        """Return the number of stored episodes and of their sessions."""
        query = select(func.count(), func.count(EPISODES.c.session_id.distinct())).select_from(EPISODES)
        with self._database.connection() as connection:
            episodes, sessions = connection.execute(query).one()
        return episodes, sessions

    def close(self) -> None:
        """Close every connection; closing twice is allowed."""
        self._database.close()

    def _remove(self, condition: ColumnElement[bool], most: int | None) -> int:
        """Remove the episodes for which `condition` holds, oldest first, at most `most`, a few per transaction."""
        removed = 0
        while most is None or removed < most:
            batch = _PRUNE_BATCH if most is None else min(_PRUNE_BATCH, most - removed)
            old = select(EPISODES.c.key).where(condition).order_by(EPISODES.c.touched).limit(batch)
            with self._database.transaction() as connection:
                keys = list(connection.scalars(old.with_for_update(skip_locked=True)))
                if keys:
                    connection.execute(delete(STEPS).where(STEPS.c.episode.in_(keys)))
                    connection.execute(delete(EPISODES).where(EPISODES.c.key.in_(keys)))
            removed += len(keys)
            if len(keys) < batch:
                break
        return removed

    def _create(self) -> bytes:
        """Create missing tables, one process at a time; return the salt of the callers' pseudonyms."""
        with self._database.transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            METADATA.create_all(connection)
            _add_missing(connection)
            found = connection.execute(select(STORE)).one_or_none()
            if found is None:
                salt = secrets.token_hex(32)
                connection.execute(insert(STORE), {"format": FORMAT, "salt": salt})
                return bytes.fromhex(salt)
        if found.format != FORMAT:
            raise _cannot_open(f"it has format {found.format}, and this version reads format {FORMAT}")
        return bytes.fromhex(found.salt)

    def _compile_append(self) -> tuple[str, dict[str, Any], tuple[str, ...] | None]:
        """Return the SQL of `append` for the driver, its fixed values, and the order of values if they are positional.

        It is compiled only once, because every step waits for this statement and compiling it would double the time.
        """
        newest = select(EPISODES.c.key).where(EPISODES.c.session_id == bindparam("session"))
        newest = newest.order_by(EPISODES.c.number.desc()).limit(1)
        row = select(*(bindparam(column.name, type_=column.type) for column in STEPS.c))
        row = row.where(bindparam("current", type_=EPISODES.c.key.type) == newest.scalar_subquery())
        compiled = insert(STEPS).from_select(list(STEPS.c), row).compile(dialect=self._database.dialect)
        order = getattr(compiled, "positiontup", None)
        return str(compiled), dict(compiled.params), None if order is None else tuple(order)


def forecasts_of(row: EpisodeRow) -> list[tuple[int, int]]:
    """Return the forecasts of an episode in order: after how many steps, and from which seed."""
    found: list[tuple[int, int]] = [] if row.forecasts is None else from_json(row.forecasts)
    return [(steps, seed) for steps, seed in found]


def forecast_seed(row: EpisodeRow, steps: int, draw: int) -> int:
    """Return the seed of one of the possible futures of an episode after `steps`; never the episode's own seed."""
    text = f"forecast {row.task_id} {row.seed} {steps} {draw}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return seed ^ 1 if seed == row.seed else seed


def _foreseen(row: EpisodeRow) -> Update:
    return update(EPISODES).where(EPISODES.c.key == row.key).values(foresight=True)


def _add_missing(connection: Connection) -> None:
    """Add the columns and indexes of `EPISODES` that an older version did not make."""
    present = {column["name"] for column in inspect(connection).get_columns(EPISODES.name)}
    for column in EPISODES.c:
        if column.name not in present:
            added = CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(text(f"ALTER TABLE {EPISODES.name} ADD COLUMN {added}"))
    for index in EPISODES.indexes:
        index.create(connection, checkfirst=True)


def default_folder() -> Path | None:
    """Return a writable folder for a store that is not configured, creating it if needed; None if there is none."""
    state = os.environ.get("XDG_STATE_HOME")
    try:
        folder = (Path(state) if state else Path.home() / ".local" / "state") / "llmserve"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home folder
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def open_store(settings: Settings) -> EpisodeStore:
    """Return the store that the settings name, else one in the default folder, else one in memory with a warning.

    Raises `SettingsError` if the settings name a store that cannot be opened: a configured store is never replaced.
    """
    if settings.store_url is not None:
        return EpisodeStore(settings.store_url.get_secret_value())
    folder = default_folder()
    if folder is not None:
        return EpisodeStore(URL.create("sqlite", database=str(folder / "episodes.db")))
    _LOGGER.warning("no folder is writable: episodes live in memory and end with this process; set LLMSERVE_STORE_URL")
    return EpisodeStore.in_memory()


def _cannot_open(why: object) -> SettingsError:
    return SettingsError(f"LLMSERVE_STORE_URL: must be a store that can be opened ({why})")
