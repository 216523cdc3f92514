"""`Slots`: the sessions in memory, up to a maximum number, each with its own lock.

One thread at a time holds a slot. Because a session can be rebuilt, an idle session may lose its slot; a thread that
waits for its lock then finds `gone` set and asks for a new slot. Order of locks: first a slot's, then the table's. A
thread that holds the table's lock never waits for a slot's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Literal

from llmserve_server.backends import Backend
from llmserve_server.errors import AtCapacity
from llmserve_server.store.tables import EpisodeRow
from llmserve_sim.schema import ServeAction

__all__ = ["Slot", "Slots", "Transport"]

Transport = Literal["http", "websocket", "mcp", "page"]
_EARLY_S: Final = 5.0
"""At capacity, a session beyond its address's share yields after this many idle seconds, if the share is not strict."""


@dataclass(slots=True, eq=False)
class Slot:
    """A session in memory. Only the holder of `lock` reads and writes the fields below it."""

    id: str
    transport: Transport
    used: float
    """Time of the last use on the registry's monotonic clock, in seconds."""
    address: str | None = None
    """Pseudonym of the address whose share the session takes; None if it has no share."""
    lock: Lock = field(default_factory=Lock)
    gone: bool = False
    """Whether the session has lost this slot."""
    drop_when_released: bool = False
    """Whether the holder of `lock` removes the slot after releasing it. Any thread may set it."""
    row: EpisodeRow | None = None
    """The episode that `backend` runs."""
    backend: Backend | None = None
    """None until the episode is loaded, and after the slot is gone."""
    count: int = 0
    """Number of accepted steps."""
    last_action: ServeAction | None = None
    done: bool = False
    touched: float = 0.0
    """Wall-clock time at which the last use was last written to the store, in seconds."""


class Slots:
    """The table of slots.

    Args:
        capacity: maximum number of slots.
        share: the fair number of slots of one address.
        strict: whether an address never has more slots than its share. If not, it may, and at capacity its sessions
            yield after a few seconds.
        yield_after_s: at capacity, a session that has been idle for this long may lose its slot, the idlest first.
        monotonic: the clock of `Slot.used`, in seconds.
    """

    def __init__(
        self,
        capacity: int,
        yield_after_s: float,
        monotonic: Callable[[], float],
        *,
        share: int,
        strict: bool = True,
    ) -> None:
        self.capacity = capacity
        self._share = share
        self._strict = strict
        self._yield_after_s = yield_after_s
        self._monotonic = monotonic
        self._lock = Lock()
        self._slots: dict[str, Slot] = {}
        self.dropped = 0
        """Idle sessions removed from memory."""
        self.refused = 0
        """Sessions refused because no slot was free."""

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
        """Put `slot` into the table and return it, or the slot that its session already has.

        Raises `AtCapacity` if all slots, or the share of its address, are taken and none has been idle for long enough.
        """
        idle = None
        with self._lock:
            present = self._slots.get(slot.id)
            if present is not None:
                return present
            own = self._of(slot.address) if self._strict else []
            if len(own) >= self._share:
                taken = (
                    f"{len(own)} sessions of this address are in use, which is its share: close one, or try again "
                    "later. The operator can raise LLMSERVE_MAX_SESSIONS_PER_ADDRESS, and names the proxies that tell "
                    "callers apart in FORWARDED_ALLOW_IPS"
                )
                idle = self._take_idlest(own, taken)
            elif len(self._slots) >= self.capacity:
                idle = self._take_idlest(
                    list(self._slots.values()), f"all {self.capacity} sessions are in use: try again later"
                )
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
        """Remove a slot whose lock the caller holds; dropping it twice is allowed."""
        with self._lock:
            self.dropped += idle and not slot.gone
            slot.gone = True
            if self._slots.get(slot.id) is slot:
                del self._slots[slot.id]
        backend, slot.backend = slot.backend, None
        if backend is not None:
            backend.close()

    def drop_when_free(self, slot: Slot) -> None:
        """Remove a slot without waiting: now, or when another thread releases its lock."""
        slot.drop_when_released = True
        self.drop_if_marked(slot)

    @contextmanager
    def held(self, slot: Slot) -> Iterator[None]:
        """Hold a slot's lock; remove the slot afterwards if it was marked meanwhile."""
        try:
            with slot.lock:
                yield
        finally:
            self.drop_if_marked(slot)

    def drop_if_marked(self, slot: Slot) -> None:
        """Remove a slot whose lock the caller has just released, if it was marked meanwhile."""
        if slot.drop_when_released and slot.lock.acquire(blocking=False):  # else the next holder removes it
            try:
                self.drop(slot)
            finally:
                slot.lock.release()

    def drop_idle(self, idle_s: float) -> None:
        """Remove the sessions that have been idle for `idle_s`."""
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
        return [] if address is None else [slot for slot in self._slots.values() if slot.address == address]

    def _patience(self, slots: Iterable[Slot]) -> Callable[[Slot], float]:
        """Return for how long each session may be idle before it yields, in seconds."""
        counts = Counter(slot.address for slot in slots)
        counts[None] = 0  # this machine has no share
        early_s = self._yield_after_s if self._strict else min(self._yield_after_s, _EARLY_S)
        return lambda slot: early_s if counts[slot.address] > self._share else self._yield_after_s

    def _take_idlest(self, slots: list[Slot], taken: str) -> Slot:
        """Return the session that has been idle beyond its patience for longest, with its lock held."""
        now = self._monotonic()
        wait_s = self._yield_after_s
        patience = self._patience(slots)
        for slot in sorted(slots, key=lambda slot: slot.used + patience(slot)):
            wait_s = slot.used + patience(slot) - now
            if wait_s > 0:
                break
            if slot.lock.acquire(blocking=False):
                if slot.used + patience(slot) <= now:
                    return slot
                slot.lock.release()
        self.refused += 1
        raise AtCapacity(taken, retry_after_s=max(1, math.ceil(wait_s)))
