"""Queue of faults that a local server injects, one per call, in the order given. Independent of the transport."""

from __future__ import annotations

from collections import deque
from typing import Literal

__all__ = ["Fault", "Faults"]

Fault = Literal["lose_answer", "lose_request", "stall"]


class Faults:
    """Planned faults; each call takes at most one."""

    def __init__(self) -> None:
        self._calls: deque[Fault | int] = deque()
        self._connections = 0

    def plan(self, fault: Fault | int, times: int) -> None:
        """Inject a fault, or an HTTP status that a proxy would return, into the next `times` calls."""
        self._calls.extend([fault] * times)

    def refuse_connections(self, times: int) -> None:
        """Make the next `times` connections fail."""
        self._connections += times

    def connection_fails(self) -> bool:
        """Return whether the current connection attempt fails; counts it."""
        if not self._connections:
            return False
        self._connections -= 1
        return True

    def next(self) -> Fault | int | None:
        """Remove and return the fault of the current call, if any."""
        return self._calls.popleft() if self._calls else None
