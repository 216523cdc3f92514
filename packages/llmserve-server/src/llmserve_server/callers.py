"""`Callers`: detect when several callers share one address, by which calls without a session id are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

__all__ = ["Callers"]

_MAX_CALLERS = 10_000
"""Maximum number of addresses; the one with the oldest reset is dropped first."""


@dataclass(slots=True)
class _Caller:
    last: str
    """The session that was reset last from the address."""
    several: bool = False
    """Whether another session from the address has been stepped since."""


class Callers:
    """For each address, the session that was reset last, and whether an older one is still being stepped.

    A single caller who resets twice does not use the first session again. If it is stepped again, there are two
    callers.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._callers: dict[str, _Caller] = {}

    def reset(self, address: str, session_id: str) -> None:
        """Record a reset."""
        with self._lock:
            self._callers.pop(address, None)
            self._callers[address] = _Caller(session_id)
            if len(self._callers) > _MAX_CALLERS:
                del self._callers[next(iter(self._callers))]

    def stepped(self, address: str | None, session_id: str) -> None:
        """Record a step of a session that was reset from `address`."""
        caller = None if address is None else self._callers.get(address)
        if caller is not None and caller.last != session_id:
            caller.several = True

    def several(self, address: str, last: str) -> bool:
        """Return whether another session than `last`, the newest of `address`, has been stepped since its reset."""
        caller = self._callers.get(address)
        return caller is not None and caller.several and caller.last == last
