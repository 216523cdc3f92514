"""How fast one session steps, as a ratio: this server beside the echo server, in turns, with the same client."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.clients import ECHO, OURS, TRANSPORTS, steps_per_second

import local_server

ECHO_COMMAND = ("-m", "benchmarks.load.echo", "--port", "{port}")
#: What the ratios must reach.
BARS = {"WebSocket": 0.7, "HTTP": 0.5}


@dataclass(frozen=True)
class Speed:
    """Steps per second of both servers over one transport, one pair per turn."""

    transport: str
    ours: tuple[float, ...]
    echo: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """The ratio of each turn."""
        return [ours / echo for ours, echo in zip(self.ours, self.echo, strict=True)]

    @property
    def ratio(self) -> float:
        """The median over the turns: a neighbour on the machine disturbs both halves of a turn, or is outvoted."""
        return statistics.median(self.ratios)

    @property
    def bar(self) -> float:
        """What the ratio must reach."""
        return BARS[self.transport]


def measure(folder: Path, *, turns: int, seconds: float) -> list[Speed]:
    """Run both servers at once and let them step in turns; one unmeasured turn first warms both up."""
    found = []
    with (
        local_server.running(folder, ECHO_COMMAND) as echo,
        local_server.running(folder, env={"LLMSERVE_LOG_LEVEL": "warning"}) as ours,
    ):
        for transport, open_session in TRANSPORTS.items():
            pairs = []
            for turn in range(turns + 1):
                rates = []
                for url, speech in ((ours.url, OURS), (echo.url, ECHO)):
                    session = open_session(url, speech)
                    rates.append(steps_per_second(session, seconds if turn else min(seconds, 1.0)))
                    session.close()
                if turn:
                    pairs.append(rates)
            found.append(Speed(transport, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)))
    return found
