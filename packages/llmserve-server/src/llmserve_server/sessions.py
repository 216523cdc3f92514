"""`SessionRegistry`: the sessions of the server, each one episode after another. Start reading the server here.

A session is a place in memory (a backend and a lock) in front of rows in the store. Every accepted step is stored before
it is answered, so memory is only a cache: a session that is not in it is rebuilt from the store when it is next used, in
this process or in another one that shares the store. The registry is synchronous and thread-safe. It knows nothing of
HTTP, WebSockets or OpenEnv, and nothing of what a backend does.
"""

from __future__ import annotations

import math
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Literal

from llmserve_server.backends import Backend, BackendFactory
from llmserve_server.errors import (
    AmbiguousEpisode,
    AmbiguousSession,
    AtCapacity,
    Busy,
    EpisodeState,
    InvalidField,
    ServiceError,
    StepConflict,
    TooLarge,
    UnknownEpisode,
    UnknownSession,
    VersionChanged,
    of,
)
from llmserve_server.settings import Settings
from llmserve_server.store import EpisodeRow, EpisodeStore
from llmserve_sim import __version__ as simulator_version
from llmserve_sim.errors import LLMServeError
from llmserve_sim.schema import (
    EpisodeLog,
    GradeReport,
    ServeAction,
    ServeObservation,
    ServeState,
    parse_action,
    parse_log,
)

__all__ = ["DEFAULT_TASK", "OpenSession", "RegistryStats", "Reply", "SessionRegistry", "Transport"]

DEFAULT_TASK = "static_workload"
"""What a reset starts that names no task."""
Transport = Literal["http", "websocket", "page"]
_TOUCH_INTERVAL_S = 60.0
"""How exact the store's notion of an episode's last use is."""
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ATTEMPTS = 8
"""How often a call is tried again because another process was faster."""
_MAX_PEERS = 10_000
"""Callers without a session id that are remembered for telling one caller from several."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An observation and the session that it belongs to."""

    session_id: str
    observation: ServeObservation
    repeated: bool = False
    """The step had been applied before; this is its answer again."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session in memory, for people who watch the server. The id is the key to it: never show it."""

    session_id: str
    transport: Transport
    task_id: str
    steps: int
    idle_s: float


@dataclass(slots=True)
class RegistryStats:
    """What the registry did since it was made."""

    episodes: int = 0
    steps: int = 0
    repeated: int = 0
    """Steps answered again."""
    rebuilt: int = 0
    """Sessions brought back from the store."""
    dropped: int = 0
    """Sessions that left memory for want of use."""
    fenced: int = 0
    """Calls that found that another process had been faster."""
    refused_at_capacity: int = 0
    pruned: int = 0
    """Episodes removed from the store by age."""


@dataclass(slots=True, eq=False)
class _Session:
    """A place in memory. `lock` guards everything below it; `gone` says that the place is no longer the session's."""

    id: str
    transport: Transport
    used: float
    """On the monotonic clock, seconds."""
    lock: Lock = field(default_factory=Lock)
    gone: bool = False
    row: EpisodeRow | None = None
    """The current episode; None until it is loaded."""
    backend: Backend | None = None
    count: int = 0
    """Accepted steps."""
    last_action: ServeAction | None = None
    touched: float = 0.0
    """When the store was last told that the episode is in use, on the wall clock, seconds."""
    done: bool = False


@dataclass(slots=True)
class _Caller:
    """A caller known by its address only."""

    last: str
    """The session that was reset last from there."""
    several: bool = False
    """Another session from there was stepped since: more than one caller shares the address."""


class SessionRegistry:
    """The sessions of one process.

    Args:
        settings: limits (`max_concurrent_envs`, `idle_timeout_s`, `yield_after_s`, `retention_s`, `max_log_steps`) and mode.
        store: where episodes are kept; other processes may share it.
        backend_factory: makes what an episode runs on.
        monotonic, wall_clock: seconds; the first measures idleness, the second dates rows.
        new_id: makes unguessable session ids.

    Every method raises `ServiceError` where it refuses, and then nothing has changed. Any other exception is a defect; the
    session it met leaves memory and is rebuilt from the store by the next call.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: EpisodeStore,
        backend_factory: BackendFactory,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(24),
    ) -> None:
        self._settings = settings
        self._store = store
        self._make_backend = backend_factory
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._new_id = new_id
        self._lock = Lock()
        """Guards the two tables and the counters. Whoever holds it waits for no session's lock."""
        self._sessions: dict[str, _Session] = {}
        self._callers: dict[str, _Caller] = {}
        self._stats = RegistryStats()

    def reset(
        self,
        task_id: str | None = None,
        seed: int | None = None,
        episode_id: str | None = None,
        session_id: str | None = None,
        *,
        resume: bool = False,
        peer: str | None = None,
        transport: Transport = "http",
    ) -> Reply:
        """Start an episode in a new session, or in the one named; with `resume` go on with the one that runs there.

        Without a task `DEFAULT_TASK` is started, without a seed one of the task's training seeds is drawn (see `state`).
        `peer` is the address of a caller who may come back without a session id; see `resolve`. Raises `UnknownSession`,
        `UnknownTask`, `InvalidField`, `AtCapacity`.
        """
        if resume:
            return self._resume(session_id, task_id=task_id, seed=seed, episode_id=episode_id)
        if episode_id is not None and "\0" in episode_id:
            raise InvalidField(
                "episode_id: must hold no NUL character", field="episode_id", bound="must hold no NUL character"
            )
        place = self._new_place(transport) if session_id is None else self._hold(session_id, load=False)
        with place as session:
            backend = self._make_backend()
            try:
                with _refusals():
                    observation = backend.reset(
                        DEFAULT_TASK if task_id is None else task_id,
                        seed,
                        uuid.uuid4().hex if episode_id is None else episode_id,
                    )
                self._begin(session, backend, peer)
            except BaseException:
                backend.close()
                raise
            session.transport = transport
            self._add("episodes")
            return Reply(session.id, observation)

    def step(
        self, session_id: str, action: ServeAction | Mapping[str, object], *, step_index: int | None = None
    ) -> Reply:
        """Run one window and store it before answering.

        `step_index` is that of the observation that the action answers. Where it is the last one the step is applied; where
        the same action answered it before and nothing came after, that answer is given again; else `StepConflict`. Without
        it the step is applied to whatever is last. Raises `InvalidField`, `EpisodeState` after the end.
        """
        with _refusals():
            action = parse_action(action)
        if step_index is not None and (type(step_index) is not int or step_index < 0):
            raise InvalidField(
                f"step_index: must be an integer of at least 0, got {step_index!r:.80}",
                field="step_index",
                bound=">= 0",
            )
        for _ in range(_ATTEMPTS):
            with self._hold(session_id) as session:
                reply = self._apply(session, action, step_index)
                if reply is not None:
                    return reply
        raise Busy("other processes keep stepping this session: try again", retry_after_s=1)

    def observation(self, session_id: str) -> Reply:
        """Return the last observation again."""
        with self._hold(session_id, fresh=True) as session:
            return Reply(session.id, _running(session).observation())

    def state(self, session_id: str) -> ServeState:
        """Return where the session's episode stands."""
        with self._hold(session_id, fresh=True) as session:
            return _running(session).state()

    def log(self, session_id: str) -> EpisodeLog:
        """Return the session's current episode as evidence for the grader."""
        with self._hold(session_id, fresh=True) as session:
            return _running(session).log()

    def fork(self, session_id: str, *, peer: str | None = None, transport: Transport = "http") -> Reply:
        """Return a new session that goes on from where this one stands; raises `NotForkable`, `AtCapacity`."""
        with self._hold(session_id, fresh=True) as session, _refusals():
            twin = _running(session).fork()
            row, last_action = session.row, session.last_action
        try:
            with self._new_place(transport) as place:
                steps = [] if row is None else self._store.raw_steps(row)[: twin.state().step_count]
                self._begin(place, twin, peer, steps, last_action)
                self._add("episodes")
                return Reply(place.id, twin.observation())
        except BaseException:
            twin.close()
            raise

    def grade(
        self,
        session_id: str | None = None,
        episode_id: str | None = None,
        log: EpisodeLog | Mapping[str, Any] | str | bytes | None = None,
    ) -> GradeReport:
        """Grade a log; else an episode by its id (the named session's own first); else the session's current episode.

        Raises `UnknownEpisode`, `AmbiguousEpisode` where several sessions have that id, `TooLarge`, `InvalidField`.
        """
        if log is not None:
            with _refusals():
                log = parse_log(log)
            if len(log.steps) > self._settings.max_log_steps:
                raise TooLarge(
                    f"episode_log.steps: must be at most {self._settings.max_log_steps}, has {len(log.steps)}",
                    field="episode_log.steps",
                    bound=f"at most {self._settings.max_log_steps}",
                )
            backend = self._make_backend()
        elif episode_id is not None:
            backend = self._rebuild(self._find(episode_id, session_id))[0]
            log = backend.log()
        elif session_id is not None:
            with self._hold(session_id, fresh=True) as session:
                log = _running(session).log()
            backend = self._make_backend()
        else:
            raise EpisodeState("there is no episode to grade: name a session or an episode, send a log, or reset first")
        try:
            with _refusals():
                return backend.grade(log)
        finally:
            backend.close()

    def resolve(self, peer: str) -> str:
        """Return the session that a caller known by address only means: the one reset last from there.

        Raises `EpisodeState` where there is none, and `AmbiguousSession` where another session from that address has been
        stepped since: then several callers share it.
        """
        name = self._store.pseudonym(peer)
        last = self._store.last_session(name)
        if last is None:
            raise EpisodeState("there is no episode: reset first, or name the session")
        with self._lock:
            caller = self._callers.get(name)
        if caller is not None and caller.several and caller.last == last:
            raise AmbiguousSession(
                "several sessions are in use from this address: send session_id (or the X-Session-Id header)",
                field="session_id",
            )
        return last

    def close(self, session_id: str) -> None:
        """Let the session leave memory; it is still in the store and comes back when it is used."""
        with self._lock:
            session = self._sessions.get(session_id)
        if session is not None:
            with session.lock:
                self._drop(session)

    def open_sessions(self) -> list[OpenSession]:
        """Return the sessions in memory, in no particular order."""
        with self._lock:
            sessions = list(self._sessions.values())
        now = self._monotonic()
        return [
            OpenSession(session.id, session.transport, row.task_id, session.count, now - session.used)
            for session in sessions
            if (row := session.row) is not None
        ]

    def stats(self) -> RegistryStats:
        """Return a copy of the counters."""
        with self._lock:
            return replace(self._stats)

    def reap(self) -> None:
        """Let idle sessions leave memory and old episodes leave the store. To be called every minute or so."""
        idle_since = self._monotonic() - self._settings.idle_timeout_s
        with self._lock:
            idle = [session for session in self._sessions.values() if session.used <= idle_since]
        for session in idle:
            if session.lock.acquire(blocking=False):
                try:
                    if not session.gone and session.used <= idle_since:
                        self._drop(session)
                        self._add("dropped")
                finally:
                    session.lock.release()
        self._add("pruned", self._store.prune(self._wall_clock() - self._settings.retention_s))

    def shutdown(self) -> None:
        """Let every session leave memory and close the store, each after the step it is in."""
        with self._lock:
            sessions = list(self._sessions)
        for session_id in sessions:
            self.close(session_id)
        self._store.close()

    def _resume(self, session_id: str | None, **given: object) -> Reply:
        if session_id is None:
            raise InvalidField(
                "session_id: is required with resume", field="session_id", bound="is required with resume"
            )
        for name, value in given.items():
            if value is not None:
                raise InvalidField(
                    f"{name}: must be left out with resume, which goes on with the episode as it is",
                    field=name,
                    bound="must be left out with resume",
                )
        return self.observation(session_id)

    def _apply(self, session: _Session, action: ServeAction, step_index: int | None) -> Reply | None:
        """Apply a step, or answer it again; None where another process was faster and the session has left memory."""
        if session.done or (step_index is not None and step_index != session.count):
            self._catch_up(session)
        if step_index is not None and step_index != session.count:
            if step_index == session.count - 1 and action == session.last_action:
                self._add("repeated")
                return Reply(session.id, _running(session).observation(), repeated=True)
            raise StepConflict(
                f"step_index: the last observation is {session.count}, and this step answers {step_index}: "
                "read the state and go on from there",
                field="step_index",
                bound=str(session.count),
            )
        if session.done:
            raise EpisodeState(f"the episode ended after {session.count} steps: reset first", code="episode_done")
        backend = _running(session)
        with _refusals():
            observation = backend.step(action)
        kept = None if backend.replayable else observation.model_dump_json()
        try:
            stored = self._store.append(_row(session), session.count, action.model_dump_json(), kept)
        except BaseException:
            self._drop(session)
            raise
        if not stored:
            self._drop(session)
            self._add("fenced")
            return None
        session.count += 1
        session.last_action = action
        session.done = observation.done
        self._add("steps")
        self._notice_caller(_row(session).peer, session.id)
        return Reply(session.id, observation)

    def _begin(
        self,
        session: _Session,
        backend: Backend,
        peer: str | None,
        steps: list[tuple[str, str | None]] | None = None,
        last_action: ServeAction | None = None,
    ) -> None:
        """Store the episode that `backend` runs and make it the session's current one."""
        state = backend.state()
        now = self._wall_clock()
        name = None if peer is None else self._store.pseudonym(peer)
        number = 1 if session.row is None else session.row.number + 1
        for _ in range(_ATTEMPTS):
            row = self._store.begin(
                EpisodeRow(
                    key=0,
                    session_id=session.id,
                    number=number,
                    episode_id=state.episode_id,
                    task_id=state.task_id,
                    seed=state.seed,
                    mode=self._settings.mode,
                    simulator_version=state.simulator_version,
                    task_digest=state.task_digest,
                    peer=name,
                    created=now,
                    touched=now,
                ),
                steps or [],
            )
            if row is not None:
                break
            self._add("fenced")
            found = self._store.current(session.id)
            number = 1 if found is None else found[0].number + 1
        else:
            raise Busy("other processes keep resetting this session: try again", retry_after_s=1)
        if session.backend is not None:
            session.backend.close()
        session.row, session.backend, session.touched = row, backend, now
        session.count, session.last_action, session.done = state.step_count, last_action, state.done
        if name is not None:
            with self._lock:
                self._callers.pop(name, None)
                self._callers[name] = _Caller(session.id)
                while len(self._callers) > _MAX_PEERS:
                    del self._callers[next(iter(self._callers))]

    @contextmanager
    def _hold(self, session_id: str, *, load: bool = True, fresh: bool = False) -> Iterator[_Session]:
        """Lend a session's place to one thread; `load` brings its episode back, `fresh` up to date with other processes."""
        while True:
            session = self._sessions.get(session_id) or self._place_of(session_id)
            with session.lock:
                if session.gone:
                    continue
                session.used = self._monotonic()
                try:
                    if load and session.backend is None:
                        self._catch_up(session)
                        self._add("rebuilt")
                    elif fresh:
                        self._catch_up(session)
                    if session.row is not None and self._wall_clock() - session.touched >= _TOUCH_INTERVAL_S:
                        session.touched = self._wall_clock()
                        self._store.touch([session.row.key], session.touched)
                    yield session
                except ServiceError:
                    raise
                except BaseException:  # a defect or an interrupt: nobody knows where the backend stands
                    self._drop(session)
                    raise
                finally:
                    if session.backend is None:
                        self._drop(session)
                return

    def _place_of(self, session_id: str) -> _Session:
        """Make a place for a session that the store knows."""
        if _SESSION_ID.fullmatch(session_id) is None or (found := self._store.current(session_id)) is None:
            raise UnknownSession(
                "there is no such session (or it is too old to be kept): reset without a session_id to start one",
                field="session_id",
            )
        place = _Session(session_id, transport="http", used=self._monotonic())
        place.row, place.touched = found[0], found[0].touched
        return self._admit(place)

    @contextmanager
    def _new_place(self, transport: Transport) -> Iterator[_Session]:
        """Lend a place to a session that begins; it stays if it has an episode afterwards."""
        session = _Session(self._new_id(), transport=transport, used=self._monotonic())
        with session.lock:
            self._admit(session)
            try:
                yield session
            finally:
                if session.backend is None:
                    self._drop(session)

    def _admit(self, session: _Session) -> _Session:
        """Put a place into the table, dropping the one idle for longest where the table is full."""
        idle = None
        with self._lock:
            present = self._sessions.get(session.id)
            if present is not None:
                return present
            if len(self._sessions) >= self._settings.max_concurrent_envs:
                idle = self._take_idle()
                del self._sessions[idle.id]
            self._sessions[session.id] = session
        if idle is not None:
            try:
                self._drop(idle)
                self._add("dropped")
            finally:
                idle.lock.release()
        return session

    def _take_idle(self) -> _Session:
        """Return the session idle for longest, locked; raises `AtCapacity` where none has been idle for long enough."""
        now = self._monotonic()
        wait_s = self._settings.yield_after_s
        for session in sorted(self._sessions.values(), key=lambda session: session.used):
            idle_s = now - session.used
            if idle_s < self._settings.yield_after_s:
                wait_s = self._settings.yield_after_s - idle_s
                break
            if session.lock.acquire(blocking=False):
                return session
        self._stats.refused_at_capacity += 1
        raise AtCapacity(
            f"all {self._settings.max_concurrent_envs} sessions are in use: try again later",
            retry_after_s=max(1, math.ceil(wait_s)),
        )

    def _catch_up(self, session: _Session) -> None:
        """Bring the place up to date with the store, where another process may have gone on."""
        found = self._store.current(session.id)
        if found is None:
            self._drop(session)
            raise UnknownSession("the session is too old to be kept: reset to start another", field="session_id")
        row, count = found
        if session.backend is not None and session.row is not None:
            if (row.key, count) == (session.row.key, session.count):
                return
            self._add("fenced")
        backend, last_action = self._rebuild(row)
        if session.backend is not None:
            session.backend.close()
        state = backend.state()
        session.row, session.backend, session.touched = row, backend, row.touched
        session.count, session.last_action, session.done = state.step_count, last_action, state.done

    def _rebuild(self, row: EpisodeRow) -> tuple[Backend, ServeAction | None]:
        """Return a backend that stands where the stored episode stands, and the episode's last action."""
        if row.mode != self._settings.mode:
            raise VersionChanged(
                f"the episode was started in {row.mode} mode, and this server runs in {self._settings.mode} mode: "
                "reset to start another"
            )
        if row.simulator_version != simulator_version:
            raise VersionChanged(
                f"the episode was made by simulator version {row.simulator_version}, and this is {simulator_version}: "
                "reset to start another"
            )
        steps = self._store.steps(row)
        backend = self._make_backend()
        try:
            backend.restore(row.task_id, row.seed, row.episode_id, steps)
            changed = backend.state().task_digest != row.task_digest
        except LLMServeError:  # a task that is gone, or an action that the present definition refuses
            changed = True
        if changed:
            backend.close()
            raise VersionChanged(
                f"the task {row.task_id} is no longer defined as it was when the episode was made: reset to start another"
            )
        return backend, steps[-1].action if steps else None

    def _find(self, episode_id: str, session_id: str | None) -> EpisodeRow:
        """Return the episode of that id: the session's own if it has one, else the only session's that has one."""
        usable = 1 <= len(episode_id) <= 200 and "\0" not in episode_id and episode_id.isprintable()
        own = self._store.episodes(episode_id, session_id) if usable and session_id is not None else []
        rows = own or (self._store.episodes(episode_id) if usable else [])
        if not rows:
            raise UnknownEpisode("there is no such episode (or it is too old to be kept)", field="episode_id")
        if len({row.session_id for row in rows}) > 1:
            raise AmbiguousEpisode(
                "several sessions have an episode of that id: send session_id too", field="session_id"
            )
        return rows[0]

    def _drop(self, session: _Session) -> None:
        """Take a place (whose lock is held) out of memory; dropping it twice is allowed."""
        session.gone = True
        with self._lock:
            if self._sessions.get(session.id) is session:
                del self._sessions[session.id]
        backend, session.backend = session.backend, None
        if backend is not None:
            backend.close()

    def _notice_caller(self, peer: str | None, session_id: str) -> None:
        """Notice that a session is stepped after another one was reset from the same address."""
        caller = None if peer is None else self._callers.get(peer)
        if caller is not None and caller.last != session_id:
            caller.several = True

    def _add(self, counter: str, by: int = 1) -> None:
        with self._lock:
            setattr(self._stats, counter, getattr(self._stats, counter) + by)


@contextmanager
def _refusals() -> Iterator[None]:
    """Say the simulator's refusals as the server's."""
    try:
        yield
    except LLMServeError as error:
        raise of(error) from error


def _running(session: _Session) -> Backend:
    assert session.backend is not None
    return session.backend


def _row(session: _Session) -> EpisodeRow:
    assert session.row is not None
    return session.row
