"""The tables of the episode store and the types of their rows.

An episode is a row of `EPISODES` (session, task, seed, version of the simulator) and a row of `STEPS` per accepted
action. Two unique constraints keep processes that share a store apart: a session's episodes are numbered, an
episode's steps are indexed, and each number can be used once.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = ["EPISODES", "FORMAT", "METADATA", "STEPS", "STORE", "EpisodeRow"]

FORMAT = 1
"""Version of these tables; the server does not start with a store of another version. A column that may be null is added
to an older store, which stays readable to older servers, so it needs no other version."""

METADATA = MetaData()
_KEY = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself only if the type is INTEGER

STORE = Table(
    "llmserve_store",
    METADATA,
    Column("format", Integer, primary_key=True, autoincrement=False),
    Column("salt", String(64), nullable=False),
)
EPISODES = Table(
    "episodes",
    METADATA,
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
    Column("touched", Float(53), nullable=False),
    Column("address", String(64)),
    Column("foresight", Boolean),
    Column("forecasts", Text),
    UniqueConstraint("session_id", "number", name="episodes_fence"),
    Index("episodes_by_id", "episode_id"),
    Index("episodes_by_caller", "peer", "touched"),
    Index("episodes_by_age", "touched"),
    sqlite_autoincrement=True,  # keys are never reused, so a process that is behind cannot write to another episode
)
STEPS = Table(
    "steps",
    METADATA,
    Column("episode", _KEY, ForeignKey("episodes.key"), primary_key=True, autoincrement=False),
    Column("idx", Integer, primary_key=True, autoincrement=False),
    Column("action", Text, nullable=False),
    Column("observation", Text),
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """One row of `EPISODES`, in the order of its columns."""

    key: int
    """Primary key; 0 before the row is stored."""
    session_id: str
    number: int
    """Number of the episode within its session, from 1; the highest is the current one."""
    episode_id: str
    task_id: str
    seed: int
    mode: str
    simulator_version: str
    task_digest: str
    peer: str | None
    """Pseudonym of the caller's address and program, if the caller may come back without a session id."""
    touched: float
    """Time of the last use, in seconds since 1970, exact to a minute."""
    address: str | None = None
    """Pseudonym of the address whose share of the places the session takes; None if it has no share."""
    foresight: bool | None = False
    """Whether a copy of the episode was taken that shares its future; None where nobody wrote it down."""
    forecasts: str | None = None
    """JSON array of ``[steps, seed]``: after so many steps the future was drawn anew from the seed. None: it never was."""
