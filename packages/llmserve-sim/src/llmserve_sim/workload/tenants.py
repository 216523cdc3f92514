"""Tenant classes and the priority class: shares of requests, draft acceptance, quality stakes.

Draft acceptance and quality stakes are per window and class, class and priority per request. Engines keep four
classes; columns past a task's own describe a class that sends nothing, with offset 0 and stake 0.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from llmserve_sim.engine.interface import TENANTS
from llmserve_sim.workload.random import U32, bernoulli_threshold, first_u32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llmserve_sim.tasks.model import Task

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["ACCEPTANCE_MAX", "ACCEPTANCE_MIN", "acceptance_by_class", "priorities", "quality_stakes", "tenant_classes"]

ACCEPTANCE_MIN, ACCEPTANCE_MAX = 0.05, 0.95
"""Draft acceptance per class and window is clipped to this range (simulator.md)."""
_ACCEPTANCE_STEPS = 1 << 16


def acceptance_by_class(task: Task, mean: Floats) -> Floats:
    """Return float64[windows, 4] from the mean class's acceptance [windows], clipped, in multiples of 2^-16.

    The rounding makes the value independent of the last bit of a platform's sine.
    """
    offsets = [t.acceptance_offset for t in task.tenants]
    offsets += [0.0] * (TENANTS - len(offsets))
    value = np.clip(mean[:, None] + np.array(offsets), ACCEPTANCE_MIN, ACCEPTANCE_MAX)
    rounded: Floats = np.rint(value * _ACCEPTANCE_STEPS) / _ACCEPTANCE_STEPS
    return rounded


def quality_stakes(task: Task, loaded: Bools) -> Floats:
    """Return float64[windows, 4]: value lost per unit of quality loss, by whether the window is loaded."""
    stakes = np.zeros((2, TENANTS))
    for column, tenant in enumerate(task.tenants):
        stakes[:, column] = tenant.quality_stake, tenant.quality_stake_burst
    return stakes[loaded.astype(np.int64)]


def tenant_classes(task: Task, seed: int, counts: Ints, loaded: Bools) -> Ints:
    """Return int64[requests] of class indices; `counts` is requests per window, `loaded` bool[windows]."""
    calm = _limits([t.share for t in task.tenants])
    burst = _limits([t.share_burst for t in task.tenants])
    u = first_u32(seed, "tenant", int(counts.sum()))
    classes = np.zeros(len(u), dtype=np.int64)
    for low, high in zip(calm, burst, strict=True):
        # One scalar comparison where the shares never change, one per-request limit where they do.
        classes += u >= (low if low == high else np.repeat(np.where(loaded, high, low), counts))
    return classes


def priorities(task: Task, seed: int, counts: Ints, loaded: Bools, surge: Bools) -> Ints:
    """Return int64[requests]: 0 priority, 1 standard."""
    u = first_u32(seed, "priority", int(counts.sum()))
    p = task.priority
    if p.surge is None and p.share == p.share_burst:
        return (u >= bernoulli_threshold(p.share)).astype(np.int64)
    limit = np.where(loaded, bernoulli_threshold(p.share_burst), bernoulli_threshold(p.share))
    if p.surge is not None:
        limit = np.where(surge, bernoulli_threshold(p.surge.share), limit)
    return (u >= np.repeat(limit, counts)).astype(np.int64)


def _limits(shares: Sequence[float]) -> list[int]:
    return [min(round(total * U32), U32) for total in accumulate(shares[:-1])]
