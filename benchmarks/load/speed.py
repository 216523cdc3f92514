"""The speed of one session as a ratio: this server beside the echo server, in turns, with the same client."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.clients import CLIENTS, ECHO, OURS, steps_per_second

import local_server

ECHO_COMMAND = ("-m", "benchmarks.load.echo", "--port", "{port}")
WARM_UP_S = 1.0
#: Least ratios. The bare WebSocket client does almost nothing, so its ratio shows the cost of the simulation.
BARS = {"WebSocket, OpenEnv's client": 0.7, "WebSocket, bare": 0.5, "HTTP, bare": 0.5}


@dataclass(frozen=True)
class Speed:
    """Steps per second of both servers with one client, one pair per turn."""

    client: str
    ours: tuple[float, ...]
    echo: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Return the ratio of each turn."""
        return [ours / echo for ours, echo in zip(self.ours, self.echo, strict=True)]

    @property
    def ratio(self) -> float:
        """Return the median over the turns, so that a few disturbed turns do not matter."""
        return statistics.median(self.ratios)

    @property
    def bar(self) -> float:
        """Return the least ratio that passes."""
        return BARS[self.client]


def measure(folder: Path, *, turns: int, seconds: float) -> list[Speed]:
    """Run both servers at once and let them step in turns.

    Short turns are better: other work on the machine then affects both alike.
    """
    found = []
    with (
        local_server.running(folder, ECHO_COMMAND) as echo,
        local_server.running(folder, env={"LLMSERVE_LOG_LEVEL": "warning"}) as ours,
    ):
        for client, open_session in CLIENTS.items():
            sessions = [open_session(ours.url, OURS), open_session(echo.url, ECHO)]
            for session in sessions:
                steps_per_second(session, WARM_UP_S)
            pairs = [[steps_per_second(session, seconds) for session in sessions] for _ in range(turns)]
            for session in sessions:
                session.close()
            found.append(Speed(client, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)))
    return found
