"""`Slots`: the sessions in memory, at most so many, each behind a lock. Knows nothing of stores or of what an episode is.

A slot is lent to one thread at a time. Because a session can be rebuilt, a slot may be taken from one that is idle; who
waited for its lock meanwhile finds it `gone` and asks again. The order of locks: a slot's, then the table's; nobody who
holds the table's lock waits for a slot's.
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

__all__ = ["Slot", "Slots", "Transport"]

Transport = Literal["http", "websocket", "page"]


@dataclass(slots=True, eq=False)
class Slot:
    """A session's slot in memory; everything below `lock` is read and written by its holder only."""

    id: str
    transport: Transport
    used: float
    """When it was last lent, on the registry's monotonic clock, in seconds."""
    address: str | None = None
    """Who began the session here; None where that is not known."""
    lock: Lock = field(default_factory=Lock)
    gone: bool = False
    """The slot is no longer the session's."""
    drop_when_released: bool = False
    """Whoever holds `lock` takes the slot out of memory after giving it back; may be set by anyone."""
    row: EpisodeRow | None = None
    """The episode that `backend` runs."""
    backend: Backend | None = None
    """None until the episode is loaded, and once the slot is gone."""
    count: int = 0
    """Accepted steps."""
    last_action: ServeAction | None = None
    done: bool = False
    touched: float = 0.0
    """When the store was last told that the episode is in use, on the wall clock, in seconds."""


class Slots:
    """The table of slots.

    Args:
        capacity: slots at most.
        share: slots at most of one address; None where they may take what they like.
        yield_after_s: at capacity, a session that nobody used for this long makes room, the idlest first.
        monotonic: the clock of `Slot.used`, in seconds.
    """

    def __init__(
        self, capacity: int, yield_after_s: float, monotonic: Callable[[], float], *, share: int | None = None
    ) -> None:
        self._capacity = capacity
        self._share = share
        self._yield_after_s = yield_after_s
        self._monotonic = monotonic
        self._lock = Lock()
        self._slots: dict[str, Slot] = {}
        self.dropped = 0
        """Sessions that left memory for want of use."""
        self.refused = 0
        """Sessions for which there was no slot."""

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, session_id: str) -> Slot | None:
        """Return the session's slot, if it has one."""
        return self._slots.get(session_id)

    def all(self) -> list[Slot]:
        """Return every slot, in no particular order."""
        with self._lock:
            return list(self._slots.values())

    def admit(self, slot: Slot) -> Slot:
        """Put `slot` into the table and return it, or the slot that its session has already.

        Raises `AtCapacity` where all slots, or its address's share of them, are taken and none has been idle for long enough.
        """
        idle = None
        with self._lock:
            present = self._slots.get(slot.id)
            if present is not None:
                return present
            own = self._of(slot.address)
            if self._share is not None and len(own) >= self._share:
                idle = self._take_idlest(own, f"{len(own)} sessions of this address are in use, which is its share")
            elif len(self._slots) >= self._capacity:
                idle = self._take_idlest(self._slots.values(), f"all {self._capacity} sessions are in use")
            if idle is not None:
                del self._slots[idle.id]
            self._slots[slot.id] = slot
        if idle is not None:
            try:
                self.drop(idle, idle=True)
            finally:
                idle.lock.release()
        return slot

    def drop(self, slot: Slot, *, idle: bool = False) -> None:
        """Take a slot whose lock the caller holds out of memory; dropping it twice is allowed."""
        with self._lock:
            self.dropped += idle and not slot.gone
            slot.gone = True
            if self._slots.get(slot.id) is slot:
                del self._slots[slot.id]
        backend, slot.backend = slot.backend, None
        if backend is not None:
            backend.close()

    def drop_when_free(self, slot: Slot) -> None:
        """Take a slot out of memory without waiting: now, or when its lock, which another thread holds, is given back."""
        slot.drop_when_released = True
        self.drop_if_marked(slot)

    @contextmanager
    def held(self, slot: Slot) -> Iterator[None]:
        """Hold a slot's lock; the slot leaves memory afterwards if somebody let go of it meanwhile."""
        try:
            with slot.lock:
                yield
        finally:
            self.drop_if_marked(slot)

    def drop_if_marked(self, slot: Slot) -> None:
        """Take a slot whose lock the caller has just given back out of memory, if somebody let go of it meanwhile."""
        if slot.drop_when_released and slot.lock.acquire(blocking=False):  # else its next holder comes here
            try:
                self.drop(slot)
            finally:
                slot.lock.release()

    def drop_idle(self, idle_s: float) -> None:
        """Take out of memory the sessions that nobody used for `idle_s`."""
        since = self._monotonic() - idle_s
        for slot in self.all():
            if slot.used <= since and slot.lock.acquire(blocking=False):
                try:
                    if slot.used <= since:
                        self.drop(slot, idle=True)
                finally:
                    slot.lock.release()
            self.drop_if_marked(slot)

    def _of(self, address: str | None) -> list[Slot]:
        if self._share is None or address is None:
            return []
        return [slot for slot in self._slots.values() if slot.address == address]

    def _take_idlest(self, slots: Iterable[Slot], taken: str) -> Slot:
        now = self._monotonic()
        wait_s = self._yield_after_s
        for slot in sorted(slots, key=lambda slot: slot.used):
            wait_s = slot.used + self._yield_after_s - now
            if wait_s > 0:
                break
            if slot.lock.acquire(blocking=False):
                if slot.used + self._yield_after_s <= now:
                    return slot
                slot.lock.release()
        self.refused += 1
        raise AtCapacity(f"{taken}: try again later", retry_after_s=max(1, math.ceil(wait_s)))
