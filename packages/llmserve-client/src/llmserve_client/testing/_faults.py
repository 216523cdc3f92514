"""What a local server does wrong on request, one thing at a time, in the order asked for. Knows no transport."""

from __future__ import annotations

from collections import deque
from typing import Literal

__all__ = ["Fault", "Faults"]

Fault = Literal["lose_answer", "lose_request", "stall"]


class Faults:
    """Planned misfortunes; each call takes at most one."""

    def __init__(self) -> None:
        self._calls: deque[Fault | int] = deque()
        self._connections = 0

    def plan(self, fault: Fault | int, times: int) -> None:
        """Let the next `times` calls meet a fault, or an HTTP status that some proxy answers with."""
        self._calls.extend([fault] * times)

    def refuse_connections(self, times: int) -> None:
        """Let the next `times` connections fail."""
        self._connections += times

    def connection_fails(self) -> bool:
        """Whether the connection being made now fails."""
        if not self._connections:
            return False
        self._connections -= 1
        return True

    def next(self) -> Fault | int | None:
        """Return what the call being made now meets."""
        return self._calls.popleft() if self._calls else None
