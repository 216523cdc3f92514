"""When requests arrive: rates per window turned into integer picoseconds.

Arrivals are a renewal process in operational time: unit-mean gaps of a given coefficient of variation are added up and
mapped through the integral of a piecewise constant intensity. They depend on the seed and the rates only, never on an
action. `patterns.py` decides which windows are loaded.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import fsum, gamma, log, sqrt
from typing import TYPE_CHECKING

import numpy as np

from llmserve_sim.workload.random import first_u32
from llmserve_sim.workload.tables import PIECES, QuantileTable, grid, solve_increasing

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Ints = NDArray[np.int64]

__all__ = ["MASS", "arrival_times", "gap_table", "window_mass"]

MASS = 1 << 16
"""Integral of the intensity over one request: times within a window resolve to 1/65536 of the mean gap."""


@lru_cache(maxsize=16)
def gap_table(cv: float) -> QuantileTable:
    """Return gaps of mean `MASS` and coefficient of variation `cv`: Weibull, exponential at 1.

    A Weibull has its quantile function in closed form, and fits the gaps of production traffic (BurstGPT, ServeGen).
    Shape and scale are solved for on the table, whose tail is cut, so mean and CV are what was asked for.
    """
    exponential = [-log(1.0 - p) for p in grid()]
    exponential[0] = 0.0

    def unit_mean(shape: float) -> list[float]:
        values = [e ** (1.0 / shape) / gamma(1.0 + 1.0 / shape) for e in exponential]
        mean = (fsum(values) - 0.5 * (values[0] + values[-1])) / PIECES
        return [v / mean for v in values]

    def negative_cv(shape: float) -> float:
        v = unit_mean(shape)
        second = fsum(a * a + a * b + b * b for a, b in pairwise(v)) / (3 * PIECES)
        return -sqrt(second - 1.0)

    shape = solve_increasing(negative_cv, -cv, 0.2, 8.0)
    return QuantileTable.from_values([MASS * v for v in unit_mean(shape)])


def window_mass(rate_rps: ArrayLike, window_ps: int) -> Ints:
    """Return the integral of the intensity over each window, in 1/MASS requests."""
    expected = np.asarray(rate_rps, dtype=np.float64) * (window_ps / 1e12)
    return np.rint(expected * MASS).astype(np.int64)


def arrival_times(seed: int, mass: Ints, window_ps: int, gap_cv: float, *, purpose: str = "gap") -> tuple[Ints, Ints]:
    """Return (arrival_ps, requests per window): sorted int64 times in [0, windows·window_ps), and int64[windows].

    `mass` is int64[windows] from `window_mass`. Within a window of mass m a request at mass x past the window's start
    arrives x·⌊window_ps/m⌋ after it, so that no product exceeds the window's length.
    """
    edges = np.zeros(len(mass) + 1, dtype=np.int64)
    np.cumsum(mass, out=edges[1:])
    total = int(edges[-1])
    expected = total / MASS
    count = int(expected + (6.0 * sqrt(expected) + 16.0) * max(1.0, gap_cv)) + 1
    table = gap_table(gap_cv)
    at = np.cumsum(table.sample(first_u32(seed, purpose, count)))
    while at[-1] < total:  # a stream that falls this short is one in billions; longer draws start the same
        count *= 2
        at = np.cumsum(table.sample(first_u32(seed, purpose, count)))
    bounds = np.searchsorted(at, edges)
    counts = np.diff(bounds)
    at = at[: bounds[-1]]
    at -= np.repeat(edges[:-1], counts)
    at *= np.repeat(window_ps // np.maximum(mass, 1), counts)
    at += np.repeat(np.arange(len(mass), dtype=np.int64) * window_ps, counts)
    return at, counts
