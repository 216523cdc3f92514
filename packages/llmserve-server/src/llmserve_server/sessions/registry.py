"""`SessionRegistry`: the sessions of the server, each one episode after another. Start reading the server here.

Every accepted step is stored before it is answered, so memory is only a cache. A session that is not in memory is
rebuilt from the store when it is next used, by this process or another one with the same store. The registry is
synchronous and thread-safe. It does not depend on HTTP, WebSockets or OpenEnv, nor on the kind of backend.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmserve_agents.tools.forecasting import Forecast
from llmserve_server.backends import Backend, BackendFactory
from llmserve_server.callers.callers import Callers
from llmserve_server.errors import (
    AmbiguousSession,
    Busy,
    EpisodeState,
    StepConflict,
    to_service_error,
)
from llmserve_server.sessions.cache import ATTEMPTS, Fork, SessionCache
from llmserve_server.sessions.grading import Grader, shows_future
from llmserve_server.sessions.refusals import check_text, invalid, refusals
from llmserve_server.sessions.slots import Slot, Transport
from llmserve_server.sessions.types import OpenSession, RegistryStats, Reply
from llmserve_server.settings import Settings
from llmserve_server.store.episodes import EpisodeStore, forecast_seed, forecasts_of
from llmserve_sim.errors import LLMServeError
from llmserve_sim.schema import (
    EpisodeLog,
    GradeReport,
    ServeAction,
    ServeState,
    parse_action,
)

__all__ = ["DEFAULT_TASK", "OpenSession", "RegistryStats", "Reply", "SessionRegistry", "Transport"]

DEFAULT_TASK = "static_workload"
"""The task of a reset that names none."""


class SessionRegistry:
    """The sessions of one process.

    Args:
        settings: the mode, and the limits of sessions, idle time, retention and logs.
        store: stores the episodes; other processes may share it.
        backend_factory: makes the backend of an episode.
        monotonic, wall_clock: seconds; the first measures idle times, the second dates rows.
        new_id: makes unguessable session ids.

    Every method raises a `ServiceError` if it refuses the call; the session is unchanged then. Any other exception is a
    defect: its session is removed from memory, and the next call rebuilds it from the store.
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
        self._cache = SessionCache(settings, store, backend_factory, monotonic, wall_clock)
        self._slots = self._cache.slots
        self._grader = Grader(settings, store, self._cache, backend_factory)
        self.callers = Callers(settings)
        """Tells who calls."""

    def reset(
        self,
        task_id: str | None = None,
        seed: int | None = None,
        episode_id: str | None = None,
        session_id: str | None = None,
        *,
        resume: bool = False,
        peer: str | None = None,
        address: str | None = None,
        transport: Transport = "http",
        new_session_id: str | None = None,
    ) -> Reply:
        """Start an episode in a new session or in the one named; with `resume`, continue the named session's episode.

        Without a task, `DEFAULT_TASK` is started; without a seed, one of the task's training seeds is drawn (`state`
        tells which). `peer` identifies a caller who may come back without a session id, see `resolve`. A new session
        counts towards the share of slots of `address`. Its id is made here, or is `new_session_id`, which the server has
        made: a session that the caller names must exist.

        Raises `UnknownSession`, `UnknownTask`, `InvalidField`, `AtCapacity`.
        """
        check_text(task_id=task_id, episode_id=episode_id, session_id=session_id)
        if resume:
            return self._resume(session_id, task_id=task_id, seed=seed, episode_id=episode_id)
        cache = self._cache
        with (
            cache.lend_new(new_session_id or self._new_id(), transport, self._pseudonym(address))
            if session_id is None
            else cache.lend(session_id, load=False) as slot
        ):
            backend = self._make_backend()
            try:
                with refusals():
                    observation = backend.reset(
                        DEFAULT_TASK if task_id is None else task_id,
                        seed,
                        uuid.uuid4().hex if episode_id is None else episode_id,
                    )
                cache.begin(slot, backend, self._pseudonym(peer))
            except BaseException:
                backend.close()
                raise
            slot.transport = transport
            return Reply(slot.id, observation)

    def step(
        self, session_id: str, action: ServeAction | Mapping[str, object], *, step_index: int | None = None
    ) -> Reply:
        """Run one window and store it before answering.

        `step_index` is the index of the observation that the action answers. If that is the last observation, the
        step is applied. If it is the one before and the last step had the same action, its reply is repeated.
        Otherwise `StepConflict` is raised. Without `step_index` the step is always applied.

        Raises `InvalidField`, and `EpisodeState` after the end.
        """
        if type(action) is not ServeAction:
            with refusals():
                action = parse_action(action)
        if step_index is not None and (type(step_index) is not int or step_index < 0):
            raise invalid("step_index", "must be an integer of at least 0", got=step_index)
        for _ in range(ATTEMPTS):
            with self._cache.lend(session_id) as slot:
                reply = self._apply(slot, action, step_index)
                if reply is not None:
                    return reply
        raise Busy("other processes keep stepping this session: try again", retry_after_s=1)

    def is_idle(self, session_id: str) -> bool:
        """Return whether the session is in memory and not in use, so a step would not wait. It may change any time."""
        slot = self._slots.get(session_id)
        return slot is not None and slot.backend is not None and not slot.lock.locked()

    def is_busy(self, session_id: str) -> bool:
        """Return whether the session is in use. It may change at any time."""
        slot = self._slots.get(session_id)
        return slot is not None and slot.lock.locked()

    def observation(self, session_id: str) -> Reply:
        """Return the last observation again."""
        with self._cache.lend(session_id, fresh=True) as slot:
            return Reply(slot.id, _backend(slot).observation())

    def state(self, session_id: str) -> ServeState:
        """Return the state of the session's episode."""
        with self._cache.lend(session_id, fresh=True) as slot:
            return _backend(slot).state()

    def log(self, session_id: str) -> EpisodeLog:
        """Return the log of the session's current episode, for the grader."""
        with self._cache.lend(session_id, fresh=True) as slot:
            return _backend(slot).log()

    def fork(
        self,
        session_id: str,
        *,
        draw: int = 0,
        peer: str | None = None,
        address: str | None = None,
        transport: Transport = "http",
    ) -> Reply:
        """Return a new session with a copy of this one's episode.

        The copy shares this one's future if the episode's seed is a training seed, or if the settings allow it for all;
        both episodes then have `foresight`. Otherwise its future is drawn anew, given what has been observed: the same
        `draw` at the same window draws the same future.

        Raises `NotForkable`, `AtCapacity`.
        """
        with self._cache.lend(session_id, fresh=True) as slot, refusals():
            assert slot.row is not None
            row, count = slot.row, slot.count
            is_open = shows_future(self._settings, row.task_id, row.seed)
            seed = None if is_open or slot.done else forecast_seed(row, count, draw)
            fork = _backend(slot).fork(forecast=seed)
            foresight = True if is_open and not slot.done else row.foresight  # at the end there is no future to see
            forecasts = row.forecasts if seed is None else json.dumps([*forecasts_of(row), (count, seed)])
            origin = Fork(row, slot.last_action, foresight, forecasts)
        try:
            with self._cache.lend_new(self._new_id(), transport, self._pseudonym(address)) as slot:
                self._cache.begin(slot, fork, self._pseudonym(peer), fork=origin)
                return Reply(slot.id, fork.observation())
        except BaseException:
            fork.close()
            raise

    def foresee(self, session_id: str) -> None:
        """Record that the future of the session's episode has been shown: its grade then says so."""
        with self._cache.lend(session_id, fresh=True) as slot:
            assert slot.row is not None
            self._store.foresee(slot.row)

    @property
    def can_forecast(self) -> bool:
        """Whether `forecast` works: a real endpoint has no future to draw."""
        return self._settings.mode == "sim"

    def forecast(self, session_id: str, plan: Sequence[ServeAction]) -> Forecast:
        """Simulate a plan on drawn futures of the session's episode, which stays as it is; raises `NotForkable`."""
        with self._cache.lend(session_id, fresh=True) as slot, refusals():
            return _backend(slot).forecast(plan)

    def grade(
        self,
        session_id: str | None = None,
        episode_id: str | None = None,
        log: EpisodeLog | Mapping[str, Any] | str | bytes | None = None,
    ) -> GradeReport:
        """Grade `log` if given; else the episode `episode_id`; else the session's current episode.

        If the named session has an episode with that id, it is the one; without it, an id that the server made is enough.
        Raises `UnknownEpisode`, `AmbiguousEpisode` if several other sessions have that id, `TooLarge`, `InvalidField`.
        """
        check_text(episode_id=episode_id, session_id=session_id)
        with refusals():
            return self._grader.grade(session_id, episode_id, log)

    def resolve(self, peer: str, *, is_local: bool = True) -> str:
        """Return the session of a caller on this machine who names none and has only one.

        A session is the caller's from its reset until it is closed, or idle for `Settings.idle_timeout_s`. Raises
        `EpisodeState` if there is none, and `AmbiguousSession` if there are several, or if the caller is not on this
        machine: behind an address of the network there may be strangers.
        """
        found = self._store.sessions_of(self._store.pseudonym(peer), self._cache.live_since())
        if not found:
            raise EpisodeState("there is no episode: reset first, and send the session_id that reset returns")
        if len(found) > 1 or not is_local:
            why = "several sessions are in use from this address" if is_local else "the call names no session"
            remedy = "send the session_id that reset returned, or close the sessions that are done with"
            raise AmbiguousSession(f"{why}: {remedy}", field="session_id")
        return found[0]

    def close(self, session_id: str) -> None:
        """Remove a session from memory, now or after its running call, without waiting. Closing twice is allowed.

        It stays in the store and is rebuilt when it is used again.
        """
        slot = self._slots.get(session_id)
        if slot is not None:
            self._slots.drop_when_free(slot)

    def leave(self, session_id: str) -> None:
        """Close a session at its caller's wish, and forget who began it. Raises `UnknownSession`.

        Its place is free at once, or after its running call. It stays in the store and goes on when its id is used.
        """
        self._cache.require(session_id)
        self.close(session_id)
        self._store.forget_caller(session_id)

    def open_sessions(self) -> list[OpenSession]:
        """Return the sessions in memory, in no particular order."""
        now = self._monotonic()
        return [
            OpenSession(slot.id, slot.transport, row.task_id, slot.count, now - slot.used)
            for slot in self._slots.all()
            if (row := slot.row) is not None
        ]

    def stats(self) -> RegistryStats:
        """Return the counts so far."""
        names = ("episodes", "steps", "repeated", "rebuilt", "fenced", "pruned")
        counts = {name: self._cache.counted(name) for name in names}
        slots = self._slots
        return RegistryStats(
            live=len(slots), places=slots.capacity, dropped=slots.dropped, refused=slots.refused, **counts
        )

    def reap(self) -> None:
        """Remove idle sessions from memory and old episodes from the store. Call it about every minute."""
        self._slots.drop_idle(self._settings.idle_timeout_s)
        before = self._wall_clock() - self._settings.retention_s
        self._cache.count("pruned", self._store.prune(before, self._settings.max_stored_episodes))

    def shutdown(self) -> None:
        """Remove every session from memory, each after its running call, and close the store."""
        for slot in self._slots.all():
            with slot.lock:
                self._slots.drop(slot)
        self._store.close()

    def _resume(self, session_id: str | None, **given: object) -> Reply:
        if session_id is None:
            raise invalid("session_id", "is required with resume")
        for name, value in given.items():
            if value is not None:
                raise invalid(name, "must be left out with resume, which goes on with the episode as it is", got=value)
        return self.observation(session_id)

    def _apply(self, slot: Slot, action: ServeAction, step_index: int | None) -> Reply | None:
        """Apply a step or repeat its reply. None if another process was faster; the session has left memory then."""
        if slot.done or (step_index is not None and step_index != slot.count):
            self._cache.catch_up(slot)
        if step_index is not None and step_index != slot.count:
            if step_index == slot.count - 1 and action == slot.last_action:
                self._cache.count("repeated")
                return Reply(slot.id, _backend(slot).observation(), repeated=True)
            raise StepConflict(
                f"step_index: the last observation is {slot.count}, and this step answers {step_index}: "
                "read the state and go on from there",
                field="step_index",
                bound=str(slot.count),
            )
        if slot.done:
            raise EpisodeState(f"the episode ended after {slot.count} steps: reset first", code="episode_done")
        backend = _backend(slot)
        try:
            observation = backend.step(action)
        except LLMServeError as error:
            raise to_service_error(error) from error
        kept = None if backend.replayable else observation.model_dump_json()
        assert slot.row is not None
        try:
            first = self._store.append(slot.row, slot.count, action.model_dump_json(), kept)
        except BaseException:  # the backend has taken a step that the store does not have
            self._slots.drop(slot)
            raise
        if not first:
            self._slots.drop(slot)
            self._cache.count("fenced")
            return None
        slot.count += 1
        slot.last_action = action
        slot.done = observation.done
        self._cache.count("steps")
        return Reply(slot.id, observation)

    def _pseudonym(self, caller: str | None) -> str | None:
        return None if caller is None else self._store.pseudonym(caller)


def _backend(slot: Slot) -> Backend:
    assert slot.backend is not None
    return slot.backend
