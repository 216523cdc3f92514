"""`Scenario`: everything in an episode that does not depend on actions. Start reading here.

`generate(task, seed)` draws one. Each quantity has a stream of its own keyed by (seed, purpose, index), so nothing in
it depends on an action and no stream shifts another. Replaying a recorded trace (`replay.py`) and forecasting
(`forecast.py`) make the same type.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from llmserve_sim.bounds import Between, Checked, sealed
from llmserve_sim.engine.interface import PS_PER_S, Traffic
from llmserve_sim.engine.units import MAX_PRODUCT
from llmserve_sim.workload.arrivals import arrival_times, window_mass
from llmserve_sim.workload.conditions import (
    AcceptanceColumn,
    BytesColumn,
    Conditions,
    Phase,
    PhaseColumn,
    RateColumn,
    StakeColumn,
    draw,
)
from llmserve_sim.workload.lengths import lognormal_lengths, uniform_lengths
from llmserve_sim.workload.random import bernoulli_threshold, first_u32, require_integer
from llmserve_sim.workload.tenants import priorities, tenant_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.tasks.model import Task
    from llmserve_sim.workload.tables import QuantileTable

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

__all__ = ["MAX_WINDOWS", "MAX_WINDOW_PS", "Phase", "Scenario", "generate"]

MAX_WINDOWS = 100_000
"""Most windows in an episode: as many as a task may have, and a log that is read."""
MAX_WINDOW_PS = 100_000 * PS_PER_S
"""Longest window, a day and more."""


@dataclass(frozen=True, eq=False)
class Scenario(Checked):
    """An episode's requests and conditions in n windows, 1 to 100,000; window w is [w, w + 1)·window_ps.

    It keeps copies of its arrays, which cannot be written.
    """

    traffic: Traffic
    """The requests; a request's id is its index."""
    window_ps: Annotated[int, Between(1, MAX_WINDOW_PS, "ps")]
    """Length of a window, integer picoseconds."""
    phase: PhaseColumn
    """int64[n], flags of `Phase`."""
    rate: RateColumn
    """float64[n], expected arrivals per second."""
    acceptance: AcceptanceColumn
    """float64[n, 4], probability that a draft token of this tenant class is accepted."""
    cotenant_bytes: BytesColumn
    """int64[n], bytes per GPU that the co-tenant wants."""
    quality_stake: StakeColumn
    """float64[n, 4], value lost per unit of quality loss, by tenant class."""

    def _relations(self) -> None:
        if not 1 <= self.windows <= MAX_WINDOWS or self.windows * self.window_ps > MAX_PRODUCT:
            self._refuse("phase", f"must have 1 to {MAX_WINDOWS} entries, which last at most {MAX_PRODUCT} ps in all")
        for name in ("rate", "acceptance", "cotenant_bytes", "quality_stake"):
            if len(getattr(self, name)) != self.windows:
                self._refuse(name, f"must be as long as phase, which has {self.windows} entries")

    @property
    def windows(self) -> int:
        """Windows in the episode."""
        return len(self.phase)

    @property
    def window_s(self) -> float:
        """Length of a window, seconds."""
        return self.window_ps / PS_PER_S

    @property
    def loaded(self) -> Bools:
        """bool[n]: burst or spike windows."""
        result: Bools = (self.phase & int(Phase.BURST | Phase.SPIKE)) != 0
        return result

    def arrivals_before(self, window: int) -> int:
        """Return the number of requests that arrive before a window begins."""
        return int(np.searchsorted(self.traffic.arrival_ps, window * self.window_ps))

    def counts(self) -> Ints:
        """Return int64[n]: arrivals per window."""
        edges = np.arange(self.windows + 1, dtype=np.int64) * self.window_ps
        return np.diff(np.searchsorted(self.traffic.arrival_ps, edges))

    def offered_tokens(self) -> Ints:
        """Return int64[n]: output tokens that the arrivals of each window ask for."""
        ends = np.concatenate(([0], np.cumsum(self.counts())))
        total = np.concatenate(([0], np.cumsum(self.traffic.output)))
        return np.diff(total[ends])

    def digest(self) -> str:
        """Return the SHA-256 (hex) of all arrays: two scenarios are equal exactly if their digests are."""
        sha = hashlib.sha256(self.window_ps.to_bytes(8, "little"))
        t = self.traffic
        arrays = (t.arrival_ps, t.prompt, t.output, t.priority, t.tenant, self.phase, self.cotenant_bytes)
        for array in (*arrays, self.rate, self.acceptance, self.quality_stake):
            sha.update(len(array).to_bytes(8, "little"))
            sha.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
        return sha.hexdigest()


def generate(task: Task, seed: int) -> Scenario:
    """Return the episode of a task and a seed (0..2^63-1): the same arrays on every platform and library version."""
    conditions = draw(task, seed, task.windows)
    mass = window_mass(conditions.rate, task.window_ps)
    arrival_ps, counts = arrival_times(seed, mass, task.window_ps, task.traffic.gap_cv)
    return assemble(task, conditions, requests(task, seed, conditions, arrival_ps, counts))


def assemble(task: Task, conditions: Conditions, traffic: Traffic) -> Scenario:
    """Put conditions and requests together."""
    return Scenario(
        traffic=traffic,
        window_ps=task.window_ps,
        phase=conditions.phase,
        rate=conditions.rate,
        acceptance=conditions.acceptance,
        cotenant_bytes=conditions.cotenant_bytes,
        quality_stake=conditions.quality_stake,
    )


def requests(task: Task, seed: int, conditions: Conditions, arrival_ps: Ints, counts: Ints) -> Traffic:
    """Draw prompt, output, class and priority of requests that arrive at these times, `counts` per window.

    `arrival_ps` cannot be written any more.
    """
    loaded = conditions.loaded
    alternate = _alternate(task, conditions.phase, counts)
    return Traffic(
        arrival_ps=sealed(arrival_ps),
        prompt=sealed(_prompts(task, seed, counts, loaded, alternate)),
        output=sealed(sample_outputs(task, first_u32(seed, "output", len(arrival_ps)), alternate)),
        priority=sealed(priorities(task, seed, counts, loaded, (conditions.phase & Phase.SURGE) != 0)),
        tenant=sealed(tenant_classes(task, seed, counts, loaded)),
    )


def _alternate(task: Task, phase: Ints, counts: Ints) -> Bools | None:
    if task.lengths.alternation is None:
        return None
    return np.repeat((phase & Phase.ALTERNATE) != 0, counts)


def _prompts(task: Task, seed: int, counts: Ints, loaded: Bools, alternate: Bools | None) -> Ints:
    lengths = task.lengths
    u = first_u32(seed, "prompt", int(counts.sum()))
    prompt = lognormal_lengths(lengths.prompt).sample(u)
    if alternate is not None and lengths.alternation is not None:
        _overwrite(prompt, np.flatnonzero(alternate), lognormal_lengths(lengths.alternation.prompt), u)
    mega = lengths.mega
    if mega is not None:
        limit = np.where(loaded, bernoulli_threshold(mega.share_burst), bernoulli_threshold(mega.share))
        chosen = np.flatnonzero(first_u32(seed, "mega", len(u)) < np.repeat(limit, counts))
        _overwrite(prompt, chosen, uniform_lengths(mega.min_tokens, mega.max_tokens), u)
    return prompt


def sample_outputs(task: Task, u: Ints, alternate: Bools | None) -> Ints:
    """Return output lengths at these draws; `alternate` says which requests follow the alternation's lengths."""
    output = lognormal_lengths(task.lengths.output).sample(u)
    if alternate is not None and task.lengths.alternation is not None:
        _overwrite(output, np.flatnonzero(alternate), lognormal_lengths(task.lengths.alternation.output), u)
    return output


def _overwrite(values: Ints, at: Ints, table: QuantileTable, u: Ints) -> None:
    values[at] = table.sample(u[at])


def require_window(scenario: Scenario, window: int, field: str) -> None:
    """Raise InvalidInputError unless `window` is one of the scenario's, or its end."""
    require_integer(field, window, 0, scenario.windows)
