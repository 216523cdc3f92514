"""Every number in the heuristic's rules, with its unit, its meaning and the range in which a search may move it.

A `Thresholds` holds numbers for one policy, or arrays with one entry per policy where many are run at once (`stack_thresholds`).
`THRESHOLD_BOUNDS` is the table that the tuner searches. The module knows nothing about what the rules do with them.
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
    """In what range a threshold lies; an end of it turns the rule off where `Thresholds` says so."""

    unit: str
    low: float
    high: float
    log: bool = False
    """Whether it is searched by factors rather than by differences."""
    whole: bool = False
    """Whether it is an integer."""
    tuned: bool = True
    """Whether the tuner moves it; the others matter little, or only where a backend reports little."""


def _number(default: float, unit: str, low: float, high: float, **kind: bool) -> Any:
    return field(default=default, metadata={"bound": Bound(unit, low, high, **kind)})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Defaults: `python -m llmserve_agents.rules.scan` on training seeds."""

    # Orca: batch cap.
    cap_start: float = _number(48, "requests", 1, 512, log=True, whole=True)
    """Batch cap at rest, per replica: where an episode begins and where a calm queue returns to."""
    cap_low: float = _number(16, "requests", 1, 512, log=True, whole=True)
    """The cap is never lowered below this, per replica."""
    grow: float = _number(1.5, "factor", 1.0, 4.0)
    """By which the cap grows; 1 turns growing off."""
    shrink: float = _number(0.75, "factor", 0.25, 1.0)
    """By which it shrinks; 1 turns shrinking off."""
    queue_high: float = _number(4, "requests", 0, 200)
    """More waiting requests than this are a queue."""
    itl_quick_ms: float = _number(18.0, "ms", 4.0, 60.0, log=True)
    """Below this median inter-token latency a larger batch can be afforded."""
    itl_slow_ms: float = _number(18.0, "ms", 4.0, 60.0, log=True)
    """Above it, the batch is too large."""
    slo_slips: float = _number(0.8, "share", 0.0, 1.0)
    """A compliance below this with no queue to blame is a slip of decoding speed; 0 turns that off."""
    preemptions_high: float = _number(0, "events", 0, 200, tuned=False)
    """More preemptions than this in a window mean more sequences than the blocks can hold."""

    # vLLM: memory.
    kv_start: float = _number(0.3, "share", 0.1, 1.0)
    """KV budget of the first window, before anything is known of the GPUs."""
    memory_share: float = _number(0.9, "share", 0.5, 1.0, tuned=False)
    """Share of usable memory that weights, KV pool and the neighbour may fill together (the tasks' cap)."""
    spare_gb: float = _number(0.0, "GB", -20.0, 20.0, tuned=False)
    """Kept free below that, per GPU: the neighbour moves between two windows."""
    kv_high: float = _number(0.6, "share", 0.1, 1.0)
    """The pool takes no more than this of spare memory: what it then caches is hardly ever asked for again."""
    kv_low: float = _number(0.5, "share", 0.1, 1.0)
    """Nor less than this: the next burst finds the blocks that it needs, if the neighbour has not taken them."""
    kv_reserve: float = _number(2.0, "factor", 1.0, 10.0)
    """The pool is not lowered below this multiple of the blocks in use: preempting costs more than pressure."""
    kv_step: float = _number(0.15, "share", 0.02, 1.0)
    """A budget within this of the present one is not worth the stall of a resize; 1 turns resizing off."""
    kv_nudge: float = _number(0.1, "share", 0.0, 0.3, tuned=False)
    """Step of the budget where the backend does not report the neighbour's memory."""
    occupancy_high: float = _number(0.85, "share", 0.5, 1.0, tuned=False)
    """There, an occupancy above this asks for more."""

    # Decima: tier.
    tier_calm: float = _number(_FP16, "tier", _FP16, _INT4, whole=True)
    """The tier of light demand: 0 FP16, 1 INT8, 2 INT4."""
    tier_busy: float = _number(_INT8, "tier", _FP16, _INT4, whole=True)
    """The tier of all other demand, and of an episode's beginning."""
    tier_tight: float = _number(_INT8, "tier", _FP16, _INT4, whole=True)
    """The tier for while the neighbour leaves little memory."""
    demand_calm_tps: float = _number(500.0, "tokens/s", 100.0, 50_000.0, log=True)
    """Below this demand, prompt plus output tokens of the whole fleet, demand is light."""
    demand_smoothing: float = _number(0.05, "share", 0.01, 1.0, log=True)
    """Weight of the newest window in the running mean of the demand: a swap of tiers must outlast a burst."""
    demand_hysteresis: float = _number(2.0, "factor", 1.0, 5.0, tuned=False)
    """Demand is light until it exceeds this multiple."""
    neighbour_high_gb: float = _number(80.0, "GB", 0.0, 80.0)
    """Where the neighbour holds more than this per GPU, memory is tight."""
    neighbour_gap_gb: float = _number(8.0, "GB", 0.0, 30.0, tuned=False)
    """It is tight until the neighbour holds this much less than that."""

    # Decima: draft.
    acceptance_shallow: float = _number(0.45, "share", 0.0, 1.01)
    """From this share of accepted draft tokens on, a shallow draft pays."""
    acceptance_deep: float = _number(0.65, "share", 0.0, 1.01)
    """From this one on, a deep draft does; above 1 it never does."""
    depth_shallow: float = _number(2, "tokens", 0, 8, whole=True)
    """Depth of the shallow draft."""
    depth_deep: float = _number(3, "tokens", 0, 8, whole=True)
    """Depth of the deep one."""
    few_requests: float = _number(0, "requests", 0, 256)
    """With fewer running requests than this, drafts are one token deeper: there is compute to spare."""
    many_requests: float = _number(1024, "requests", 8, 1024, log=True)
    """With more running requests than this nothing is drafted: a large batch has no compute to spare."""
    probe_windows: float = _number(10, "windows", 1, 120, log=True)
    """After this many windows without a draft, one window drafts again, to measure the acceptance."""
    depth_probe: float = _number(1, "tokens", 0, 8, whole=True, tuned=False)
    """Depth of that draft."""

    # Decima: routing.
    priority_share_high: float = _number(0.4, "share", -0.1, 1.0)
    """Priority requests go first unless more than this share of arrivals has priority; below 0 they never do."""
    split_low: float = _number(1.01, "share", 0.0, 1.01)
    """The fleet is split while prompts are at least this share of the demand; above 1 it never is."""
    split_high: float = _number(1.0, "share", 0.0, 1.0)
    """And at most this share."""
    split_smoothing: float = _number(0.3, "share", 0.05, 1.0, log=True, tuned=False)
    """Weight of the newest window in the running mean of that share."""


THRESHOLD_BOUNDS: Final[Mapping[str, Bound]] = MappingProxyType(
    {item.name: item.metadata["bound"] for item in fields(Thresholds)}
)
"""The range of every threshold, in the order of `Thresholds`."""


def validate_thresholds(numbers: Mapping[str, object], *, source: str = "thresholds") -> Thresholds:
    """Return the thresholds that a mapping names, all of them; raises `InvalidInputError` for any that is amiss."""
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
    """Return thresholds whose numbers are float64[n] arrays: those of n policies that are run at once."""
    columns: dict[str, Any] = {
        name: np.array([getattr(one, name) for one in many], dtype=np.float64) for name in THRESHOLD_BOUNDS
    }
    return Thresholds(**columns)


def centered_thresholds(action: ServeAction, rules: Thresholds | None = None) -> Thresholds:
    """Return the rules' thresholds with `action` as where they rest and where an episode begins."""
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
    """Return thresholds under which no rule ever moves anything: the policy holds `action` from beginning to end."""
    return replace(
        centered_thresholds(action),
        grow=1.0,
        shrink=1.0,
        kv_step=1.0,
        acceptance_shallow=0.0,
        depth_deep=action.speculation_depth,
        depth_probe=action.speculation_depth,
    )
