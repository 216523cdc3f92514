"""Which experts a batch's tokens choose: how many weights a GPU has to read, and how many rows it multiplies.

Knows nothing about times. Three ways to choose: `round_robin`, as kernel benchmarks balance their batches, `even`, where
each token chooses at random, and `popular`, where a few experts take most tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ExpertLoad", "even", "popular", "round_robin"]

Floats = NDArray[np.float64]
Real = float | Floats

POWER = 1.2
"""Exponent of the popularities' density, x^-1.2 from 1 to .8 x tokens: the power law of aiconfigurator's tables."""
_DRAWS = 16
_SEED = 2
_KNOTS_PER_OCTAVE = 8
_OCTAVES = 15


class ExpertLoad(NamedTuple):
    """The work of the busiest GPU, for each number of tokens."""

    rows: Real
    """(token, expert) pairs that it multiplies."""
    touched: Real
    """Experts that it reads: those that any token chose."""


def round_robin(tokens: Real, *, top_k: float, experts: float, expert_parallel: float) -> ExpertLoad:
    """Tokens take the experts in turn: as many are touched as possible."""
    rows = np.asarray(tokens) * top_k / expert_parallel
    return ExpertLoad(rows, np.minimum(rows, experts / expert_parallel))


def even(tokens: Real, *, top_k: float, experts: float, expert_parallel: float) -> ExpertLoad:
    """Each token chooses `top_k` of `experts` at random: the expected number of experts touched. No GPU is busier."""
    missed = (1.0 - top_k / experts) ** np.asarray(tokens)
    return ExpertLoad(np.asarray(tokens) * top_k / expert_parallel, experts / expert_parallel * (1.0 - missed))


def popular(tokens: Real, *, top_k: int, experts: int, expert_parallel: int) -> ExpertLoad:
    """Experts' popularities follow a power law: the mean over draws, linear between knots, eight an octave."""
    knots = np.unique(np.round(2.0 ** (np.arange(_OCTAVES * _KNOTS_PER_OCTAVE + 1) / _KNOTS_PER_OCTAVE)))
    loads = [_drawn(int(knot), top_k, experts, expert_parallel) for knot in knots]
    at = np.concatenate([[0.0], knots])
    rows, touched = (np.interp(tokens, at, np.concatenate([[0.0], values])) for values in np.transpose(loads))
    return ExpertLoad(rows, touched)


@lru_cache(maxsize=1 << 14)
def _drawn(tokens: int, top_k: int, experts: int, expert_parallel: int) -> tuple[float, float]:
    """Mean rows and touched experts of the busiest GPU. An expert gets whole tokens, and each token at most once."""
    raw = np.random.PCG64(_SEED).random_raw(_DRAWS * experts)  # a stream that numpy promises to keep
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    top = max(2.0, 0.8 * tokens) ** (1.0 - POWER)
    popularity = ((top - 1.0) * uniform + 1.0) ** (1.0 / (1.0 - POWER))
    counts = np.stack([_whole(row, tokens, top_k) for row in popularity.reshape(_DRAWS, experts)])
    groups = counts.reshape(_DRAWS, expert_parallel, experts // expert_parallel)
    busiest = groups[np.arange(_DRAWS), groups.sum(axis=2).argmax(axis=1)]
    return float(busiest.sum(axis=1).mean()), float((busiest > 0).sum(axis=1).mean())


def _whole(popularity: Floats, tokens: int, top_k: int) -> Floats:
    """Tokens of each expert in proportion to popularity, at most `tokens` each, `tokens x top_k` in total."""
    total = float(tokens * top_k)
    full = np.zeros(popularity.size, dtype=bool)
    counts = popularity
    for _ in range(popularity.size):
        rest = total - tokens * float(full.sum())
        counts = np.where(full, float(tokens), popularity * rest / max(float(popularity[~full].sum()), 1e-300))
        over = (counts > tokens) & ~full
        if not over.any():
            break
        full |= over
    whole = np.floor(counts + 1e-9)
    missing = round(total - float(whole.sum()))
    whole[np.argsort(whole - counts, kind="stable")[:missing]] += 1.0
    return np.asarray(whole)
