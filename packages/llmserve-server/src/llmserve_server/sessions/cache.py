"""`SessionCache`: the slots in memory as a cache of the store. The store always decides what an episode contains.

The cache lends a session's slot to one thread at a time, rebuilds episodes that are not in memory, notices what another
process with the same store has done, and begins episodes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from llmserve_server.backends import Backend, BackendFactory
from llmserve_server.errors import Busy, ServiceError, UnknownSession, VersionChanged
from llmserve_server.sessions.slots import Slot, Slots, Transport
from llmserve_server.settings import Settings
from llmserve_server.store.episodes import EpisodeRow, EpisodeStore, forecasts_of
from llmserve_sim import __version__ as simulator_version
from llmserve_sim.errors import LLMServeError
from llmserve_sim.schema import ServeAction

__all__ = ["ATTEMPTS", "Fork", "SessionCache"]

ATTEMPTS = 8
"""Number of times that a call is tried, because another process may be faster."""
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOUCH_INTERVAL_S = 60.0
"""The time of an episode's last use is written to the store at most this often, in seconds."""


@dataclass(frozen=True, slots=True)
class Fork:
    """What a fork has from the session that it is a copy of."""

    origin: EpisodeRow
    """The episode whose steps are copied."""
    last_action: ServeAction | None
    """The last of these steps."""
    foresight: bool | None
    """Whether the fork, or the episode that it is a copy of, shares its future with another one."""
    forecasts: str | None
    """JSON of the forecasts that the fork's future was drawn by; see `EpisodeRow.forecasts`."""


class SessionCache:
    """Slots in memory, each with its session's current episode. `SessionRegistry` explains the arguments."""

    def __init__(
        self,
        settings: Settings,
        store: EpisodeStore,
        backend_factory: BackendFactory,
        monotonic: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._mode = settings.mode
        self._idle_timeout_s = settings.idle_timeout_s
        self._store = store
        self._make_backend = backend_factory
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self.slots = Slots(
            settings.max_concurrent_envs,
            settings.yield_after_s,
            monotonic,
            share=settings.share_per_address,
            strict=settings.share_is_strict,
        )
        self._counts: Counter[str] = Counter()
        self._lock = Lock()

    @contextmanager
    def lend(self, session_id: str, *, load: bool = True, fresh: bool = False) -> Iterator[Slot]:
        """Lend a session's slot to this thread.

        `load` rebuilds its episode if it is not in memory; `fresh` also applies what other processes have done. If the
        caller's block raises anything but a refusal, the state of the backend is unknown, so the slot is dropped.

        Raises `UnknownSession`, `VersionChanged`, `AtCapacity`.
        """
        if type(session_id) is not str:
            raise _unknown()
        while True:
            slot = self.slots.get(session_id) or self._bring_back(session_id)
            with self.slots.held(slot):
                if slot.gone:
                    continue
                slot.used = self._monotonic()
                try:
                    if fresh or (load and slot.backend is None):
                        self.catch_up(slot)
                    self._touch(slot)
                    yield slot
                except ServiceError:
                    raise
                except BaseException:
                    self.slots.drop(slot)
                    raise
                finally:
                    if slot.backend is None:
                        self.slots.drop(slot)
                return

    @contextmanager
    def lend_new(self, session_id: str, transport: Transport, address: str | None) -> Iterator[Slot]:
        """Lend a slot to a new session; the slot is kept if it has an episode afterwards. Raises `AtCapacity`."""
        slot = Slot(session_id, transport=transport, used=self._monotonic(), address=address)
        with self.slots.held(slot):
            self.slots.admit(slot)
            try:
                yield slot
            finally:
                if slot.backend is None:
                    self.slots.drop(slot)

    def catch_up(self, slot: Slot) -> None:
        """Bring a lent slot up to date with the store: load it, or apply the steps of another process."""
        found = self._store.current(slot.id)
        if found is None:
            self.slots.drop(slot)
            raise _unknown()
        row, count = found
        if slot.backend is None:
            self.count("rebuilt")
        elif slot.row is not None and (row.key, count) == (slot.row.key, slot.count):
            slot.row = row  # another session may have been forked from it
            return
        else:
            self.count("fenced")
        backend, last_action = self.rebuild(row)
        _settle(slot, row, backend, last_action)

    def begin(
        self,
        slot: Slot,
        backend: Backend,
        peer: str | None,
        *,
        fork: Fork | None = None,
    ) -> None:
        """Store the episode that `backend` runs, make it the session's current one, and close the previous one.

        `peer` is the pseudonym of a caller who may come back without a session id. Raises `StoreUnavailable`; the
        previous episode then stays current.
        """
        state = backend.state()
        number = 1 if slot.row is None else slot.row.number + 1
        for _ in range(ATTEMPTS):
            row = EpisodeRow(
                key=0,
                session_id=slot.id,
                number=number,
                episode_id=state.episode_id,
                task_id=state.task_id,
                seed=state.seed,
                mode=self._mode,
                simulator_version=state.simulator_version,
                task_digest=state.task_digest,
                peer=peer,
                touched=self._wall_clock(),
                address=slot.address,
                foresight=False if fork is None else fork.foresight,
                forecasts=None if fork is None else fork.forecasts,
            )
            stored = self._store.begin(row, copied=None if fork is None else fork.origin, count=state.step_count)
            if stored is not None:
                _settle(slot, stored, backend, None if fork is None else fork.last_action)
                self.count("episodes")
                return
            self.count("fenced")
            found = self._store.current(slot.id)
            number = 1 if found is None else found[0].number + 1
        raise Busy("other processes keep resetting this session: try again", retry_after_s=1)

    def rebuild(self, row: EpisodeRow) -> tuple[Backend, ServeAction | None]:
        """Return a backend in the state of the stored episode, and the episode's last action.

        Raises `VersionChanged` if this simulator or mode would not reproduce the episode.
        """
        for name, was, now in (
            ("mode", row.mode, self._mode),
            ("simulator version", row.simulator_version, simulator_version),
        ):
            if was != now:
                raise VersionChanged(f"the episode was made in {name} {was}, and this is {now}: reset to start another")
        steps = self._store.steps(row)
        backend = self._make_backend()
        try:
            backend.restore(row.task_id, row.seed, row.episode_id, steps, forecasts_of(row))
            changed = backend.state().task_digest != row.task_digest
        except LLMServeError:  # the task no longer exists, or refuses an action that it accepted then
            changed = True
        except BaseException:
            backend.close()
            raise
        if changed:
            backend.close()
            raise VersionChanged(f"the task {row.task_id} has been redefined since: reset to start another episode")
        return backend, steps[-1].action if steps else None

    def require(self, session_id: str) -> None:
        """Raise `UnknownSession` unless the session is in the store."""
        if not _SESSION_ID.fullmatch(session_id) or self._store.current(session_id) is None:
            raise _unknown()

    def live_since(self) -> float:
        """Return the time of last use from which on a session is not idle, as the store dates it."""
        return self._wall_clock() - self._idle_timeout_s - _TOUCH_INTERVAL_S

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += by

    def counted(self, name: str) -> int:
        """Return a counter."""
        return self._counts[name]

    def _bring_back(self, session_id: str) -> Slot:
        """Return a new slot for a session in the store, without loading its episode."""
        known = _SESSION_ID.fullmatch(session_id) is not None
        found = self._store.current(session_id) if known else None
        if found is None:
            raise _unknown()
        row = found[0]
        slot = Slot(
            session_id, transport="http", used=self._monotonic(), address=row.address, row=row, touched=row.touched
        )
        return self.slots.admit(slot)

    def _touch(self, slot: Slot) -> None:
        now = self._wall_clock()
        if slot.row is not None and now - slot.touched >= _TOUCH_INTERVAL_S:
            self._store.touch(slot.row, now)
            slot.touched = now


def _settle(slot: Slot, row: EpisodeRow, backend: Backend, last_action: ServeAction | None) -> None:
    """Make `backend` the session's backend, and close the previous one."""
    state = backend.state()
    previous = slot.backend
    slot.row, slot.backend, slot.touched = row, backend, row.touched
    slot.count, slot.last_action, slot.done = state.step_count, last_action, state.done
    if previous is not None:
        previous.close()


def _unknown() -> UnknownSession:
    return UnknownSession(
        "there is no such session, or it is too old to be kept: reset without a session_id to start one",
        field="session_id",
    )
