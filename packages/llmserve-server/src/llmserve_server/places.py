"""`Places`: the sessions in memory, at most so many, each behind a lock. Knows nothing of stores or of what an episode is.

A place is lent to one thread at a time. Because a session can be rebuilt, a place may be taken from one that is idle; who
waited for its lock meanwhile finds it `gone` and asks again. The order of locks: a place's, then the table's; nobody who
holds the table's lock waits for a place's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from llmserve_server.backends import Backend
from llmserve_server.errors import AtCapacity
from llmserve_server.tables import EpisodeRow
from llmserve_sim.schema import ServeAction

__all__ = ["Place", "Places", "Transport"]

Transport = Literal["http", "websocket", "page"]


@dataclass(slots=True, eq=False)
class Place:
    """A session's place in memory; everything below `lock` is read and written by its holder only."""

    id: str
    transport: Transport
    used: float
    """When it was last lent, on the registry's monotonic clock, in seconds."""
    address: str | None = None
    """Who began the session here; None where that is not known."""
    lock: Lock = field(default_factory=Lock)
    gone: bool = False
    """The place is no longer the session's."""
    unwanted: bool = False
    """Whoever holds `lock` takes the place out of memory after giving it back; may be set by anyone."""
    row: EpisodeRow | None = None
    """The episode that `backend` runs."""
    backend: Backend | None = None
    """None until the episode is loaded, and once the place is gone."""
    count: int = 0
    """Accepted steps."""
    last_action: ServeAction | None = None
    done: bool = False
    touched: float = 0.0
    """When the store was last told that the episode is in use, on the wall clock, in seconds."""


class Places:
    """The table of places.

    Args:
        capacity: places at most.
        share: places at most of one address; None where they may take what they like.
        yield_after_s: at capacity, a session that nobody used for this long makes room, the idlest first.
        monotonic: the clock of `Place.used`, in seconds.
    """

    def __init__(
        self, capacity: int, yield_after_s: float, monotonic: Callable[[], float], *, share: int | None = None
    ) -> None:
        self._capacity = capacity
        self._share = share
        self._yield_after_s = yield_after_s
        self._monotonic = monotonic
        self._lock = Lock()
        self._places: dict[str, Place] = {}
        self.dropped = 0
        """Sessions that left memory for want of use."""
        self.refused = 0
        """Sessions for which there was no place."""

    def __len__(self) -> int:
        return len(self._places)

    def get(self, session_id: str) -> Place | None:
        """Return the session's place, if it has one."""
        return self._places.get(session_id)

    def all(self) -> list[Place]:
        """Return every place, in no particular order."""
        with self._lock:
            return list(self._places.values())

    def admit(self, place: Place) -> Place:
        """Put `place` into the table and return it, or the place that its session has already.

        Raises `AtCapacity` where all places, or its address's share of them, are taken and none has been idle for long enough.
        """
        idle = None
        with self._lock:
            present = self._places.get(place.id)
            if present is not None:
                return present
            own = self._of(place.address)
            if self._share is not None and len(own) >= self._share:
                idle = self._take_idlest(own, f"{len(own)} sessions of this address are in use, which is its share")
            elif len(self._places) >= self._capacity:
                idle = self._take_idlest(self._places.values(), f"all {self._capacity} sessions are in use")
            if idle is not None:
                del self._places[idle.id]
            self._places[place.id] = place
        if idle is not None:
            try:
                self.drop(idle, idle=True)
            finally:
                idle.lock.release()
        return place

    def drop(self, place: Place, *, idle: bool = False) -> None:
        """Take a place whose lock the caller holds out of memory; dropping it twice is allowed."""
        with self._lock:
            self.dropped += idle and not place.gone
            place.gone = True
            if self._places.get(place.id) is place:
                del self._places[place.id]
        backend, place.backend = place.backend, None
        if backend is not None:
            backend.close()

    def let_go(self, place: Place) -> None:
        """Take a place out of memory without waiting: now, or when its lock, which another thread holds, is given back."""
        place.unwanted = True
        self.tidy(place)

    @contextmanager
    def held(self, place: Place) -> Iterator[None]:
        """Hold a place's lock; the place leaves memory afterwards if somebody let go of it meanwhile."""
        try:
            with place.lock:
                yield
        finally:
            self.tidy(place)

    def tidy(self, place: Place) -> None:
        """Take a place whose lock the caller has just given back out of memory, if somebody let go of it meanwhile."""
        if place.unwanted and place.lock.acquire(blocking=False):  # else its next holder comes here
            try:
                self.drop(place)
            finally:
                place.lock.release()

    def drop_idle(self, idle_s: float) -> None:
        """Take out of memory the sessions that nobody used for `idle_s`."""
        since = self._monotonic() - idle_s
        for place in self.all():
            if place.used <= since and place.lock.acquire(blocking=False):
                try:
                    if place.used <= since:
                        self.drop(place, idle=True)
                finally:
                    place.lock.release()
            self.tidy(place)

    def _of(self, address: str | None) -> list[Place]:
        if self._share is None or address is None:
            return []
        return [place for place in self._places.values() if place.address == address]

    def _take_idlest(self, places: Iterable[Place], taken: str) -> Place:
        now = self._monotonic()
        wait_s = self._yield_after_s
        for place in sorted(places, key=lambda place: place.used):
            wait_s = place.used + self._yield_after_s - now
            if wait_s > 0:
                break
            if place.lock.acquire(blocking=False):
                if place.used + self._yield_after_s <= now:
                    return place
                place.lock.release()
        self.refused += 1
        raise AtCapacity(f"{taken}: try again later", retry_after_s=max(1, math.ceil(wait_s)))
