"""Converts a `Measurement` to the schema's `ServeObservation` and back: the same numbers in two types.

The base fields carry the base vector; `metadata` carries the rest, so that an agent behind a network can build the same
vectors as one in the simulator's process: `vector(observation, kind)` equals `encode(measurement, kind)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.metrics import BASE, EXTENDED, Measurement, ObservationKind, encode
from llmserve_sim.schema import ServeObservation, made

if TYPE_CHECKING:
    from llmserve_sim.reward import RewardTerms

__all__ = ["to_measurement", "to_observation", "vector"]

_DIRECT: Final = (*(row.name for row in BASE if row.name in ServeObservation.model_fields), "step_index")
_IN_METADATA: Final = tuple(row.name for row in EXTENDED if row.name not in ServeObservation.model_fields)


def to_observation(now: Measurement, terms: RewardTerms | None, *, task_id: str, done: bool) -> ServeObservation:
    """Return the observation of a window; `terms` is None for the first one, which follows no action."""
    metadata: dict[str, object] = {"window": {name: getattr(now, name) for name in _IN_METADATA}}
    if terms is not None:
        metadata["reward_terms"] = terms.weighted()
        metadata["reward_shares"] = terms.shares()
    # The numbers are the simulator's own: validating them again would cost more than simulating them.
    values = {
        "queue_depth": now.queue_depth,
        "active_requests": now.active_requests,
        "kv_cache_occupancy": now.kv_cache_occupancy,
        "mean_prompt_length": now.mean_prompt_length,
        "p50_ttft_ms": now.p50_ttft_ms,
        "p99_ttft_ms": now.p99_ttft_ms,
        "p50_itl_ms": now.p50_itl_ms,
        "throughput_tps": now.throughput_tps,
        "slo_compliance_rate": now.slo_compliance_rate,
        "gpu_memory_used_gb": now.gpu_memory_used_gb,
        "estimated_cost_per_1k": now.estimated_cost_per_1k,
        "request_arrival_rate": now.request_arrival_rate,
        "spec_acceptance_rate": now.spec_acceptance_rate,
        "eviction_events": now.eviction_events,
        "step_index": now.step_index,
        "task_id": task_id,
        "reward": 0.0 if terms is None else terms.total,
        "done": done,
        "metadata": metadata,
    }
    return made(ServeObservation, values)


def to_measurement(observation: ServeObservation) -> Measurement:
    """Return the measurement behind an observation.

    Raises `InvalidInputError` naming the entry of ``metadata.window`` that is missing or no number: an observation
    that another backend made has only the base fields.
    """
    window = observation.metadata.get("window")
    if not isinstance(window, dict):
        raise InvalidInputError("metadata.window", "must be a mapping with the extended features", got=window)
    values = {name: getattr(observation, name) for name in _DIRECT}
    for name in _IN_METADATA:
        value = window.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInputError(f"metadata.window.{name}", "must be a number", got=value)
        values[name] = value
    return Measurement(**values)


def vector(observation: ServeObservation, kind: ObservationKind = "base") -> list[float]:
    """Return an observation as a vector with entries in [0, 1]; see `metrics.BASE` and `metrics.EXTENDED`."""
    return encode(to_measurement(observation), kind)
