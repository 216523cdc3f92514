"""Statistics of comparisons: bootstrap intervals, interquartile means, win rates, probabilities of improvement.

Episodes are resampled within their stratum (a task), with the same draws for every agent. So differences are paired,
and the effect of an episode's traffic on both agents cancels. The draws come from one fixed seed. IQM and probability
of improvement are defined as in Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", NeurIPS 2021. The module needs numpy only; it does not import agents or tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Statistic = Callable[[Floats], Floats]

__all__ = ["Bootstrap", "Interval", "iqm", "mean", "probability_of_improvement", "win_rate"]

_BLOCK: Final = 2_000_000
"""Most resampled numbers in memory at a time: 16 MB."""


class Interval(NamedTuple):
    """An estimate with the percentile interval of its bootstrap distribution."""

    value: float
    low: float
    high: float


class Bootstrap:
    """A fixed set of resamples of strata with `sizes` episodes each. All its intervals use the same draws.

    Raises `InvalidInputError` for an empty stratum, fewer than 100 resamples, or a confidence outside (0, 1).
    """

    def __init__(
        self, sizes: Sequence[int], *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise InvalidInputError("sizes", "must be at least one stratum, each with an episode", got=tuple(sizes))
        if type(resamples) is not int or not 100 <= resamples <= 1_000_000:
            raise InvalidInputError("resamples", "must be an integer in 100..1000000", got=resamples)
        if not 0.0 < confidence < 1.0:
            raise InvalidInputError("confidence", "must be between 0 and 1", got=confidence)
        self.sizes = tuple(sizes)
        self.resamples = resamples
        self.confidence = confidence
        self._seed = seed

    @cached_property
    def _draws(self) -> list[Ints]:
        """By stratum: indices of episodes, int64[resamples, size]."""
        rng = np.random.Generator(np.random.PCG64(self._seed))
        return [rng.integers(size, size=(self.resamples, size)) for size in self.sizes]

    @cached_property
    def _counts(self) -> list[Floats]:
        """By stratum: how often each episode was drawn, float64[resamples, size]."""
        found = []
        for draws, size in zip(self._draws, self.sizes, strict=True):
            offsets = np.arange(self.resamples)[:, None] * size
            flat = np.bincount((draws + offsets).ravel(), minlength=self.resamples * size)
            found.append(flat.reshape(self.resamples, size).astype(np.float64))
        return found

    def interval(self, strata: Sequence[Floats], statistic: Statistic) -> Interval:
        """Return the interval of `statistic` over all strata together.

        `strata` holds one value per episode: an agent's results, or the paired differences of two agents. `statistic`
        maps float64[..., episodes] to float64[...].
        """
        self._check(strata)
        width = sum(self.sizes)
        step = max(1, _BLOCK // width)
        found = np.empty(self.resamples)
        for begin in range(0, self.resamples, step):
            rows = slice(begin, begin + step)
            pooled = [values[draws[rows]] for values, draws in zip(strata, self._draws, strict=True)]
            found[rows] = statistic(np.concatenate(pooled, axis=1))
        return self._between(float(statistic(np.concatenate(strata))), found)

    def improvement(self, ours: Sequence[Floats], theirs: Sequence[Floats]) -> Interval:
        """Return the probability of improvement of `ours` over `theirs`, as the mean over strata, with its interval."""
        self._check(ours)
        self._check(theirs)
        total = np.zeros(self.resamples)
        for counts, x, y in zip(self._counts, ours, theirs, strict=True):
            total += ((counts @ _beats(x, y)) * counts).sum(axis=1) / len(x) ** 2
        value = float(np.mean([probability_of_improvement(x, y) for x, y in zip(ours, theirs, strict=True)]))
        return self._between(value, total / len(self.sizes))

    def _check(self, strata: Sequence[Floats]) -> None:
        sizes = tuple(len(values) for values in strata)
        if sizes != self.sizes:
            raise InvalidInputError("strata", f"must have {self.sizes} episodes", got=sizes)

    def _between(self, value: float, found: Floats) -> Interval:
        tail = (1.0 - self.confidence) / 2.0
        low, high = np.quantile(found, [tail, 1.0 - tail]).tolist()
        return Interval(value, low, high)


def mean(values: Floats) -> Floats:
    """Return the mean over the last axis."""
    return np.asarray(values.mean(axis=-1))


def iqm(values: Floats) -> Floats:
    """Return the mean over the last axis without the lowest and the highest quarter (each rounded down)."""
    cut = values.shape[-1] // 4
    ordered = np.sort(values, axis=-1)
    return np.asarray(ordered[..., cut : values.shape[-1] - cut].mean(axis=-1))


def win_rate(ours: Floats, theirs: Floats) -> float:
    """Return the share of episodes in which `ours` is above `theirs`, paired; a tie is half a win."""
    return float(np.mean((ours > theirs) + 0.5 * (ours == theirs)))


def probability_of_improvement(ours: Floats, theirs: Floats) -> float:
    """Return the probability that one of `ours` is above one of `theirs`; a tie counts half (Mann-Whitney U)."""
    return float(_beats(ours, theirs).mean())


def _beats(ours: Floats, theirs: Floats) -> Floats:
    """Return float64[ours, theirs]: 1 where `ours` is above, ½ where they are equal, else 0."""
    x, y = ours[:, None], theirs[None, :]
    beats: Floats = (x > y) + 0.5 * (x == y)
    return beats
