"""Every number in the heuristic's rules, with its unit, its meaning, and the range for searches.

A `Thresholds` holds numbers for one policy, or arrays with one entry per policy (`stack_thresholds`).
`THRESHOLD_BOUNDS` is the table that the tuner searches. The module knows nothing about the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import QUANTIZATION_TIERS, ServeAction

__all__ = [
    "THRESHOLD_BOUNDS",
    "Bound",
    "Thresholds",
    "centered_thresholds",
    "constant_thresholds",
    "stack_thresholds",
    "validate_thresholds",
]

_FP16, _INT8, _INT4 = range(len(QUANTIZATION_TIERS))


@dataclass(frozen=True, slots=True)
class Bound:
    """The range of a threshold. For some thresholds an end of the range turns the rule off: see `Thresholds`."""

    unit: str
    low: float
    high: float
    log: bool = False
    """Whether it is searched on a logarithmic scale."""
    whole: bool = False
    """Whether it is an integer."""
    tuned: bool = True
    """Whether the tuner changes it. The others matter little, or only if a backend reports little."""


def _number(default: float, unit: str, low: float, high: float, **kind: bool) -> Any:
    return field(default=default, metadata={"bound": Bound(unit, low, high, **kind)})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of the rules. `python -m llmserve_agents.rules.scan` found the defaults, on training seeds."""

    # Orca: batch cap.
    cap_start: float = _number(48, "requests", 1, 512, log=True, whole=True)
    """Batch cap per replica at the start of an episode, and while the queue is short."""
    cap_low: float = _number(16, "requests", 1, 512, log=True, whole=True)
    """Lowest batch cap per replica."""
    grow: float = _number(1.5, "factor", 1.0, 4.0)
    """Factor by which the cap grows; 1 turns this off."""
    shrink: float = _number(0.75, "factor", 0.25, 1.0)
    """Factor by which it shrinks; 1 turns this off."""
    queue_high: float = _number(4, "requests", 0, 200)
    """The queue is long if more requests than this wait."""
    itl_quick_ms: float = _number(18.0, "ms", 4.0, 60.0, log=True)
    """Below this median inter-token latency the batch may grow."""
    itl_slow_ms: float = _number(18.0, "ms", 4.0, 60.0, log=True)
    """Above this one the batch is too large."""
    slo_slips: float = _number(0.8, "share", 0.0, 1.0)
    """If fewer requests than this meet their targets and the queue is short, decoding is too slow; 0 turns this off."""
    preemptions_high: float = _number(0, "events", 0, 200, tuned=False)
    """With more preemptions than this in a window, there are more sequences than blocks for them."""

    # vLLM: memory.
    kv_start: float = _number(0.3, "share", 0.1, 1.0)
    """KV budget of the first window, when the GPUs' memory is unknown."""
    memory_share: float = _number(0.9, "share", 0.5, 1.0, tuned=False)
    """Share of usable memory that weights, KV pool and neighbour may fill together (the tasks' cap)."""
    spare_gb: float = _number(0.0, "GB", -20.0, 20.0, tuned=False)
    """Memory kept free below that, per GPU, because the neighbour's memory changes between windows."""
    kv_high: float = _number(0.6, "share", 0.1, 1.0)
    """Largest budget: what a larger pool caches is hardly ever used again."""
    kv_low: float = _number(0.5, "share", 0.1, 1.0)
    """Smallest budget: the next burst needs blocks."""
    kv_reserve: float = _number(2.0, "factor", 1.0, 10.0)
    """The pool is at least this multiple of the blocks in use: preemptions cost more than memory pressure."""
    kv_step: float = _number(0.15, "share", 0.02, 1.0)
    """Smallest change of the budget, because a resize costs a stall; 1 turns resizing off."""
    kv_nudge: float = _number(0.1, "share", 0.0, 0.3, tuned=False)
    """Step of the budget if the backend does not report the neighbour's memory."""
    occupancy_high: float = _number(0.85, "share", 0.5, 1.0, tuned=False)
    """In that case, the budget rises above this occupancy."""

    # Decima: tier.
    tier_calm: float = _number(_FP16, "tier", _FP16, _INT4, whole=True)
    """Tier for light demand: 0 FP16, 1 INT8, 2 INT4."""
    tier_busy: float = _number(_INT8, "tier", _FP16, _INT4, whole=True)
    """Tier for all other demand, and at the start of an episode."""
    tier_tight: float = _number(_INT8, "tier", _FP16, _INT4, whole=True)
    """Tier while memory is tight."""
    demand_calm_tps: float = _number(500.0, "tokens/s", 100.0, 50_000.0, log=True)
    """Demand (prompt plus output tokens of the whole fleet) is light below this."""
    demand_smoothing: float = _number(0.05, "share", 0.01, 1.0, log=True)
    """Weight of the newest window in the running mean of the demand; small, so that a burst does not swap the tier."""
    demand_hysteresis: float = _number(2.0, "factor", 1.0, 5.0, tuned=False)
    """Demand is light until it exceeds this multiple."""
    neighbour_high_gb: float = _number(80.0, "GB", 0.0, 80.0)
    """Memory is tight if the neighbour holds more than this per GPU."""
    neighbour_gap_gb: float = _number(8.0, "GB", 0.0, 30.0, tuned=False)
    """It stays tight until the neighbour holds this much less than that."""

    # Decima: draft.
    acceptance_shallow: float = _number(0.45, "share", 0.0, 1.01)
    """Share of accepted draft tokens from which a shallow draft pays."""
    acceptance_deep: float = _number(0.65, "share", 0.0, 1.01)
    """Share from which a deep draft pays; a value above 1 turns deep drafts off."""
    depth_shallow: float = _number(2, "tokens", 0, 8, whole=True)
    """Depth of the shallow draft."""
    depth_deep: float = _number(3, "tokens", 0, 8, whole=True)
    """Depth of the deep draft."""
    few_requests: float = _number(0, "requests", 0, 256)
    """With fewer running requests than this, drafts are one token deeper, because compute is free."""
    many_requests: float = _number(1024, "requests", 8, 1024, log=True)
    """With more running requests than this there is no draft, because a large batch has no free compute."""
    probe_windows: float = _number(10, "windows", 1, 120, log=True)
    """After this many windows without a draft, one window drafts again, to measure the acceptance."""
    depth_probe: float = _number(1, "tokens", 0, 8, whole=True, tuned=False)
    """Depth of that draft."""

    # Decima: routing.
    priority_share_high: float = _number(0.4, "share", -0.1, 1.0)
    """Priority requests go first if at most this share of arrivals has priority; a value below 0 turns this off."""
    split_low: float = _number(1.01, "share", 0.0, 1.01)
    """The fleet is split if prompts are at least this share of the demand; a value above 1 turns this off."""
    split_high: float = _number(1.0, "share", 0.0, 1.0)
    """And if they are at most this share."""
    split_smoothing: float = _number(0.3, "share", 0.05, 1.0, log=True, tuned=False)
    """Weight of the newest window in the running mean of that share."""


THRESHOLD_BOUNDS: Final[Mapping[str, Bound]] = MappingProxyType(
    {item.name: item.metadata["bound"] for item in fields(Thresholds)}
)
"""The range of every threshold, in the order of `Thresholds`."""


def validate_thresholds(numbers: Mapping[str, object], *, source: str = "thresholds") -> Thresholds:
    """Return the thresholds in a mapping; raises `InvalidInputError` if one is missing, unknown or out of its range."""
    if set(numbers) != set(THRESHOLD_BOUNDS):
        missing, unknown = THRESHOLD_BOUNDS.keys() - numbers.keys(), numbers.keys() - THRESHOLD_BOUNDS.keys()
        raise InvalidInputError(
            source, "must name every threshold and nothing else", got=sorted(map(str, missing | unknown))
        )
    for name, bound in THRESHOLD_BOUNDS.items():
        value = numbers[name]
        known = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        if not known or not bound.low <= float(str(value)) <= bound.high:
            raise InvalidInputError(
                f"{source}.{name}", f"must be in {bound.low:g}..{bound.high:g} {bound.unit}", got=value
            )
    given: dict[str, Any] = dict(numbers)
    return Thresholds(**given)


def stack_thresholds(many: Sequence[Thresholds]) -> Thresholds:
    """Return thresholds whose numbers are arrays float64[n], for n policies that run in one batch."""
    columns: dict[str, Any] = {
        name: np.array([getattr(one, name) for one in many], dtype=np.float64) for name in THRESHOLD_BOUNDS
    }
    return Thresholds(**columns)


def centered_thresholds(action: ServeAction, rules: Thresholds | None = None) -> Thresholds:
    """Return `rules` with `action` as the configuration at the start of an episode and under normal load."""
    tier = QUANTIZATION_TIERS.index(action.quantization_tier)
    return replace(
        Thresholds() if rules is None else rules,
        cap_start=action.batch_cap,
        cap_low=min(action.batch_cap, 16),
        kv_start=action.kv_budget_fraction,
        tier_busy=tier,
        tier_calm=tier,
        tier_tight=tier,
        depth_shallow=action.speculation_depth,
        priority_share_high=1.0 if action.priority_routing else -0.1,
        split_low=0.0 if action.prefill_decode_split else 1.01,
        split_high=1.0,
    )


def constant_thresholds(action: ServeAction) -> Thresholds:
    """Return thresholds under which no rule changes a knob: the policy holds `action` for the whole episode."""
    return replace(
        centered_thresholds(action),
        grow=1.0,
        shrink=1.0,
        kv_step=1.0,
        acceptance_shallow=0.0,
        depth_deep=action.speculation_depth,
        depth_probe=action.speculation_depth,
    )
