"""A recorded or fitted trace as an episode: its requests, under a task's rules.

What a trace does not record comes from the task: tenant class and priority are drawn per request, acceptance and the
co-tenant's memory per window. Every window counts as calm, because a trace names no phases. Windows without arrivals
follow the last arrival, so that running requests can finish.

A recorded request asks for as many tokens as it got (vLLM's `max_tokens`). So one of more than `max_len_tokens` is
refused when it arrives, as vLLM refuses it, where a task's own traffic is cut short instead.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from llmserve_sim.engine.interface import PS_PER_S, Traffic
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.conditions import Conditions, draw
from llmserve_sim.workload.scenario import MAX_WINDOWS, Scenario, assemble
from llmserve_sim.workload.tenants import priorities, quality_stakes, tenant_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.tasks.model import Task
    from llmserve_sim.workload.traces import Trace

__all__ = ["DRAIN_S", "MAX_REPLAY_WINDOWS", "scenario_from_trace", "too_long"]

DRAIN_S = 60.0
"""Simulated seconds after a trace's end, unless told otherwise: several times the patience of the built-in tasks."""

MAX_REPLAY_WINDOWS = MAX_WINDOWS
"""Longest replay."""
_MAX_DRAIN_S = 86_400


def too_long(trace: Trace, max_len_tokens: int) -> NDArray[np.bool_]:
    """Return bool[n]: requests whose prompt and output together are more than `max_len_tokens`."""
    result: NDArray[np.bool_] = trace.prompt + trace.output > max_len_tokens
    return result


def scenario_from_trace(trace: Trace, task: Task, seed: int = 0, *, drain_s: float = DRAIN_S) -> Scenario:
    """Return the episode that replays `trace` under `task`: as many windows of the task's length as it needs.

    `drain_s` (0..86400 s, rounded up to whole windows) is the time after the trace's end in which nothing arrives.
    The task's own traffic, lengths and episode length do not matter. A request that is `too_long` for the task is
    rejected when it arrives; its prompt then counts as at least `max_len_tokens`, which the fleet refuses. Raises InvalidInputError for a `drain_s` out of
    its range and for a replay of more than MAX_REPLAY_WINDOWS windows.
    """
    _require_drain(drain_s)
    windows = -(-trace.duration_ps // task.window_ps) + -(-round(drain_s * PS_PER_S) // task.window_ps)
    if windows > MAX_REPLAY_WINDOWS:
        raise InvalidInputError(
            "trace", f"must span at most {MAX_REPLAY_WINDOWS} windows of {task.window_s:g} s: cut it with duration_s"
        )
    edges = np.arange(windows + 1, dtype=np.int64) * task.window_ps
    counts = np.diff(np.searchsorted(trace.arrival_ps, edges))
    quiet = task.model_copy(
        update={
            "traffic": task.traffic.model_copy(
                update={"burst": None, "spikes": None, "on_off": None, "rate_noise": None, "diurnal": None}
            ),
            "lengths": task.lengths.model_copy(update={"mega": None, "alternation": None}),
            "priority": task.priority.model_copy(update={"surge": None}),
        }
    )
    drawn = draw(quiet, seed, windows)
    calm = np.zeros(windows, dtype=np.bool_)
    conditions = Conditions(
        phase=drawn.phase,
        rate=counts / task.window_s,
        acceptance=drawn.acceptance,
        cotenant_bytes=drawn.cotenant_bytes,
        quality_stake=quality_stakes(task, calm),
    )
    refused = too_long(trace, task.max_len_tokens)
    traffic = Traffic(
        arrival_ps=trace.arrival_ps,
        prompt=np.where(refused, np.maximum(trace.prompt, task.max_len_tokens), trace.prompt)
        if refused.any()
        else trace.prompt,
        output=trace.output,
        priority=priorities(quiet, seed, counts, calm, calm),
        tenant=tenant_classes(quiet, seed, counts, calm),
    )
    return assemble(quiet, conditions, traffic)


def _require_drain(value: object) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not isfinite(value)
        or not 0 <= value <= _MAX_DRAIN_S
    ):
        raise InvalidInputError("drain_s", f"must be a number in 0..{_MAX_DRAIN_S}", got=value)
