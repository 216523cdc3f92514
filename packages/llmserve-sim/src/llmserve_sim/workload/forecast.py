"""Forecasts: futures drawn conditional on what has been observed, for planners that must not know the true future.

`resample` keeps the past of a scenario and redraws the rest from the task's own distributions, conditional on what an
operator has observed. It is a function of the past, the task and the seed: two scenarios that agree up to the cut get
the same forecast. Latent phases (of bursts, waves) are inferred, not copied.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from llmserve_sim.bounds import sealed
from llmserve_sim.engine.interface import Traffic
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.arrivals import arrival_times, window_mass
from llmserve_sim.workload.conditions import Conditions, Phase, Seen, draw
from llmserve_sim.workload.lengths import lognormal_lengths
from llmserve_sim.workload.random import U32, first_u32
from llmserve_sim.workload.scenario import Scenario, requests, require_window, sample_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.tasks.model import Task
    from llmserve_sim.tasks.traffic import LengthModel

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["resample"]

T = TypeVar("T", bound=np.generic)


def resample(
    scenario: Scenario,
    task: Task,
    seed: int,
    from_window: int,
    *,
    produced: Ints | None = None,
    finished: Bools | None = None,
    drafted: Bools | None = None,
) -> Scenario:
    """Return a scenario that equals `scenario` in all that was seen before `from_window` begins, redrawn beyond.

    Requests that arrived before the cut keep index, arrival, prompt, class and priority; with k of them, `finished`
    is bool[k] (their output is known and kept) and `produced` int64[k], the tokens that the others have streamed:
    their output is drawn conditional on being longer. Left out, none is finished and nothing was produced.
    `drafted` is bool[from_window]: windows whose acceptance was observed, because something was drafted; all, if left
    out. The co-tenant's demand and the arrivals of past windows are always seen. Windows before the cut keep their
    rows. Raises InvalidInputError naming the argument.
    """
    require_window(scenario, from_window, "from_window")
    kept = scenario.arrivals_before(from_window)
    done = _argument("finished", finished, np.zeros(kept, dtype=np.bool_))
    streamed = _argument("produced", produced, np.zeros(kept, dtype=np.int64))
    if (streamed < 0).any():
        raise InvalidInputError("produced", "must not be negative")
    seen = _seen(scenario, task, from_window, _argument("drafted", drafted, np.ones(from_window, dtype=np.bool_)))
    future = draw(task, seed, scenario.windows, seen)
    past = scenario.traffic

    mass = window_mass(future.rate[from_window:], scenario.window_ps)
    arrival_ps, counts = arrival_times(seed, mass, scenario.window_ps, task.traffic.gap_cv)
    arrival_ps += from_window * scenario.window_ps
    coming = requests(task, seed, _tail(future, from_window), arrival_ps, counts)
    output = _outputs(scenario, task, seed, done, streamed)
    traffic = Traffic(
        arrival_ps=sealed(np.concatenate((past.arrival_ps[:kept], coming.arrival_ps))),
        prompt=sealed(np.concatenate((past.prompt[:kept], coming.prompt))),
        output=sealed(np.concatenate((output, coming.output))),
        priority=sealed(np.concatenate((past.priority[:kept], coming.priority))),
        tenant=sealed(np.concatenate((past.tenant[:kept], coming.tenant))),
    )

    def join(old: NDArray[T], new: NDArray[T]) -> NDArray[T]:
        return np.concatenate((old[:from_window], new[from_window:]))

    return Scenario(
        traffic=traffic,
        window_ps=scenario.window_ps,
        phase=join(scenario.phase, future.phase),
        rate=join(scenario.rate, future.rate),
        acceptance=join(scenario.acceptance, future.acceptance),
        cotenant_bytes=join(scenario.cotenant_bytes, future.cotenant_bytes),
        quality_stake=join(scenario.quality_stake, future.quality_stake),
    )


def _argument(name: str, value: NDArray[T] | None, default: NDArray[T]) -> NDArray[T]:
    if value is None:
        return default
    if value.shape != default.shape or value.dtype != default.dtype:
        raise InvalidInputError(name, f"must be a {default.dtype.name} array of length {len(default)}", got=value)
    return value


def _tail(conditions: Conditions, begin: int) -> Conditions:
    return Conditions(
        phase=conditions.phase[begin:],
        rate=conditions.rate[begin:],
        acceptance=conditions.acceptance[begin:],
        cotenant_bytes=conditions.cotenant_bytes[begin:],
        quality_stake=conditions.quality_stake[begin:],
    )


def _outputs(scenario: Scenario, task: Task, seed: int, done: Bools, streamed: Ints) -> Ints:
    """Return past requests' outputs: kept if finished, else drawn conditional on exceeding what was streamed."""
    kept = len(done)
    alternation = task.lengths.alternation
    alternate = None
    below = lognormal_lengths(task.lengths.output).cdf_u32(streamed)
    if alternation is not None:
        at = scenario.traffic.arrival_ps[:kept] // scenario.window_ps
        alternate = (scenario.phase[at] & Phase.ALTERNATE) != 0
        below = np.where(alternate, lognormal_lengths(alternation.output).cdf_u32(streamed), below)
    below = np.where(streamed > 0, below, 0)
    u = first_u32(seed, "output_left", kept).astype(np.uint64)  # the product needs all 64 bits
    drawn = sample_outputs(
        task, below + (u * (U32 - below).astype(np.uint64) >> np.uint64(32)).astype(np.int64), alternate
    )
    return np.where(done, scenario.traffic.output[:kept], np.maximum(drawn, streamed + 1))


def _seen(scenario: Scenario, task: Task, windows: int, drafted: Bools) -> Seen:
    counts = scenario.counts()[:windows]
    kept = int(counts.sum())
    window_of = np.repeat(np.arange(windows), counts)
    loaded = scenario.loaded[:windows]
    mean = scenario.acceptance[:windows, 0] - task.tenants[0].acceptance_offset + task.acceptance.burst_dip * loaded
    return Seen(
        arrivals=counts,
        priority_arrivals=np.bincount(
            window_of, weights=scenario.traffic.priority[:kept] == 0, minlength=windows
        ).astype(np.int64),
        alternate_gain=_alternate_gain(task, scenario.traffic.prompt[:kept], window_of, windows),
        loaded=loaded,
        mean_acceptance=np.where(drafted, mean, np.nan),
        cotenant_bytes=scenario.cotenant_bytes[:windows],
    )


def _alternate_gain(task: Task, prompt: Ints, window_of: Ints, windows: int) -> Floats:
    alternation = task.lengths.alternation
    if alternation is None:
        return np.zeros(windows)
    difference = _log_density(alternation.prompt, prompt) - _log_density(task.lengths.prompt, prompt)
    # Clipped, so that no single prompt decides: mega prompts and prompts at a bound fit neither log-normal.
    return np.bincount(window_of, weights=np.clip(difference, -3.0, 3.0), minlength=windows).astype(np.float64)


def _log_density(model: LengthModel, tokens: Ints) -> Floats:
    sigma = max(model.sigma, 0.05)
    z = (np.log(tokens) - log(lognormal_lengths(model).quantile(0.5))) / sigma
    density: Floats = -0.5 * z * z - log(sigma)
    return density
