"""`Callers`: who calls without a session id is known by address; this notices when one address is several callers."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

__all__ = ["Callers"]

_MAX_CALLERS = 10_000
"""Addresses remembered; the one that reset longest ago is forgotten first."""


@dataclass(slots=True)
class _Caller:
    last: str
    """The session that was reset last from there."""
    several: bool = False
    """Another session from there was stepped since."""


class Callers:
    """For each address, which session was reset last from there, and whether an older one is still being stepped.

    One caller who resets twice has left the first session behind; where the first is stepped again, there are two.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._callers: dict[str, _Caller] = {}

    def reset(self, address: str, session_id: str) -> None:
        """Note a reset."""
        with self._lock:
            self._callers.pop(address, None)
            self._callers[address] = _Caller(session_id)
            if len(self._callers) > _MAX_CALLERS:
                del self._callers[next(iter(self._callers))]

    def stepped(self, address: str | None, session_id: str) -> None:
        """Note a step of a session that was reset from `address`."""
        caller = None if address is None else self._callers.get(address)
        if caller is not None and caller.last != session_id:
            caller.several = True

    def several(self, address: str, last: str) -> bool:
        """Whether another session than `last`, the newest from there, has been stepped since that one was reset."""
        caller = self._callers.get(address)
        return caller is not None and caller.several and caller.last == last
