"""Inverse distribution functions as integer tables: a 32-bit draw in, an integer quantity out.

A `QuantileTable` is a piecewise linear quantile function with 2048 pieces of equal probability. Its edges come from
`math` and `statistics` and are rounded to integers, so sampling is integer arithmetic that no library or platform can
change. It knows nothing about tokens or time (`lengths.py`, `arrivals.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING, Annotated

import numpy as np

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

__all__ = ["PIECES", "QuantileTable", "grid", "solve_increasing"]

_BITS = 11
PIECES = 1 << _BITS
"""Pieces of a table, each of probability 1/PIECES."""
_LOW = 32 - _BITS
_FRACTION_BITS = 8
_SHIFT = _LOW + _FRACTION_BITS


@dataclass(frozen=True, eq=False)
class QuantileTable(Checked):
    """A sampled distribution. `edges` are PIECES + 1 non-decreasing integers in 1/256 of the sampled unit.

    Neighbours are less than 2^31 apart (a step of 2^23), so that no product with a draw exceeds 63 bits.
    """

    edges: tuple[Annotated[int, Between(0, 1 << 41, "1/256 of the sampled unit")], ...]

    def _relations(self) -> None:
        if len(self.edges) != PIECES + 1 or any(b < a or b - a >= 1 << 31 for a, b in pairwise(self.edges)):
            self._refuse("edges", f"must be {PIECES + 1} integers that do not decrease, each less than 2^31 apart")

    @classmethod
    def from_values(cls, values: Sequence[float]) -> QuantileTable:
        """Build the table from its PIECES + 1 edges in the sampled unit; raises `InvalidInputError`."""
        if not all(map(isfinite, values)):
            raise InvalidInputError("values", "must be finite")
        return cls(tuple(round(v * (1 << _FRACTION_BITS)) for v in values))

    def sample(self, u32: Ints) -> Ints:
        """Return the quantity at each draw, rounded to the nearest integer; int64 of the draws' shape."""
        piece = u32 >> _LOW
        out = np.take(self._slope, piece)
        out *= u32
        out += np.take(self._intercept, piece)
        out >>= _SHIFT
        return out

    def quantile(self, probability: float) -> float:
        """Return the quantile function at `probability` in 0..1, in the sampled unit."""
        return float(np.interp(probability * PIECES, np.arange(PIECES + 1), self._edges)) / (1 << _FRACTION_BITS)

    def cdf_u32(self, value: Ints) -> Ints:
        """Return, for each value, a draw at or below which the sampled quantity does not exceed it (0..2^32 - 1)."""
        scaled = np.asarray(value, dtype=np.int64) << _FRACTION_BITS
        piece = np.clip(np.searchsorted(self._edges, scaled, side="right") - 1, 0, PIECES - 1)
        low = self._edges[piece]
        width = np.maximum(self._edges[piece + 1] - low, 1)
        within = np.clip(((scaled - low) << _LOW) // width, 0, (1 << _LOW) - 1)
        draws: Ints = (piece << _LOW) + within
        return draws

    @property
    def mean(self) -> float:
        """Mean of the table, in the sampled unit."""
        e = self._edges
        return float((e[:-1] + e[1:]).sum()) / (2 * PIECES << _FRACTION_BITS)

    @property
    def cv(self) -> float:
        """Coefficient of variation (standard deviation over mean) of the table."""
        a, b = self._edges[:-1].astype(float), self._edges[1:].astype(float)
        mean = float(np.mean((a + b) / 2))
        return float(np.sqrt(max(0.0, float(np.mean((a * a + a * b + b * b) / 3)) - mean * mean)) / mean)

    @cached_property
    def _edges(self) -> Ints:
        return np.array(self.edges, dtype=np.int64)

    @cached_property
    def _slope(self) -> Ints:
        return np.diff(self._edges)

    @cached_property
    def _intercept(self) -> Ints:
        # value·2^SHIFT = edge·2^LOW + (u − piece·2^LOW)·slope, and half a unit so that the shift rounds to nearest
        first_draw = np.arange(PIECES, dtype=np.int64) << _LOW
        result: Ints = (self._edges[:-1] << _LOW) - first_draw * self._slope + (1 << (_SHIFT - 1))
        return result


def grid() -> tuple[float, ...]:
    """Return the PIECES + 1 probabilities at which a table's edges are taken.

    The outermost lie an eighth of a piece inside 0 and 1: finite for unbounded distributions, and for an exponential
    tail the place that keeps the last piece's mean (ln 8 ≈ 2 means beyond its left edge).
    """
    inset = 1 / (8 * PIECES)
    return (inset, *(i / PIECES for i in range(1, PIECES)), 1 - inset)


def solve_increasing(function: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Return x in [low, high] with function(x) = target; the nearer end where target is out of reach.

    Regula falsi with the Illinois step: a table is some 2000 values a trial, and bisection would need 40 trials.
    """
    below, above = function(low) - target, function(high) - target
    if below >= 0.0:
        return low
    if above <= 0.0:
        return high
    side = 0
    for _ in range(100):
        x = (low * above - high * below) / (above - below)
        error = function(x) - target
        if abs(error) <= 1e-9 * abs(target) or high - low <= 1e-12:
            return x
        if error < 0.0:
            low, below = x, error
            above *= 0.5 if side < 0 else 1.0
            side = -1
        else:
            high, above = x, error
            below *= 0.5 if side > 0 else 1.0
            side = 1
    return x
