"""Replays a recorded load in the simulated engine, with the same arrivals, lengths, memory and limits.

In windows of one second and with fixed knobs: one replica, one weight format, no drafting, no priorities, no deadline; a
prefix cache only where the run is known to have had one. Where the engine's version schedules asynchronously, the reference engine
runs that version's rules, since they show in the time to first token; else the engine of episodes runs its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.engine import Engine, KernelEngine, ReferenceEngine, Slo, Traffic, WindowPlan
from llmserve_sim.engine.interface import DEPTHS, FP, PS_PER_S, SEQS_MAX, TENANTS
from llmserve_sim.hardware import SCHEDULERS, Deployment
from llmserve_sim.memory import MemoryModel
from llmserve_sim.performance.roofline import Roofline
from llmserve_sim.performance.tables import build_fleet, build_tier

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.fidelity.data import RequestLog

    Floats = NDArray[np.float64]

__all__ = ["RecordedRun", "Replay", "replay"]

_NO_SLO = Slo((1 << 60, 1 << 60), 0, (1 << 60, 1 << 60))
_WINDOW_S = 1.0
_SHORT_WINDOW_S = 0.02  # about an iteration: where the prefix cache fills in mid-run
_NO_DRAFT = tuple(tuple(FP for _ in range(DEPTHS)) for _ in range(TENANTS))


@dataclass(frozen=True)
class RecordedRun(Checked):
    """What is known of a measured run's set-up."""

    name: str
    deployment: Deployment
    max_num_seqs: Annotated[int, Between(1, SEQS_MAX, "sequences")]
    """Most requests running at once."""
    kv_blocks: Annotated[int, Between(1, 1 << 40, "blocks")] | None = None
    """16-token KV blocks; None: what the memory model gives the whole GPU."""
    cached_share: Annotated[float, Between(0, 1)] = 0.0
    """Share of each prompt that the prefix cache holds once the run is warm."""
    distinct_prompts: Annotated[int, Between(1, 1 << 40, "prompts")] | None = None
    """The load generator sends this many prompts in turn, so the cache holds `cached_share` of all later ones and none of
    these; None: of every prompt. All requests have to arrive at once."""
    weight_format: str = "FP16"
    """Of `quantization.WEIGHT_FORMATS`."""
    kv_cache_dtype: str = "auto"
    """"auto" (BF16) or "fp8"."""


@dataclass(frozen=True, eq=False)
class Replay:
    """The simulated run. Per request, sorted by arrival: `first_s`, `last_s`; per window: the rest."""

    first_s: Floats
    last_s: Floats
    running: Floats
    waiting: Floats
    kv_percent: Floats
    preemptions: int


def replay(run: RecordedRun, arrival_s: Floats, prompt: Floats, output: Floats) -> Replay:
    """Serve the load to its last token.

    Args:
        run: deployment and limits.
        arrival_s: arrival times in ascending order, seconds.
        prompt: prompt tokens.
        output: output tokens.
    """
    count = len(arrival_s)
    longest = int((prompt + output).max())
    fleet = build_fleet(run.deployment, max_len=longest, max_unfinished=count)
    if (run.weight_format, run.kv_cache_dtype) != ("FP16", "auto"):
        tier = build_tier(Roofline(run.deployment, run.weight_format, run.kv_cache_dtype))
        fleet = replace(fleet, tiers=(tier, tier, tier))
    blocks = run.kv_blocks
    if blocks is None:
        blocks = MemoryModel(run.deployment, longest).requirement("FP16", 1.0, speculating=False).wanted_blocks
    traffic = Traffic(
        arrival_ps=np.round(arrival_s * PS_PER_S).astype(np.int64),
        prompt=prompt.astype(np.int64),
        output=output.astype(np.int64),
        priority=np.ones(count, dtype=np.int64),
        tenant=np.zeros(count, dtype=np.int64),
    )
    rules = SCHEDULERS.get(run.deployment.engine.name)
    engine: Engine
    if rules is not None and rules.asynchronous:
        engine = ReferenceEngine(replace(fleet, rules=rules), _NO_SLO, traffic, record=True)
    else:
        engine = KernelEngine(fleet, _NO_SLO, traffic, record=True)
    first, last = np.full(count, np.nan), np.full(count, np.nan)
    levels: list[tuple[int, int, float]] = []
    preemptions = finished = window = 0
    window_s = _WINDOW_S if run.distinct_prompts is None else _SHORT_WINDOW_S
    admitted = 0
    while finished < count:
        window += 1
        warm = run.distinct_prompts is None or admitted >= run.distinct_prompts
        stats = engine.step(
            WindowPlan(
                end_ps=round(window * window_s * PS_PER_S),
                batch_cap=run.max_num_seqs,
                depth=0,
                tier=0,
                split=False,
                priority=False,
                pool_blocks=blocks,
                resized=False,
                hit_q10=round(1024 * run.cached_share) if warm else 0,
                tokens_per_step=_NO_DRAFT,
            )
        )
        for record in engine.records():
            first[record.id] = record.first_ps / PS_PER_S
            last[record.id] = record.last_ps / PS_PER_S
            finished += 1
        admitted = count - stats.queue_depth
        preemptions += stats.preemptions
        levels.append((stats.running, stats.queue_depth, 100.0 * stats.used_blocks / stats.pool_blocks))
    running, waiting, kv = np.array(levels, dtype=np.float64).T
    frontend_s = 1e-6 * run.deployment.engine.frontend_us
    return Replay(first + frontend_s, last + frontend_s, running, waiting, kv, preemptions)


def replay_log(run: RecordedRun, log: RequestLog) -> Replay:
    """`replay` of a recorded request log."""
    return replay(run, log.arrival_s, log.prompt, log.output)
