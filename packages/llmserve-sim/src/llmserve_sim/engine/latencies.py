"""`LatencySums`: time to first token, time between tokens and end-to-end latency, summed over windows and engines.

Adding a window costs a few microseconds: the histograms of a window are added in one piece, and the requests that ended
wait until there are many.
"""

from __future__ import annotations

from dataclasses import fields
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_sim.engine.histogram import BINS, bin_middle_ps
from llmserve_sim.engine.interface import FP, PS_PER_S, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

__all__ = ["ENDED_SIZE", "HISTOGRAMS_SIZE", "LatencySums"]

HISTOGRAMS_SIZE: Final = 2 * (2 + BINS)
"""Length of a window's histograms: TTFT, then ITL, each two entries that are not read, then its bins."""
_FIELDS: Final = tuple(field.name for field in fields(RequestRecord))
ENDED_SIZE: Final = len(_FIELDS)
"""Entries of a request that ended: the fields of `RequestRecord`."""
_ID, _STATUS, _LAST = (_FIELDS.index(name) for name in ("id", "status", "last_ps"))
_TTFT: Final = slice(2, 2 + BINS)
_ITL: Final = slice(4 + BINS, HISTOGRAMS_SIZE)
_MOST_PENDING: Final = 256
"""Windows whose end-to-end latencies are put into bins together."""
_MIDDLES_PS: Final = np.array([bin_middle_ps(index) for index in range(BINS)], dtype=np.int64)


class LatencySums:
    """Latencies since it was made. Several threads may add and read at once.

    Args:
        e2e_bounds_s: bounds between which the end-to-end latencies are counted, in seconds, rising.
    """

    def __init__(self, e2e_bounds_s: Sequence[float]) -> None:
        self._bounds_ps = np.array([round(bound * PS_PER_S) for bound in e2e_bounds_s], dtype=np.int64)
        self._lock = Lock()
        self._histograms: Ints = np.zeros(HISTOGRAMS_SIZE, dtype=np.int64)
        self._ttft_ps = 0
        self._e2e: Ints = np.zeros(len(e2e_bounds_s) + 1, dtype=np.int64)
        self._e2e_ps = 0
        self._pending: list[tuple[Ints | list[int], Ints]] = []

    def add(self, histograms: Ints | list[int], ttft_ps: int, ended: Ints | list[int], arrival_ps: Ints) -> None:
        """Add one window.

        Args:
            histograms: int64[HISTOGRAMS_SIZE]; ITL is counted in 1/256 token.
            ttft_ps: sum of the times to first token.
            ended: int64[n·ENDED_SIZE] for each request that ended id, status (0: finished), and then the further fields
                of `RequestRecord`. It is read later.
            arrival_ps: int64 arrivals by id. It is read later.
        """
        with self._lock:
            self._histograms += histograms
            self._ttft_ps += ttft_ps
            self._pending.append((ended, arrival_ps))
            if len(self._pending) >= _MOST_PENDING:
                self._settle()

    def ttft(self, bounds_s: Sequence[float]) -> tuple[list[float], float]:
        """Return how many first tokens came within each bound and in all, and the exact sum of their times in seconds.

        A bin of the simulator that straddles a bound counts where its middle is.
        """
        with self._lock:
            bins, total_ps = self._histograms[_TTFT].copy(), self._ttft_ps
        return _within(bins, bounds_s), total_ps / PS_PER_S

    def itl(self, bounds_s: Sequence[float]) -> tuple[list[float], float]:
        """Return how many further tokens came within each bound of the one before and in all, and the sum in seconds.

        A speculative step yields an expected number of tokens, over which its time is spread: counts may be fractions.
        The sum is that of the bins' middles. A bin that straddles a bound counts where its middle is.
        """
        with self._lock:
            bins = self._histograms[_ITL] / FP
        return _within(bins, bounds_s), float(bins @ (_MIDDLES_PS / PS_PER_S))

    def e2e(self) -> tuple[list[float], float]:
        """Return how many requests finished within each bound of `e2e_bounds_s` and in all, and the sum in seconds.

        Both are exact.
        """
        with self._lock:
            self._settle()
            return np.cumsum(self._e2e).astype(float).tolist(), self._e2e_ps / PS_PER_S

    def _settle(self) -> None:
        """Count the pending latencies."""
        episodes: dict[int, tuple[Ints, list[Ints]]] = {}
        for ended, arrival_ps in self._pending:
            episodes.setdefault(id(arrival_ps), (arrival_ps, []))[1].append(np.asarray(ended, dtype=np.int64))
        for arrival_ps, windows in episodes.values():
            rows = np.concatenate(windows).reshape(-1, ENDED_SIZE)
            rows = rows[rows[:, _STATUS] == 0]
            found = rows[:, _LAST] - arrival_ps[rows[:, _ID]]
            self._e2e += np.bincount(self._bounds_ps.searchsorted(found), minlength=len(self._e2e))
            self._e2e_ps += int(found.sum())
        self._pending.clear()


def _within(bins: NDArray[np.int64] | NDArray[np.float64], bounds_s: Sequence[float]) -> list[float]:
    upto = np.concatenate(([0.0], np.cumsum(bins)))
    found: list[float] = upto[_MIDDLES_PS.searchsorted(np.array(bounds_s) * PS_PER_S, side="right")].tolist()
    return [*found, float(upto[-1])]
