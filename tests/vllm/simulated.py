"""A workload through the simulator's reference engine, with every step written down."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from tests.vllm.history import History, Step, fleet_of, rates_of

from llmserve_sim.engine.interface import BLOCK_TOKENS, Slo, Traffic, WindowPlan
from llmserve_sim.engine.prefixes import Prefixes
from llmserve_sim.engine.reference import ReferenceEngine

if TYPE_CHECKING:
    from tests.vllm.workloads import Workload

    from llmserve_sim.engine.interface import SchedulerRules
    from llmserve_sim.engine.reference.replica import Replica

__all__ = ["prefixes_of", "simulate"]

FOREVER = 1 << 62
SLO = Slo(ttft_ps=(10**12, 10**12), ttft_ps_per_prompt_token=0, tpot_ps=(10**11, 10**11))


def simulate(workload: Workload, rules: SchedulerRules | None) -> History:
    """Return what the reference makes of a workload under a version's rules."""
    rows = workload.requests
    columns = ([getattr(r, name) for r in rows] for name in ("arrival_ps", "prompt", "output", "priority", "tenant"))
    prefixes = prefixes_of([r.tokens() for r in rows]) if workload.caching else None
    traffic = Traffic(*(np.array(column, dtype=np.int64) for column in columns), prefixes)
    if rules is not None:
        rules = replace(rules, asynchronous=workload.asynchronous, length_known=workload.length_known)
    engine = ReferenceEngine(replace(fleet_of(workload.budget), rules=rules), SLO, traffic, record=True)
    history = History()
    _write_steps(engine.replicas[0], history)
    ends = [start for start, _ in workload.caps[1:]] + [FOREVER]
    for (_, cap), end in zip(workload.caps, ends, strict=True):
        plan = WindowPlan(
            end_ps=end,
            batch_cap=cap,
            depth=workload.depth,
            tier=0,
            split=False,
            priority=workload.priority,
            pool_blocks=workload.blocks,
            resized=False,
            tokens_per_step=rates_of(workload.acceptance),
        )
        engine.step(plan)
        for r in engine.records():
            history.requests[r.id] = (r.scheduled_ps, r.first_ps, r.last_ps, r.preemptions)
    return history


def prefixes_of(texts: list[list[int]]) -> Prefixes:
    """Return the hashes of the requests' blocks, the partly filled last one's included: what a text says next."""
    names: dict[tuple[int, tuple[int, ...]], int] = {}
    """By the hash before and a block's tokens."""
    begun: dict[tuple[int, int], int] = {}
    """By the hash before and a full block's first token."""
    chains: list[list[int]] = []
    for text in texts:
        chains.append([])
        before = -1
        for at in range(0, len(text) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = tuple(text[at : at + BLOCK_TOKENS])
            name = names.setdefault((before, block), len(names))
            begun.setdefault((before, block[0]), name)
            chains[-1].append(name)
            before = name
    for text, chain in zip(texts, chains, strict=True):
        rest = text[len(chain) * BLOCK_TOKENS :]
        if rest:
            before = chain[-1] if chain else -1
            same = begun.get((before, rest[0]))
            chain.append(names.setdefault((before, tuple(rest)), len(names)) if same is None else same)
    blocks = np.array([len(chain) for chain in chains], dtype=np.int64)
    hashes = np.array([name for chain in chains for name in chain], dtype=np.int64)
    return Prefixes(hashes, np.cumsum(blocks) - blocks, blocks)


def _write_steps(replica: Replica, history: History) -> None:
    """Write down each iteration that the replica starts."""
    start = replica.start

    def started(now: int, *arguments: object) -> None:
        start(now, *arguments)  # type: ignore[arg-type]
        iteration = replica.iteration
        if iteration is not None:
            history.steps.append(Step(now, iteration.end_ps, {r.id: new for r, new in iteration.tokens().items()}))

    replica.start = started  # type: ignore[method-assign, assignment]
