"""One step of vLLM's V1 scheduler, under the rules of one of its versions (`SchedulerRules`).

It follows `Scheduler.schedule` of vLLM: running requests first, in order of admission, each with the slots of its new
tokens; then, if none was preempted, the waiting requests. Two things are the simulator's own: a request that comes with
its KV (split prefill and decode), and the depth of speculation, which is cut for all if the budget is too small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import BLOCK_TOKENS, TENANTS
from llmserve_sim.engine.reference.request import blocks_of

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import SchedulerRules, WindowPlan
    from llmserve_sim.engine.reference.replica import Replica
    from llmserve_sim.engine.reference.request import Request

__all__ = ["Batch", "schedule", "victim_of"]


@dataclass(slots=True, eq=False)
class Batch:
    """What one step computes."""

    depth: int
    rates: list[int]
    """Fixed-point tokens per step, by tenant."""
    chunks: list[tuple[Request, int]]
    decoding: list[Request]


def victim_of(running: list[Request], priority: bool) -> Request:
    """Return the request to preempt: the last; with `priority` the first admitted of the newest, standard class first.

    `running` is in order of admission.
    """
    return max(running, key=lambda r: (r.priority, r.arrival_ps)) if priority else running[-1]


def schedule(replica: Replica, now: int, plan: WindowPlan, budget: int, rules: SchedulerRules) -> Batch:
    """Choose the requests of the next step and allocate their blocks; preempt where blocks are short."""
    while True:
        batch, preempted = _step(replica, now, plan, budget, rules)
        # A request that was alone and preempted itself leaves an empty step, which takes no time.
        if batch.chunks or batch.decoding or not preempted:
            return batch


def _step(replica: Replica, now: int, plan: WindowPlan, budget: int, rules: SchedulerRules) -> tuple[Batch, bool]:
    depth = max(min(plan.depth, budget // max(len(replica.decoding), 1) - 1), 0)
    rates = [plan.tokens_per_step[tenant][depth] for tenant in range(TENANTS)]
    scheduled, preempted = _schedule_running(replica, plan, depth, budget, rules)
    left = budget - sum(scheduled.values())
    while not preempted and left > 0 and replica.running < plan.batch_cap:
        queue = replica.next_queue(plan.priority)
        if queue is None:
            break
        request = queue[0]
        new = _admissible(replica, request, plan, depth, left, rules)
        if new == 0:
            break
        if request.has_kv:
            replica.reset_counter_if_first(request.tenant)
        elif request.scheduled_ps < 0:
            request.scheduled_ps = now
        replica.admit(request)
        request.has_kv = False
        scheduled[request] = new
        left -= new
    assert scheduled or preempted or not replica.load, "if nothing runs, the head of the queue always fits"
    chunks = [(r, scheduled[r]) for r in replica.prefilling if r in scheduled]
    return Batch(depth, rates, chunks, [r for r in replica.decoding if r in scheduled]), preempted


def _schedule_running(
    replica: Replica, plan: WindowPlan, depth: int, budget: int, rules: SchedulerRules
) -> tuple[dict[Request, int], bool]:
    """Return the new tokens of the running requests that are scheduled, and whether one was preempted."""
    running, preempted, index = replica.in_order(), False, 0
    chosen: dict[Request, int] = {}
    while index < len(running) and budget > 0:
        request = running[index]
        decodes = request in replica.decoding
        computed = request.stored if decodes else request.computed
        new = min(depth + 1 if decodes else request.target - request.computed, budget)
        slots = computed + new + plan.depth
        while blocks_of(slots) - request.blocks > replica.kv.num_free:
            victim = victim_of(running, plan.priority)
            running.remove(victim)
            if victim in chosen:
                budget += chosen.pop(victim)
                index -= 1
            replica.preempt(victim)
            replica.ledger.stats.preemptions += 1
            preempted = True
            if victim is request:
                break
        if request not in running:
            if plan.priority and rules.resumes_after_self_preemption:
                continue
            break
        replica.kv.allocate(request, max(slots, request.blocks * BLOCK_TOKENS))
        replica.kv.computed(request, computed + 1 if decodes else computed + new)
        chosen[request] = new
        budget -= new
        index += 1
    return chosen, preempted


def _admissible(
    replica: Replica, request: Request, plan: WindowPlan, depth: int, left: int, rules: SchedulerRules
) -> int:
    """Return the new tokens of the waiting request that is next, with its blocks allocated; 0 if it does not fit."""
    kv = replica.kv
    if request.has_kv:
        slots = request.stored + depth + 1 + plan.depth
        hit = kv.share(request)
        if kv.shortage(request, slots, hit) > 0 or depth + 1 > left:
            return 0
        kv.allocate(request, slots, hit)
        kv.computed(request, request.stored + 1)
        return depth + 1
    request.target = request.prompt + request.produced
    hit = kv.find(request, plan)
    new = min(request.target - hit.tokens, left)
    slots = hit.tokens + new + (plan.depth if rules.admission_lookahead else 0)
    if kv.shortage(request, max(slots, request.target if rules.whole_prompt else 0), hit) > 0:
        return 0
    request.computed = hit.tokens
    replica.ledger.found(request)
    kv.allocate(request, slots, hit)
    kv.computed(request, hit.tokens + new)
    return new
