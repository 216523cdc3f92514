"""The heuristic: the rules of three serving papers, one function per rule.

    batch cap                      Orca (Yu et al., OSDI 2022): iteration-level batching
    KV budget                      vLLM (Kwon et al., SOSP 2023): PagedAttention's memory management
    tier, depth, priority, split   Decima (Mao et al., SIGCOMM 2019): adapt to the workload as it is measured

Each rule reads one window and sets one knob. It takes numbers, or arrays with one entry per episode, so the same code
acts in one episode and in a search over hundreds. The thresholds are in `thresholds.py`. The module knows nothing about
tasks, hardware or the future; it estimates the GPUs' memory from the windows that it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llmserve_agents.rules.thresholds import Thresholds
from llmserve_sim.metrics import Measurement
from llmserve_sim.schema import ACTION_FIELDS, QUANTIZATION_TIERS, ServeAction, ServeObservation

__all__ = [
    "HeuristicPolicy",
    "Rules",
    "Thresholds",
    "batch_cap",
    "kv_budget",
    "light_demand",
    "measurement_of",
    "prefill_decode_split",
    "priority_routing",
    "speculation_depth",
    "tight_memory",
    "weight_tier",
]

_CAP_HIGH: Final = int(ACTION_FIELDS["batch_cap"].high or 0)
_KV_LOW: Final = float(ACTION_FIELDS["kv_budget_fraction"].low or 0.0)
_KV_HIGH: Final = float(ACTION_FIELDS["kv_budget_fraction"].high or 0.0)
_DEPTH_HIGH: Final = int(ACTION_FIELDS["speculation_depth"].high or 0)
_READ: Final = (
    "queue_depth",
    "active_requests",
    "kv_cache_occupancy",
    "mean_prompt_length",
    "p50_itl_ms",
    "throughput_tps",
    "slo_compliance_rate",
    "gpu_memory_used_gb",
    "request_arrival_rate",
    "spec_acceptance_rate",
    "eviction_events",
)
_UNREPORTED: Final = {
    "priority_arrival_rate": 0.0,
    "forced_evictions": 0.0,
    "cotenant_gb": np.nan,
    "kv_pool_gb": np.nan,
}
"""Values used for figures that a backend does not report."""

_NEVER_SPLIT: Final = 1.01
"""A `split_low` that no share of prompts reaches."""

Numbers = Any
"""A number, or an array with one entry per episode."""


def batch_cap(cap: Numbers, seen: Measurement, limits: Thresholds) -> Numbers:
    """Orca: the batch changes between iterations, so the cap follows the last window's iterations.

    The cap shrinks while decoding is slower than its targets allow, or requests are preempted. It grows while requests
    queue and decoding is quick. It returns to `cap_start` when the queue is short. Source: Yu et al., "Orca: A
    Distributed Serving System for Transformer-Based Generative Models", OSDI 2022, section 4.
    """
    queued = np.greater(seen.queue_depth, limits.queue_high)
    slips = np.less(seen.slo_compliance_rate, limits.slo_slips) & ~queued
    preempted = np.subtract(seen.eviction_events, seen.forced_evictions)
    slow = np.greater(seen.p50_itl_ms, limits.itl_slow_ms) | slips | np.greater(preempted, limits.preemptions_high)
    grown, shrunk = np.floor(cap * limits.grow), np.floor(cap * limits.shrink)
    busy = np.where(np.less(seen.p50_itl_ms, limits.itl_quick_ms), np.minimum(_CAP_HIGH, grown), cap)
    rest = np.where(
        np.less(cap, limits.cap_start), np.minimum(limits.cap_start, grown), np.maximum(limits.cap_start, shrunk)
    )
    # If the lower limit is above the present cap, the cap must not grow to it.
    calmed = np.minimum(cap, np.maximum(limits.cap_low, shrunk))
    return np.where(slow, calmed, np.where(queued, busy, rest))


def kv_budget(kv: Numbers, seen: Measurement, free_gb: Numbers, limits: Thresholds) -> Numbers:
    """vLLM: blocks are allocated on demand from spare memory, and freed when others need it.

    `free_gb` is the memory of one GPU for the pool at a budget of 1. If the neighbour's memory is reported, the pool
    takes what weights and neighbour leave below the memory cap, between two limits, and at least a multiple of the
    blocks in use. If it is not reported (NaN), the budget falls after evictions and rises while the pool is nearly
    full. Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP
    2023, sections 4.3 and 4.5.
    """
    known = np.greater(seen.kv_pool_gb, 0.0) & np.isfinite(seen.cotenant_gb) & np.greater(free_gb, 0.0)
    used_gb = seen.kv_cache_occupancy * np.where(known, seen.kv_pool_gb, 0.0)
    reserved_gb = seen.gpu_memory_used_gb - used_gb
    spare_gb = limits.memory_share * (free_gb + reserved_gb) - reserved_gb - seen.cotenant_gb - limits.spare_gb
    free_gb = np.where(known, free_gb, 1.0)
    wanted = np.maximum(np.minimum(limits.kv_high, spare_gb / free_gb), limits.kv_reserve * used_gb / free_gb)
    wanted = np.minimum(_KV_HIGH, np.maximum(limits.kv_low, wanted))
    follow = np.where(np.abs(wanted - kv) > limits.kv_step, np.round(wanted, 3), kv)
    # A resize costs a stall; `kv_step` = 1 turns resizing off here as well.
    nudge = np.where(np.less(limits.kv_step, 1.0), limits.kv_nudge, 0.0)
    up, down = (np.minimum(_KV_HIGH, np.round(kv + nudge, 3)), np.maximum(_KV_LOW, np.round(kv - nudge, 3)))
    full = np.greater(seen.kv_cache_occupancy, limits.occupancy_high)
    blind = np.where(np.greater(seen.eviction_events, 0), down, np.where(full, up, kv))
    return np.where(known, follow, blind)


def light_demand(light: Numbers, demand_tps: Numbers, limits: Thresholds) -> Numbers:
    """Return whether the smoothed demand is light. It turns light below a threshold, and heavy above a higher one."""
    until = np.where(light, limits.demand_hysteresis * limits.demand_calm_tps, limits.demand_calm_tps)
    return np.less(demand_tps, until)


def tight_memory(tight: Numbers, neighbour_gb: Numbers, limits: Thresholds) -> Numbers:
    """Return whether memory is tight. It turns tight if the neighbour holds much, and ends at a lower threshold."""
    until = np.where(tight, np.subtract(limits.neighbour_high_gb, limits.neighbour_gap_gb), limits.neighbour_high_gb)
    return np.greater(neighbour_gb, until)


def weight_tier(light: Numbers, tight: Numbers, limits: Thresholds) -> Numbers:
    """Decima: the configuration follows the load, here the smoothed demand in tokens (requests times their lengths).

    FP16 gives the best answers, INT8 is the fastest, INT4 the smallest. A swap costs seconds, so both conditions have
    different thresholds for their start and end. Source: Mao et al., "Learning Scheduling Algorithms for Data
    Processing Clusters", SIGCOMM 2019, section 2.
    """
    return np.where(tight, limits.tier_tight, np.where(light, limits.tier_calm, limits.tier_busy))


def speculation_depth(seen: Measurement, windows_without_draft: Numbers, limits: Thresholds) -> Numbers:
    """Decima: the depth of the draft follows the share of accepted draft tokens and the load.

    The share is measured only while drafting, so one window drafts again after some windows without a draft. Source:
    see `weight_tier`.
    """
    bonus = np.less(seen.active_requests, limits.few_requests)
    deep = np.greater_equal(seen.spec_acceptance_rate, limits.acceptance_deep)
    drafted = np.minimum(_DEPTH_HIGH, np.where(deep, limits.depth_deep, limits.depth_shallow) + bonus)
    pays = deep | np.greater_equal(seen.spec_acceptance_rate, limits.acceptance_shallow)
    pays &= np.less_equal(seen.active_requests, limits.many_requests)
    probe = np.where(np.greater_equal(windows_without_draft, limits.probe_windows), limits.depth_probe, 0)
    return np.where(pays, drafted, probe)


def priority_routing(priority_share: Numbers, limits: Thresholds) -> Numbers:
    """Decima: priority requests go first, unless so many arrivals have priority that the others starve.

    A change costs nothing, so only the last window's share decides. Source: see `weight_tier`.
    """
    return np.less_equal(priority_share, limits.priority_share_high)


def prefill_decode_split(prompt_share: Numbers, limits: Thresholds) -> Numbers:
    """Decima: the fleet is split into prefill and decode while the mix of prompts and outputs keeps both halves busy.

    `prompt_share` is the smoothed share of prompts in the demand. Source: see `weight_tier`.
    """
    return np.greater_equal(prompt_share, limits.split_low) & np.less_equal(prompt_share, limits.split_high)


class Rules:
    """All rules together, on `size` episodes at once: Orca for the batch, vLLM for memory, Decima for the rest."""

    def __init__(self, limits: Thresholds, size: int = 1) -> None:
        self._limits = limits
        everywhere = np.ones(size)
        self.cap: NDArray[np.float64] = limits.cap_start * everywhere
        self.kv: NDArray[np.float64] = limits.kv_start * everywhere
        self.depth: NDArray[np.float64] = limits.depth_shallow * everywhere
        self.tier: NDArray[np.float64] = limits.tier_busy * everywhere
        self.split: NDArray[np.bool_] = np.less_equal(limits.split_low * everywhere, 0.0)
        self.priority: NDArray[np.bool_] = np.greater_equal(limits.priority_share_high * everywhere, 0.0)
        self._light = self._tight = np.zeros(size, dtype=np.bool_)
        self._undrafted = np.zeros(size)
        self._demand_tps: Numbers = None
        self._prompt_share: Numbers = None
        self._free_gb = np.zeros((size, len(QUANTIZATION_TIERS)))
        self._rows = np.arange(size)

    def hold(self, action: ServeAction) -> None:
        """Set the knobs of all episodes to a configuration that another agent has chosen."""
        tier = QUANTIZATION_TIERS.index(action.quantization_tier)
        self.cap, self.kv = np.full_like(self.cap, action.batch_cap), np.full_like(self.kv, action.kv_budget_fraction)
        self.depth, self.tier = np.full_like(self.depth, action.speculation_depth), np.full_like(self.tier, tier)
        self.split = np.full_like(self.split, action.prefill_decode_split)
        self.priority = np.full_like(self.priority, action.priority_routing)

    def update(self, seen: Measurement) -> None:
        """Set the knobs after a window that was served with the present ones; `seen` is its measurement."""
        limits = self._limits
        prompts_tps = seen.request_arrival_rate * seen.mean_prompt_length
        demand_tps = prompts_tps + seen.throughput_tps
        prompt_share = prompts_tps / np.maximum(demand_tps, 1.0)
        priority_share = seen.priority_arrival_rate / np.maximum(seen.request_arrival_rate, 1e-9)
        if self._demand_tps is not None:
            demand_tps = self._demand_tps + limits.demand_smoothing * (demand_tps - self._demand_tps)
            prompt_share = self._prompt_share + limits.split_smoothing * (prompt_share - self._prompt_share)
        self._demand_tps, self._prompt_share = demand_tps, prompt_share
        self._undrafted = np.where(self.depth > 0, 0.0, self._undrafted + 1.0)
        free = self._measure_free(seen)
        self.cap = batch_cap(self.cap, seen, limits)
        self.kv = kv_budget(self.kv, seen, free, limits)
        self.depth = speculation_depth(seen, self._undrafted, limits)
        self._light = light_demand(self._light, demand_tps, limits)
        self._tight = tight_memory(self._tight, seen.cotenant_gb, limits)
        self.tier = weight_tier(self._light, self._tight, limits)
        self.priority = priority_routing(priority_share, limits)
        self.split = prefill_decode_split(prompt_share, limits)

    def _measure_free(self, seen: Measurement) -> NDArray[np.float64]:
        """Return the memory of one GPU for the pool at a budget of 1, under the present tier; 0 while it is unknown."""
        tier = self.tier.astype(np.int64)
        # The pool is exactly its share of the free memory, unless the neighbour has cut it; hence the largest seen.
        pool_gb = np.nan_to_num(seen.kv_pool_gb)
        free: NDArray[np.float64] = np.maximum(self._free_gb[self._rows, tier], pool_gb / self.kv)
        self._free_gb[self._rows, tier] = free
        return free

    def actions(self) -> list[ServeAction]:
        """Return the present configurations, one per episode."""
        knobs = (self.cap, self.kv, self.depth, self.tier, self.split, self.priority)
        return [_action(*row) for row in zip(*(knob.tolist() for knob in knobs), strict=True)]


class HeuristicPolicy:
    """Applies the rules in one episode.

    It works with any observation. The memory rule is better if ``metadata.window`` reports the pool and the neighbour.
    """

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self.thresholds = Thresholds() if thresholds is None else thresholds
        self._rules = Rules(self.thresholds)

    def reset(self, task_id: str, seed: int) -> None:
        """Forget the previous episode."""
        self._rules = Rules(self.thresholds)

    def constrain(self, *, can_split: bool) -> None:
        """Switch the rule for the split off in this episode if the deployment cannot split."""
        if not can_split:
            self._rules = Rules(replace(self.thresholds, split_low=_NEVER_SPLIT))

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the next window's configuration."""
        if observation.step_index > 0:  # the first observation has no measurements yet
            self._rules.update(measurement_of(observation))
        return self._rules.actions()[0]


def measurement_of(observation: ServeObservation) -> Measurement:
    """Return the figures that the rules read, as arrays with one entry; NaN for memory that is not reported."""
    window = observation.metadata.get("window")
    reported = window if isinstance(window, Mapping) else {}
    values: dict[str, Any] = {name: np.array([getattr(observation, name)], dtype=np.float64) for name in _READ}
    for name, absent in _UNREPORTED.items():
        value = reported.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        values[name] = np.array([value if number else absent], dtype=np.float64)
    return Measurement(**values)


@lru_cache(maxsize=16384)
def _action(cap: float, kv: float, depth: float, tier: float, split: bool, priority: bool) -> ServeAction:
    return ServeAction(
        batch_cap=int(cap),
        kv_budget_fraction=kv,
        speculation_depth=int(depth),
        quantization_tier=QUANTIZATION_TIERS[int(tier)],
        prefill_decode_split=split,
        priority_routing=priority,
    )
