"""The conditions of each window of an episode: load, phases, draft acceptance, the co-tenant's memory.

`draw` draws them from (task, seed). With `Seen`, it draws the future conditional on what has been observed. It never
uses what has not been observed, so forecasts may use it. Requests are drawn in `scenario.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from math import log, log1p, pi, sqrt
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.bounds import Between, Column
from llmserve_sim.engine.units import TENANTS
from llmserve_sim.workload.patterns import (
    Recurrence,
    ar1,
    bernoulli_windows,
    normal,
    on_off_windows,
    wave,
    wave_phase,
)
from llmserve_sim.workload.tenants import acceptance_by_class, quality_stakes

if TYPE_CHECKING:
    from llmserve_sim.tasks.model import Task

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

__all__ = ["Conditions", "Phase", "Seen", "draw", "rates"]

_MEMORY_STEP = 1 << 20
_RATE_STEPS = 1 << 20
_TINY_RATE = 1e-6


class Phase(IntFlag):
    """The phase of a window, as flags; 0 is calm. BURST and SPIKE windows are *loaded*."""

    CALM = 0
    BURST = 1
    SPIKE = 2
    ALTERNATE = 4
    """Lengths follow the task's alternation."""
    SURGE = 8
    """The priority share follows the task's surge."""
    OFF = 16
    """The off state of an on/off process."""


LOADED = int(Phase.BURST | Phase.SPIKE)


PhaseColumn = Annotated[Ints, Column(Between(0, 31, "flags of Phase"))]
RateColumn = Annotated[Floats, Column(Between(0, 1e12, "requests/s"), dtype=np.float64)]
AcceptanceColumn = Annotated[Floats, Column(Between(0, 1), dtype=np.float64, inner=(TENANTS,))]
BytesColumn = Annotated[Ints, Column(Between(0, 1 << 50, "bytes"))]
StakeColumn = Annotated[Floats, Column(Between(0, 1e6), dtype=np.float64, inner=(TENANTS,))]


@dataclass(frozen=True, eq=False)
class Conditions:
    """Per-window arrays of n windows. `Scenario` checks them.

    phase int64[n] (flags of `Phase`), rate float64[n] (requests/s), acceptance float64[n, 4], cotenant_bytes int64[n]
    (per GPU), quality_stake float64[n, 4].
    """

    phase: PhaseColumn
    rate: RateColumn
    acceptance: AcceptanceColumn
    cotenant_bytes: BytesColumn
    quality_stake: StakeColumn

    @property
    def loaded(self) -> Bools:
        """bool[n]: burst or spike."""
        result: Bools = (self.phase & LOADED) != 0
        return result


@dataclass(frozen=True, eq=False)
class Seen:
    """What an operator has observed of the first m windows; each array has length m."""

    arrivals: Ints
    priority_arrivals: Ints
    alternate_gain: Floats
    """Log-likelihood of the prompts seen under the alternation's lengths, minus under the usual ones."""
    loaded: Bools
    """Burst or spike, which the arrivals reveal afterwards."""
    mean_acceptance: Floats
    """Of the mean class, before the dip; NaN where nothing was drafted."""
    cotenant_bytes: Ints

    def __len__(self) -> int:
        return len(self.arrivals)


def draw(task: Task, seed: int, windows: int, seen: Seen | None = None) -> Conditions:
    """Draw the conditions of `windows` windows; with `seen`, conditional on the first m, whose rows are unused."""
    if seen is not None and len(seen) == 0:
        seen = None
    phase = _phases(task, seed, windows, seen)
    loaded = (phase & LOADED) != 0
    return Conditions(
        phase=phase,
        rate=_rounded(rates(task, phase) * _rate_noise(task, seed, windows, seen)),
        acceptance=acceptance_by_class(task, _mean_acceptance(task, seed, windows, loaded, seen)),
        cotenant_bytes=_cotenant(task, seed, windows, seen),
        quality_stake=quality_stakes(task, loaded),
    )


def _rounded(rate: Floats) -> Floats:
    """Return the rate in multiples of 2^-20, so that the last bit of a platform's exponential cannot move a request."""
    result: Floats = np.rint(rate * _RATE_STEPS) / _RATE_STEPS
    return result


def rates(task: Task, phase: Ints) -> Floats:
    """Return float64[windows]: the expected rate of windows in these phases, requests/s, before any noise."""
    t = task.traffic
    rate = np.full(len(phase), t.rate_rps)
    if t.on_off is not None:
        rate[(phase & Phase.OFF) != 0] = t.on_off.off_rate_rps
    if t.spikes is not None:
        rate[(phase & Phase.SPIKE) != 0] = t.spikes.rate_rps
    if t.burst is not None:
        rate[(phase & Phase.BURST) != 0] = t.burst.rate_rps
    return rate * _diurnal(task, len(phase))


def _diurnal(task: Task, windows: int) -> Floats:
    d = task.traffic.diurnal
    if d is None:
        return np.ones(windows)
    swing = (d.peak_to_trough - 1.0) / (d.peak_to_trough + 1.0)
    hour = (np.arange(windows) - d.trough_window) / d.period_windows
    result: Floats = 1.0 - swing * np.cos(2.0 * pi * hour)
    return result


def _phases(task: Task, seed: int, windows: int, seen: Seen | None) -> Ints:
    t = task.traffic
    phase = np.zeros(windows, dtype=np.int64)
    if t.on_off is not None:
        last_on, begin = _last_state(task, seen)
        on = on_off_windows(
            seed, "on_off", t.on_off.mean_on_windows, t.on_off.mean_off_windows, windows - begin, last_on=last_on
        )
        phase[begin:] |= np.where(on, 0, int(Phase.OFF))
    if t.spikes is not None:
        phase[bernoulli_windows(seed, "spike", t.spikes.probability, windows)] |= int(Phase.SPIKE)
    if t.burst is not None:
        gain = None if seen is None else _burst_gain(task, seen)
        phase[Recurrence.draw(seed, "burst", t.burst, windows, gain).mask(windows)] |= int(Phase.BURST)
    if task.priority.surge is not None:
        gain = None if seen is None else _surge_gain(task, seen)
        phase[Recurrence.draw(seed, "surge", task.priority.surge, windows, gain).mask(windows)] |= int(Phase.SURGE)
    if task.lengths.alternation is not None:
        gain = None if seen is None else seen.alternate_gain
        drawn = Recurrence.draw(seed, "alternation", task.lengths.alternation, windows, gain)
        phase[drawn.mask(windows)] |= int(Phase.ALTERNATE)
    return phase


def _last_state(task: Task, seen: Seen | None) -> tuple[bool | None, int]:
    """Return (state of the last window seen, windows seen): on when its arrivals are likelier so."""
    on_off = task.traffic.on_off
    if seen is None or on_off is None:
        return None, 0
    gain = _poisson_gain(seen.arrivals[-1:], task.traffic.rate_rps, on_off.off_rate_rps, task.window_s)
    return bool(gain[0] > 0.0), len(seen)


def _poisson_gain(counts: Ints, rate: float, other: float, window_s: float) -> Floats:
    a, b = max(rate, _TINY_RATE) * window_s, max(other, _TINY_RATE) * window_s
    gain: Floats = counts.astype(np.float64) * log(a / b) - (a - b)
    return gain


def _burst_gain(task: Task, seen: Seen) -> Floats:
    t = task.traffic
    assert t.burst is not None
    gain = _poisson_gain(seen.arrivals, t.burst.rate_rps, t.rate_rps, task.window_s)
    if t.spikes is not None and t.spikes.probability > 0.0:
        # Outside a burst the window may still have been a spike: log((1-q)·base + q·spike) instead of log(base).
        spike = _poisson_gain(seen.arrivals, t.spikes.rate_rps, t.rate_rps, task.window_s)
        q = t.spikes.probability
        calm = log1p(-q) if q < 1.0 else -np.inf
        gain = gain - np.logaddexp(calm, log(q) + spike).astype(np.float64)
    return gain


def _surge_gain(task: Task, seen: Seen) -> Floats:
    surge = task.priority.surge
    assert surge is not None
    inside = min(max(surge.share, 1e-6), 1.0 - 1e-6)
    outside = np.clip(np.where(seen.loaded, task.priority.share_burst, task.priority.share), 1e-6, 1.0 - 1e-6)
    standard = seen.arrivals - seen.priority_arrivals
    gain: Floats = seen.priority_arrivals * np.log(inside / outside) + standard * np.log((1 - inside) / (1 - outside))
    return gain


def _rate_noise(task: Task, seed: int, windows: int, seen: Seen | None) -> Floats | float:
    noise = task.traffic.rate_noise
    if noise is None or noise.cv == 0.0:
        return 1.0
    variance = log1p(noise.cv * noise.cv)
    begin, last = 0, None
    if seen is not None:
        begin = len(seen)
        known = np.where(seen.loaded, int(Phase.BURST if task.traffic.burst else Phase.SPIKE), 0)
        expected = rates(task, known)[-1] * task.window_s
        # Shrunk by how much one window's count says about the rate (variance of a Poisson logarithm: 1/mean).
        trust = variance / (variance + 1.0 / max(expected, 1e-3))
        last = trust * log((seen.arrivals[-1] + 0.5) / (expected + 0.5))
    factor = np.ones(windows)
    series = ar1(seed, "rate_noise", sqrt(variance), noise.correlation, windows - begin, last=last)
    factor[begin:] = np.exp(series - 0.5 * variance)
    return factor


def _mean_acceptance(task: Task, seed: int, windows: int, loaded: Bools, seen: Seen | None) -> Floats:
    a = task.acceptance
    begin = 0
    last: float | None = None
    observed: Floats | None = None
    spread = a.noise_sd * sqrt((1 + a.noise_correlation) / (1 - a.noise_correlation))
    if seen is not None:
        begin = len(seen)
        if a.swing > 0.0:
            observed = (seen.mean_acceptance - a.mean) / a.swing
    noise_in_swings = max(spread, 0.01) / a.swing if a.swing > 0.0 else 1.0
    sine = a.swing * wave(
        wave_phase(seed, "drift", a.period_windows, observed, noise_in_swings), a.period_windows, windows
    )
    if seen is not None:
        drafted = np.flatnonzero(np.isfinite(seen.mean_acceptance))
        if len(drafted):
            at = int(drafted[-1])
            age = begin - 1 - at
            last = float(seen.mean_acceptance[at] - a.mean - sine[at]) * a.noise_correlation**age
    noise = np.zeros(windows)
    noise[begin:] = ar1(seed, "drift_noise", a.noise_sd, a.noise_correlation, windows - begin, last=last)
    result: Floats = a.mean + sine + noise - a.burst_dip * loaded
    return result


def _cotenant(task: Task, seed: int, windows: int, seen: Seen | None) -> Ints:
    c = task.cotenant
    if c is None:
        return np.zeros(windows, dtype=np.int64)
    middle, amplitude = 0.5e9 * (c.high_gb + c.low_gb), 0.5e9 * (c.high_gb - c.low_gb)
    observed: Floats | None = None
    if seen is not None and amplitude > 0.0:
        observed = (seen.cotenant_bytes.astype(np.float64) - middle) / amplitude
    noise = max(c.noise_gb * 1e9, 0.01 * amplitude)
    phase = wave_phase(seed, "cotenant", c.period_windows, observed, noise / amplitude if amplitude else 1.0)
    level = middle + amplitude * wave(phase, c.period_windows, windows)
    if c.noise_gb > 0.0:
        level += 1e9 * c.noise_gb * normal(seed, "cotenant_noise", windows)
    # Whole MiB, so that the last bit of a platform's sine cannot change a block count.
    steps: Ints = np.rint(np.maximum(level, 0.0) / _MEMORY_STEP).astype(np.int64)
    return steps * _MEMORY_STEP
