"""The documented rules of three serving papers, one function per rule: what a careful engineer deploys without training.

    batch cap      Orca (Yu et al., OSDI 2022): iteration-level batching
    KV budget      vLLM (Kwon et al., SOSP 2023): PagedAttention's memory management
    tier, depth    Decima (Mao et al., SIGCOMM 2019): adapt to the workload as it is measured

Each rule reads one observation and moves one knob. The numbers in them are `Thresholds`, chosen on training seeds by
`heuristic_scan.py`. The module knows nothing about tasks, hardware or the future: what it needs of the GPUs it works out
from what it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmserve_sim.schema import ACTION_FIELDS, QuantizationTier, ServeAction, ServeObservation

__all__ = ["HeuristicPolicy", "Thresholds", "batch_cap", "kv_budget", "speculation_depth", "weight_tier"]

_CAP_HIGH: Final = int(ACTION_FIELDS["batch_cap"].high or 0)
_KV_LOW: Final = float(ACTION_FIELDS["kv_budget_fraction"].low or 0.0)
_KV_HIGH: Final = float(ACTION_FIELDS["kv_budget_fraction"].high or 0.0)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Every number in the rules. Defaults: `python -m llmserve_agents.heuristic_scan` on training seeds."""

    # Orca: batch cap.
    cap_start: int = 48
    """Batch cap at rest, requests per replica: where an episode begins and where a calm queue returns to."""
    cap_low: int = 16
    """The cap is never lowered below this, requests per replica."""
    grow: float = 1.5
    """Factor by which the cap grows."""
    shrink: float = 0.75
    """Factor by which it shrinks."""
    queue_high: int = 4
    """More waiting requests than this are a queue."""
    itl_quick_ms: float = 18.0
    """Below this median inter-token latency, in ms, a larger batch can be afforded."""
    itl_slow_ms: float = 18.0
    """Above it, the batch is too large."""
    slo_slips: float = 0.9
    """A compliance below this with no queue to blame is a slip of decoding speed."""
    preemptions_high: int = 0
    """More preemptions than this in a window mean more sequences than the blocks can hold."""

    # vLLM: memory.
    kv_start: float = 0.6
    """KV budget of the first window, before anything is known of the GPUs."""
    memory_share: float = 0.9
    """Share of usable memory that weights, KV pool and the neighbour may fill together (the tasks' cap)."""
    spare_gb: float = 0.0
    """Kept free below that, GB per GPU: the neighbour moves between two windows."""
    kv_reserve: float = 3.0
    """The pool is not lowered below this multiple of the blocks in use: preempting costs more than pressure."""
    kv_step: float = 0.15
    """A budget within this of the present one is not worth the stall of a resize."""
    kv_nudge: float = 0.1
    """Step of the budget where the backend does not report the neighbour's memory."""
    occupancy_high: float = 0.85
    """There, an occupancy above this asks for more."""

    # Decima: tier and draft.
    demand_calm_tps: float = 500.0
    """Below this demand, in prompt plus output tokens per second of the whole fleet, weights are FP16, else INT8."""
    demand_smoothing: float = 0.05
    """Weight of the newest window in the running mean of the demand: a swap of tiers must outlast a burst."""
    demand_hysteresis: float = 2.0
    """FP16 is left again above this multiple of the calm demand."""
    acceptance_shallow: float = 0.45
    """From this share of accepted draft tokens on, a shallow draft pays."""
    acceptance_deep: float = 0.8
    """From this one on, a deep draft does."""
    depth_shallow: int = 2
    """Depth of the shallow draft, tokens."""
    depth_deep: int = 4
    """Depth of the deep one, tokens."""
    few_requests: int = 0
    """With fewer running requests than this, drafts are one token deeper: there is compute to spare."""
    probe_windows: int = 10
    """After this many windows without a draft, one window drafts again, to measure the acceptance."""
    depth_probe: int = 1
    """Depth of that draft, tokens."""


def batch_cap(cap: int, seen: ServeObservation, limits: Thresholds) -> int:
    """Orca: the batch is revised between iterations, so the cap follows what the last window's iterations showed.

    It shrinks while decoding is slower than its targets allow, or preempts; grows with the queue while decoding is quick;
    and returns to its resting value once nothing waits. Source: Yu et al., "Orca: A Distributed Serving System for
    Transformer-Based Generative Models", OSDI 2022, section 4.
    """
    queued = seen.queue_depth > limits.queue_high
    slips = seen.slo_compliance_rate < limits.slo_slips and not queued
    preempted = seen.eviction_events - int(_reported(seen, "forced_evictions") or 0)
    if seen.p50_itl_ms > limits.itl_slow_ms or slips or preempted > limits.preemptions_high:
        return max(limits.cap_low, int(cap * limits.shrink))
    if queued:
        return min(_CAP_HIGH, int(cap * limits.grow)) if seen.p50_itl_ms < limits.itl_quick_ms else cap
    if cap < limits.cap_start:
        return min(limits.cap_start, int(cap * limits.grow))
    return max(limits.cap_start, int(cap * limits.shrink))


def kv_budget(kv: float, seen: ServeObservation, free_gb: float, limits: Thresholds) -> float:
    """vLLM: blocks are granted on demand out of memory that is spare, and given back when others need it.

    `free_gb` is what one GPU has for the pool at a budget of 1. Where the neighbour's memory is reported, the pool fills
    what weights and neighbour leave below the cap, but never less than a reserve above the blocks in use. Where it is not,
    the budget backs off after evictions and grows while it is nearly full. Source: Kwon et al., "Efficient Memory
    Management for Large Language Model Serving with PagedAttention", SOSP 2023, sections 4.3 and 4.5.
    """
    pool_gb, neighbour_gb = _reported(seen, "kv_pool_gb"), _reported(seen, "cotenant_gb")
    if not pool_gb or neighbour_gb is None or not free_gb:
        if seen.eviction_events > 0:
            return max(_KV_LOW, round(kv - limits.kv_nudge, 3))
        if seen.kv_cache_occupancy > limits.occupancy_high:
            return min(_KV_HIGH, round(kv + limits.kv_nudge, 3))
        return kv
    used_gb = seen.kv_cache_occupancy * pool_gb
    reserved_gb = seen.gpu_memory_used_gb - used_gb
    spare_gb = limits.memory_share * (free_gb + reserved_gb) - reserved_gb - neighbour_gb - limits.spare_gb
    wanted = max(spare_gb, limits.kv_reserve * used_gb) / free_gb
    wanted = min(_KV_HIGH, max(_KV_LOW, wanted))
    return round(wanted, 3) if abs(wanted - kv) > limits.kv_step else kv


def weight_tier(tier: QuantizationTier, demand_tps: float, limits: Thresholds) -> QuantizationTier:
    """Decima: the configuration follows the load, here the smoothed demand in tokens (requests times their lengths).

    FP16 answers best and INT8 fastest; a swap costs seconds, so there are two thresholds with a gap between. INT4 is
    never chosen: it is slower than INT8 in large batches and its answers cost more than its memory is worth. Source: Mao
    et al., "Learning Scheduling Algorithms for Data Processing Clusters", SIGCOMM 2019, section 2.
    """
    if demand_tps < limits.demand_calm_tps:
        return "FP16"
    return tier if demand_tps < limits.demand_hysteresis * limits.demand_calm_tps else "INT8"


def speculation_depth(seen: ServeObservation, windows_without_draft: int, limits: Thresholds) -> int:
    """Decima: draft as deep as the present workload rewards, by the share of draft tokens that it accepts and by load.

    The share is measured only while drafting, so after some windows without a draft one window probes. Source: as
    `weight_tier`.
    """
    bonus = 1 if seen.active_requests < limits.few_requests else 0
    if seen.spec_acceptance_rate >= limits.acceptance_deep:
        return limits.depth_deep + bonus
    if seen.spec_acceptance_rate >= limits.acceptance_shallow:
        return limits.depth_shallow + bonus
    return limits.depth_probe if windows_without_draft >= limits.probe_windows else 0


class HeuristicPolicy:
    """The rules together: Orca for the batch, vLLM for memory, Decima for tier and draft.

    Priority requests always go first, as vLLM's priority scheduling has it; the fleet is never split, since a split
    halves what each phase has, and costs more than it gains on the validators' tasks. Works with any observation: the memory rule is sharper
    where ``metadata.window`` reports the KV pool and the neighbour.
    """

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self.thresholds = Thresholds() if thresholds is None else thresholds
        self._start()

    def reset(self, task_id: str, seed: int) -> None:
        """Forget the previous episode."""
        self._start()

    def _start(self) -> None:
        limits = self.thresholds
        self._cap = limits.cap_start
        self._kv = limits.kv_start
        self._tier: QuantizationTier = "INT8"
        self._depth = limits.depth_shallow
        self._undrafted = 0
        self._demand_tps: float | None = None
        self._free_gb: dict[QuantizationTier, float] = {}

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the next window's configuration."""
        if observation.step_index > 0:  # the first observation shows nothing that a rule could use
            self._follow(observation)
        return ServeAction(
            batch_cap=self._cap,
            kv_budget_fraction=self._kv,
            speculation_depth=self._depth,
            quantization_tier=self._tier,
            priority_routing=True,
        )

    def _follow(self, seen: ServeObservation) -> None:
        limits = self.thresholds
        demand = seen.request_arrival_rate * seen.mean_prompt_length + seen.throughput_tps
        if self._demand_tps is not None:
            demand = self._demand_tps + limits.demand_smoothing * (demand - self._demand_tps)
        self._demand_tps = demand
        self._undrafted = 0 if self._depth else self._undrafted + 1
        # A pool is at most its share of what is free, and exactly that unless the neighbour has cut it.
        free = max(self._free_gb.get(self._tier, 0.0), (_reported(seen, "kv_pool_gb") or 0.0) / self._kv)
        self._free_gb[self._tier] = free
        self._cap = batch_cap(self._cap, seen, limits)
        self._kv = kv_budget(self._kv, seen, free, limits)
        self._depth = speculation_depth(seen, self._undrafted, limits)
        self._tier = weight_tier(self._tier, demand, limits)


def _reported(seen: ServeObservation, name: str) -> float | None:
    """An entry of ``metadata.window``, or None where the backend does not report it."""
    window = seen.metadata.get("window")
    value = window.get(name) if isinstance(window, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
