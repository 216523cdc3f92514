"""Token counts: log-normal, empirical and uniform models, each an integer table that a 32-bit draw indexes.

A model's parameters are measured quantities: the mean after cutting at the bounds, or the quantiles of a trace.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, fsum, inf, log
from statistics import NormalDist
from typing import TYPE_CHECKING

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.tables import PIECES, QuantileTable, grid, solve_increasing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmserve_sim.tasks.traffic import LengthModel

__all__ = ["empirical_lengths", "lognormal_lengths", "lognormal_table", "normal_grid", "uniform_lengths"]


def lognormal_lengths(model: LengthModel) -> QuantileTable:
    """Return the table of a task's length model."""
    return lognormal_table(model.mean_tokens, model.sigma, model.min_tokens, model.max_tokens)


@lru_cache(maxsize=64)
def lognormal_table(mean: float, sigma: float, minimum: int, maximum: int) -> QuantileTable:
    """Return a log-normal cut (censored) at the bounds, tokens, whose mean after cutting is `mean`.

    The location is solved for on the table itself, so the mean holds to the table's rounding. Raises InvalidInputError
    where no location has that mean.
    """
    spread = [exp(sigma * z) for z in normal_grid()]

    def cut(location: float) -> list[float]:
        scale = exp(location)
        return [min(max(scale * s, minimum), maximum) for s in spread]

    def table_mean(location: float) -> float:
        values = cut(location)
        return (fsum(values) - 0.5 * (values[0] + values[-1])) / PIECES

    if not minimum <= mean <= maximum:
        raise InvalidInputError("mean_tokens", f"must be in {minimum}..{maximum}", got=mean)
    location = solve_increasing(table_mean, mean, log(mean) - 3.0 - sigma**2, log(mean) + 3.0 + sigma**2)
    return QuantileTable.from_values(cut(location))


@lru_cache(maxsize=64)
def empirical_lengths(knots: Sequence[tuple[float, float]]) -> QuantileTable:
    """Return the distribution through (probability, tokens) knots, log-linear in tokens between them.

    `knots` is a tuple sorted by probability from 0 to 1 with positive, non-decreasing tokens.
    """
    last = -inf
    if len(knots) < 2 or knots[0][0] != 0.0 or knots[-1][0] != 1.0:
        raise InvalidInputError("knots", "must run from probability 0 to probability 1")
    for index, (p, value) in enumerate(knots):
        if not p > last or not value > 0 or (index and value < knots[index - 1][1]):
            raise InvalidInputError(f"knots.{index}", "must increase in probability and not decrease in tokens")
        last = p
    values, piece = [], 0
    for i in range(PIECES + 1):
        p = i / PIECES
        while knots[piece + 1][0] < p:
            piece += 1
        (p0, v0), (p1, v1) = knots[piece], knots[piece + 1]
        values.append(v0 * (v1 / v0) ** ((p - p0) / (p1 - p0)))
    return QuantileTable.from_values(values)


@lru_cache(maxsize=64)
def uniform_lengths(minimum: int, maximum: int) -> QuantileTable:
    """Return the uniform distribution over minimum..maximum tokens."""
    if not 0 < minimum <= maximum:
        raise InvalidInputError("min_tokens", "must be positive and at most max_tokens", got=minimum)
    return QuantileTable.from_values([minimum + (maximum - minimum) * i / PIECES for i in range(PIECES + 1)])


@lru_cache(maxsize=1)
def normal_grid() -> tuple[float, ...]:
    """Return the standard normal quantiles at a table's edges."""
    inverse = NormalDist().inv_cdf
    return tuple(inverse(p) for p in grid())
