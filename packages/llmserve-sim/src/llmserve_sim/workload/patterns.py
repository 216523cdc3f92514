"""Patterns over windows: recurrences with a phase that can be learned, spikes, on/off periods, waves and noise.

Each pattern is drawn from streams of its own. For a forecast, `Recurrence` and `wave_phase` can also be drawn
conditional on what was seen. Nothing here knows what a pattern modulates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING, Annotated, Protocol

import numpy as np

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.workload.lengths import normal_grid
from llmserve_sim.workload.random import U32, bernoulli_threshold, first_u32
from llmserve_sim.workload.tables import QuantileTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = [
    "Recurrence",
    "RecurringPattern",
    "ar1",
    "bernoulli_windows",
    "normal",
    "on_off_windows",
    "wave",
    "wave_phase",
]

WAVE_PHASES = 64
"""A wave's phase is one of this many, so that it can be inferred by trying them all."""

_NORMAL_ONE = 1 << 16
_NORMAL_ZERO = 8 * _NORMAL_ONE


class RecurringPattern(Protocol):
    """The parameters of a `Recurrence`: `length_windows` in every `period_windows`, each shifted by ±jitter."""

    @property
    def period_windows(self) -> int:
        """Windows from one occurrence to the next."""

    @property
    def length_windows(self) -> int:
        """Windows that one occurrence lasts."""

    @property
    def jitter_windows(self) -> int:
        """Largest shift of one occurrence."""


@dataclass(frozen=True)
class Recurrence(Checked):
    """One drawn recurrence: the first window of each occurrence. The first may begin before window 0."""

    starts: tuple[Annotated[int, Between(-(1 << 40), 1 << 40, "windows")], ...]
    length: Annotated[int, Between(0, 1 << 40, "windows")]

    @classmethod
    def draw(
        cls, seed: int, purpose: str, pattern: RecurringPattern, windows: int, gain: Floats | None = None
    ) -> Recurrence:
        """Draw phase and jitters from their posterior given `gain`, or from the uniform prior.

        `gain` is float64[seen windows]: log-likelihood of what was seen if the window is inside an occurrence, minus
        the same if it is outside.
        """
        period, jitter = pattern.period_windows, pattern.jitter_windows
        cycles = windows // period + 2
        u = first_u32(seed, purpose, cycles + 1)
        if gain is None or len(gain) == 0:
            phase = int(u[0]) * period >> 32
            shifts = (u[1:] * (2 * jitter + 1) >> 32) - jitter
        else:
            phase, shifts = _posterior(u, pattern, cycles, gain)
        first = (np.arange(cycles) - 1) * period + phase + shifts
        return cls(tuple(int(s) for s in first), pattern.length_windows)

    def mask(self, windows: int) -> Bools:
        """Return bool[windows]: inside an occurrence."""
        inside = np.zeros(windows, dtype=np.bool_)
        for start in self.starts:
            inside[max(start, 0) : max(start + self.length, 0)] = True
        return inside


def _posterior(u: Ints, pattern: RecurringPattern, cycles: int, gain: Floats) -> tuple[int, Ints]:
    period, length, jitter = pattern.period_windows, pattern.length_windows, pattern.jitter_windows
    total = np.concatenate(([0.0], np.cumsum(gain)))
    shifts = np.arange(-jitter, jitter + 1)
    # [phase, cycle, shift]: evidence that this occurrence begins there
    begin = np.arange(period)[:, None, None] + ((np.arange(cycles) - 1) * period)[:, None] + shifts
    evidence = total[np.clip(begin + length, 0, len(gain))] - total[np.clip(begin, 0, len(gain))]
    peak = evidence.max(axis=2, keepdims=True)
    weight = np.exp(evidence - peak)
    log_phase = (np.log(weight.mean(axis=2)) + peak[:, :, 0]).sum(axis=1)
    phase = _pick(np.exp(log_phase - log_phase.max()), int(u[0]))
    chosen = np.array([_pick(row, int(v)) for row, v in zip(weight[phase], u[1:], strict=True)], dtype=np.int64)
    return phase, chosen - jitter


def _pick(weight: Floats, u32: int) -> int:
    cumulative = np.cumsum(weight)
    return min(int(np.searchsorted(cumulative, u32 / U32 * cumulative[-1], side="right")), len(weight) - 1)


def bernoulli_windows(seed: int, purpose: str, probability: float, windows: int) -> Bools:
    """Return bool[windows], each true with `probability`, independently."""
    hits: Bools = first_u32(seed, purpose, windows) < bernoulli_threshold(probability)
    return hits


def on_off_windows(
    seed: int, purpose: str, mean_on: float, mean_off: float, windows: int, *, last_on: bool | None = None
) -> Bools:
    """Return bool[windows] of a two-state Markov chain with geometric sojourns, begun in its stationary state.

    With `last_on`, the chain goes on from a window in that state instead.
    """
    u = first_u32(seed, purpose, windows + 1).tolist()
    leave_on, leave_off = bernoulli_threshold(1.0 / mean_on), bernoulli_threshold(1.0 / mean_off)
    on = u[0] < bernoulli_threshold(mean_on / (mean_on + mean_off)) if last_on is None else last_on
    states = []
    for index, draw in enumerate(u[1:]):
        if index or last_on is not None:
            on = draw >= leave_on if on else draw < leave_off
        states.append(on)
    return np.array(states, dtype=np.bool_)


def normal(seed: int, purpose: str, count: int) -> Floats:
    """Return `count` standard normal numbers, multiples of 2^-16."""
    sampled: Floats = (_normal_table().sample(first_u32(seed, purpose, count)) - _NORMAL_ZERO) / _NORMAL_ONE
    return sampled


def ar1(seed: int, purpose: str, sd: float, correlation: float, windows: int, *, last: float | None = None) -> Floats:
    """Return float64[windows] of a stationary AR(1) of that standard deviation, or its continuation from `last`."""
    if sd == 0.0:
        return np.zeros(windows)
    z = normal(seed, purpose, windows).tolist()
    innovation = sd * sqrt(1.0 - correlation * correlation)
    value, series = 0.0, []
    for index, draw in enumerate(z):
        if index == 0 and last is None:
            value = sd * draw
        else:
            value = correlation * (last if index == 0 and last is not None else value) + innovation * draw
        series.append(value)
    return np.array(series)


def wave(phase: int | Ints, period_windows: int, windows: int) -> Floats:
    """Return float64[windows] in -1..1: a sine of that period, `phase` in 1/WAVE_PHASES of a turn.

    An array of phases, shape [k, 1], gives float64[k, windows].
    """
    turn = np.arange(windows) / period_windows + phase / WAVE_PHASES
    result: Floats = np.sin(2.0 * np.pi * turn)
    return result


def wave_phase(
    seed: int, purpose: str, period_windows: int, seen: Floats | None = None, noise: float | Floats = 1.0
) -> int:
    """Draw a wave's phase, uniform or given what was seen of it.

    `seen` is float64[seen windows] in units of the wave's amplitude, NaN where it was not observed; `noise` its
    standard deviation in the same units.
    """
    u = int(first_u32(seed, purpose, 1)[0])
    if seen is None or not np.isfinite(seen).any():
        return u * WAVE_PHASES >> 32
    candidates = wave(np.arange(WAVE_PHASES)[:, None], period_windows, len(seen))
    misfit = np.nansum(((candidates - seen) / noise) ** 2, axis=1)
    return _pick(np.exp(-0.5 * (misfit - misfit.min())), u)


@lru_cache(maxsize=1)
def _normal_table() -> QuantileTable:
    return QuantileTable.from_values([_NORMAL_ZERO + _NORMAL_ONE * z for z in normal_grid()])
