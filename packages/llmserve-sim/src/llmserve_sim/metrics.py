"""From an engine's integer counts to the numbers an agent observes, and their scaling to vectors.

A `Meter` turns each window's `WindowStats` into one `Measurement`; the schema's observation and the *base* and
*extended* vectors are views of it. The module knows nothing about rewards, tasks or Gymnasium.

Definitions. A request is *due* in the window in which it finishes, is abandoned or is rejected. Percentiles are
nearest-rank over the window's samples. A percentile or ratio over nothing (no first token, no arrival, no draft, no
token delivered) repeats its last value, and is 0 before any. An SLO share over nothing is 1, since
nothing was missed. Only the four basic operations are used, so every platform agrees to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from llmserve_sim.arithmetic import SCALAR
from llmserve_sim.engine.interface import PS_PER_S
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import OBSERVATION_FIELDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.arithmetic import Arithmetic
    from llmserve_sim.engine.interface import WindowStats

__all__ = [
    "BASE",
    "EXTENDED",
    "Feature",
    "Measurement",
    "Meter",
    "ObservationKind",
    "WindowFacts",
    "encode",
    "encode_batch",
    "features",
    "observation_names",
]

ObservationKind = Literal["base", "extended"]
_PS_PER_MS: Final = 10**9


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """What the environment itself knows about a window: the configuration in force and the memory that it takes."""

    batch_cap: int
    kv_budget_fraction: float
    speculation_depth: int
    tier: int
    """0 FP16, 1 INT8, 2 INT4."""
    split: bool
    priority: bool
    reserved_gb: float
    """Per GPU: weights, draft and activations, GB."""
    pool_gb: float
    """Per GPU: the KV pool granted, GB."""
    cotenant_gb: float
    """Per GPU: what the co-tenant holds, GB."""
    memory_pressure: float
    """Share of usable memory that is over the shared cap."""
    stall_s: float
    """Seconds of a reconfiguration's stall that are left at the window's end."""


@dataclass(slots=True)
class Measurement:
    """One window in numbers; units are in the names or in `BASE` and `EXTENDED`."""

    queue_depth: int = 0
    active_requests: int = 0
    kv_cache_occupancy: float = 0.0
    mean_prompt_length: float = 0.0
    p50_ttft_ms: float = 0.0
    p99_ttft_ms: float = 0.0
    p50_itl_ms: float = 0.0
    throughput_tps: float = 0.0
    slo_compliance_rate: float = 1.0
    gpu_memory_used_gb: float = 0.0
    estimated_cost_per_1k: float = 0.0
    request_arrival_rate: float = 0.0
    spec_acceptance_rate: float = 0.0
    eviction_events: int = 0
    step_index: int = 0
    progress: float = 0.0
    queue_priority: int = 0
    queue_standard: int = 0
    oldest_wait_s: float = 0.0
    prefilling_requests: int = 0
    priority_arrival_rate: float = 0.0
    slo_compliance_priority: float = 1.0
    slo_compliance_standard: float = 1.0
    due_requests: int = 0
    abandoned_requests: int = 0
    rejected_requests: int = 0
    goodput_tps: float = 0.0
    forced_evictions: int = 0
    cotenant_gb: float = 0.0
    kv_pool_gb: float = 0.0
    prefix_cache_share: float = 0.0
    memory_pressure: float = 0.0
    stall_s: float = 0.0
    batch_cap: int = 0
    kv_budget_fraction: float = 0.0
    depth_share: float = 0.0
    tier_fp16: int = 0
    tier_int8: int = 0
    tier_int4: int = 0
    split: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Feature:
    """One entry of an observation vector: x for a share, x / (x + scale) for an amount; always in [0, 1]."""

    name: str
    unit: str
    scale: float
    """The amount that maps to one half; 0 for a share, which is passed through."""
    meaning: str


def _observed(name: str, scale: float) -> Feature:
    """Return the row of an observation's field; the schema has its unit and meaning."""
    field = OBSERVATION_FIELDS[name]
    return Feature(name, field.unit, scale, field.meaning)


BASE: Final[tuple[Feature, ...]] = (
    _observed("queue_depth", 64.0),
    _observed("active_requests", 128.0),
    _observed("kv_cache_occupancy", 0.0),
    _observed("mean_prompt_length", 1024.0),
    _observed("p50_ttft_ms", 1000.0),
    _observed("p99_ttft_ms", 4000.0),
    _observed("p50_itl_ms", 20.0),
    _observed("throughput_tps", 4000.0),
    _observed("slo_compliance_rate", 0.0),
    _observed("gpu_memory_used_gb", 40.0),
    _observed("estimated_cost_per_1k", 0.001),
    _observed("request_arrival_rate", 16.0),
    _observed("spec_acceptance_rate", 0.0),
    _observed("eviction_events", 16.0),
    Feature("progress", "share", 0.0, "step_index over the episode's length"),
)
"""The measured fields of `ServeObservation`, in its order, with step_index as a share of the episode's length."""

EXTENDED: Final[tuple[Feature, ...]] = (
    *BASE,
    Feature("queue_priority", "requests", 16.0, "priority requests waiting"),
    Feature("queue_standard", "requests", 64.0, "standard requests waiting"),
    Feature("oldest_wait_s", "s", 2.0, "age of the oldest request that still waits for its first token"),
    Feature("prefilling_requests", "requests", 16.0, "running requests whose prompt is not yet computed"),
    Feature("priority_arrival_rate", "requests/s", 4.0, "priority arrivals per second"),
    Feature("slo_compliance_priority", "share", 0.0, "compliance of the priority class"),
    Feature("slo_compliance_standard", "share", 0.0, "compliance of the standard class"),
    Feature("due_requests", "requests", 64.0, "requests that finished, gave up or were refused"),
    Feature("abandoned_requests", "requests", 16.0, "requests that gave up waiting"),
    Feature("rejected_requests", "requests", 16.0, "requests refused on arrival"),
    Feature("goodput_tps", "tokens/s", 4000.0, "output tokens of requests that met their targets, per second"),
    Feature("forced_evictions", "events", 16.0, "requests evicted because the co-tenant took their blocks"),
    Feature("cotenant_gb", "GB", 40.0, "memory the co-tenant holds per GPU"),
    Feature("kv_pool_gb", "GB", 20.0, "KV pool granted per GPU"),
    Feature("prefix_cache_share", "share", 0.0, "free KV blocks that hold reusable text over blocks granted"),
    Feature("memory_pressure", "share", 0.0, "memory over the shared cap, as a share of usable memory"),
    Feature("stall_s", "s", 2.0, "what is left of a reconfiguration (a tier loading, roles changing)"),
    Feature("batch_cap", "requests", 64.0, "configuration in force: batch_cap"),
    Feature("kv_budget_fraction", "share", 0.0, "configuration in force: kv_budget_fraction"),
    Feature("depth_share", "share", 0.0, "configuration in force: speculation_depth over 8"),
    Feature("tier_fp16", "flag", 0.0, "configuration in force: FP16"),
    Feature("tier_int8", "flag", 0.0, "configuration in force: INT8 (loaded, or loading while stall_s > 0)"),
    Feature("tier_int4", "flag", 0.0, "configuration in force: INT4 (loaded, or loading while stall_s > 0)"),
    Feature("split", "flag", 0.0, "configuration in force: prefill_decode_split"),
    Feature("priority", "flag", 0.0, "configuration in force: priority_routing"),
)
"""Everything an operator's dashboard would show: the base vector, then what the base fields cannot say."""

_TABLES: Final[dict[str, tuple[Feature, ...]]] = {"base": BASE, "extended": EXTENDED}
_GETTERS: Final = {kind: attrgetter(*(row.name for row in table)) for kind, table in _TABLES.items()}
_SCALES: Final = {kind: tuple(row.scale for row in table) for kind, table in _TABLES.items()}
_AMOUNTS: Final = {
    kind: (np.flatnonzero(scales), np.array([scale for scale in scales if scale])) for kind, scales in _SCALES.items()
}
"""Where the amounts stand in a vector, and their scales."""
if {row.name for row in EXTENDED} - {item.name for item in fields(Measurement)}:
    raise AssertionError("every feature is a field of Measurement")


def features(kind: ObservationKind) -> tuple[Feature, ...]:
    """Return the rows of a vector: name, unit, scale and meaning, in order."""
    try:
        return _TABLES[kind]
    except KeyError:
        raise InvalidInputError("observation", "must be one of base, extended", got=kind) from None


def observation_names(kind: ObservationKind) -> tuple[str, ...]:
    """Return the names of a vector's entries, in order."""
    return tuple(row.name for row in features(kind))


def encode(measurement: Measurement, kind: ObservationKind) -> list[float]:
    """Return the vector of a measurement: each entry in [0, 1], see `Feature`."""
    values = _GETTERS[kind](measurement)
    return [x / (x + s) if s else x for x, s in zip(values, _SCALES[kind], strict=True)]


def encode_batch(measurement: Measurement, kind: ObservationKind, size: int) -> NDArray[np.float64]:
    """Return float64[size, entries]: the vectors of a batch's measurement.

    Equals `encode` to the last bit, and needs far fewer calls.
    """
    vectors = np.empty((size, len(_TABLES[kind])))
    for column, values in enumerate(_GETTERS[kind](measurement)):
        vectors[:, column] = values
    columns, scales = _AMOUNTS[kind]
    amounts = vectors[:, columns]
    vectors[:, columns] = amounts / (amounts + scales)
    return vectors


@dataclass(slots=True)
class Meter:
    """Measures windows one after the other, and remembers the values that empty windows repeat."""

    window_s: float
    episode_length: int
    usd_per_s: float
    """Price of the whole fleet."""
    arithmetic: Arithmetic = SCALAR
    """With `ARRAYS`, counts, facts and measurements hold one entry per environment."""
    _last: Measurement = field(default_factory=Measurement)

    def initial(self, cotenant_gb: float) -> Measurement:
        """Return the measurement before any action: an empty queue, and only the co-tenant's memory in use."""
        self._last = Measurement(cotenant_gb=cotenant_gb)
        return self._last

    @property
    def last(self) -> Measurement:
        """The last measurement."""
        return self._last

    def fork(self) -> Meter:
        """Return an independent copy of this meter."""
        return replace(self)

    def recall(self, last: Measurement) -> Meter:
        """Return an independent copy of this meter whose last measurement is `last`."""
        return replace(self, _last=last)

    def read(self, stats: WindowStats, facts: WindowFacts) -> Measurement:
        """Return the measurement of the window that has just been simulated."""
        last = self._last
        seconds = self.window_s
        pool = stats.pool_blocks
        due, met = stats.due, stats.met
        delivered = stats.delivered_tokens
        tier = facts.tier
        ratio, choose = self.arithmetic.ratio, self.arithmetic.choose
        step = last.step_index + 1
        self._last = now = Measurement(
            queue_depth=stats.queue_depth,
            active_requests=stats.running,
            kv_cache_occupancy=stats.used_blocks / pool,
            mean_prompt_length=ratio(stats.prompt_tokens, stats.arrivals, last.mean_prompt_length),
            p50_ttft_ms=choose(stats.ttft_p50_ps < 0, last.p50_ttft_ms, stats.ttft_p50_ps / _PS_PER_MS),
            p99_ttft_ms=choose(stats.ttft_p99_ps < 0, last.p99_ttft_ms, stats.ttft_p99_ps / _PS_PER_MS),
            p50_itl_ms=choose(stats.itl_p50_ps < 0, last.p50_itl_ms, stats.itl_p50_ps / _PS_PER_MS),
            throughput_tps=delivered / seconds,
            slo_compliance_rate=ratio(met[0] + met[1], due[0] + due[1], 1.0),
            gpu_memory_used_gb=facts.reserved_gb + stats.used_blocks / pool * facts.pool_gb,
            estimated_cost_per_1k=ratio(self.usd_per_s * seconds * 1000.0, delivered, last.estimated_cost_per_1k),
            request_arrival_rate=stats.arrivals / seconds,
            spec_acceptance_rate=ratio(stats.accepted_fp, stats.draft_fp, last.spec_acceptance_rate),
            eviction_events=stats.preemptions + stats.forced_evictions,
            step_index=step,
            progress=step / self.episode_length,
            queue_priority=stats.queue[0],
            queue_standard=stats.queue[1],
            oldest_wait_s=stats.oldest_wait_ps / PS_PER_S,
            prefilling_requests=stats.prefilling,
            priority_arrival_rate=stats.arrivals_priority / seconds,
            slo_compliance_priority=ratio(met[0], due[0], 1.0),
            slo_compliance_standard=ratio(met[1], due[1], 1.0),
            due_requests=due[0] + due[1],
            abandoned_requests=stats.abandoned,
            rejected_requests=stats.rejected,
            goodput_tps=sum(stats.good_tokens) / seconds,
            forced_evictions=stats.forced_evictions,
            cotenant_gb=facts.cotenant_gb,
            kv_pool_gb=facts.pool_gb,
            prefix_cache_share=stats.cached_blocks / pool,
            memory_pressure=facts.memory_pressure,
            stall_s=facts.stall_s,
            batch_cap=facts.batch_cap,
            kv_budget_fraction=facts.kv_budget_fraction,
            depth_share=facts.speculation_depth / 8,
            tier_fp16=1 * (tier == 0),
            tier_int8=1 * (tier == 1),
            tier_int4=1 * (tier == 2),
            split=1 * facts.split,
            priority=1 * facts.priority,
        )
        return now
