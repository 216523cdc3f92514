"""The simulator's first scheduler, which every built-in task uses: vLLM V1 in outline.

It differs from vLLM's own (`rules.py`): it decodes first, takes a prompt's blocks at once, and a step needs only the
blocks of its expected tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import FP, TENANTS
from llmserve_sim.engine.reference.request import blocks_of
from llmserve_sim.engine.reference.steps import Batch

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import WindowPlan
    from llmserve_sim.engine.reference.replica import Replica
    from llmserve_sim.engine.reference.request import Request

__all__ = ["schedule"]


def schedule(replica: Replica, now: int, plan: WindowPlan, budget: int) -> Batch:
    """Choose the requests of the next step and allocate their blocks; preempt where blocks are short."""
    # Decoding requests first: each needs blocks for the tokens of this step. The newest is preempted until all fit.
    preempted = False
    while True:
        n = len(replica.decoding)
        depth = max(min(plan.depth, budget // max(n, 1) - 1), 0)
        rates = [plan.tokens_per_step[tenant][depth] for tenant in range(TENANTS)]
        gains = [replica.gain(tenant, rates[tenant]) for tenant in range(TENANTS)]
        demand = sum(blocks_of(r.stored + gains[r.tenant]) - r.blocks for r in replica.decoding)
        if demand <= replica.num_free_blocks:
            break
        replica.preempt(replica.victim(plan.priority))
        replica.ledger.stats.preemptions += 1
        preempted = True
    for r in replica.decoding:
        replica.allocate(r, blocks_of(r.stored + gains[r.tenant]))
    left = budget - n * (depth + 1)

    # Then the prompts that are partly computed.
    chunks: list[tuple[Request, int]] = []
    for r in replica.prefilling:
        new = min(r.target - r.computed, left)
        if new > 0:
            chunks.append((r, new))
            left -= new

    # Then the waiting requests, strictly in order: one that does not fit blocks those behind it.
    while not preempted and left > 0 and replica.running < plan.batch_cap:
        queue = replica.next_queue(plan.priority)
        if queue is None:
            break
        r = queue[0]
        if r.has_kv:
            replica.reset_counter_if_first(r.tenant)
            most = -(-rates[r.tenant] // FP)  # the most tokens that a step can yield; they must fit
            if blocks_of(r.stored + most) > replica.num_free_blocks or depth + 1 > left:
                break
            queue.popleft()
            r.has_kv = False
            replica.allocate(r, blocks_of(r.stored + replica.gain(r.tenant, rates[r.tenant])))
            replica.decoding.append(r)
            left -= depth + 1
        else:
            r.target = r.prompt + r.produced
            blocks = blocks_of(r.target)
            if blocks > replica.num_free_blocks:
                break
            queue.popleft()
            r.computed = replica.prefix_hit(r, plan)
            if r.scheduled_ps < 0:
                r.scheduled_ps = now
            replica.allocate(r, blocks)
            replica.prefilling.append(r)
            new = min(r.target - r.computed, left)
            chunks.append((r, new))
            left -= new

    idle = not replica.decoding and not chunks
    assert not idle or not replica.load, "if nothing runs, the head of the queue always fits"
    return Batch(depth, rates, chunks, list(replica.decoding))
