"""One step of vLLM's V1 scheduler, under the rules of one of its versions (`SchedulerRules`).

It follows `Scheduler.schedule` of vLLM: running requests first, in order of admission, each with the slots of its new
tokens; then, if none was preempted, the waiting requests. An asynchronous scheduler runs while a step is in flight, and
counts that step's tokens as computed. Two things are the simulator's own: a request that comes with its KV (split prefill
and decode), and the depth of speculation, which is cut for all if the budget is too small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import BLOCK_TOKENS, TENANTS
from llmserve_sim.engine.reference.request import blocks_of
from llmserve_sim.engine.reference.steps import Batch

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import SchedulerRules, WindowPlan
    from llmserve_sim.engine.reference.replica import Replica
    from llmserve_sim.engine.reference.request import Request

__all__ = ["schedule", "victim_of"]


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
        if batch or not preempted or replica.iteration is not None:
            return batch


def _step(replica: Replica, now: int, plan: WindowPlan, budget: int, rules: SchedulerRules) -> tuple[Batch, bool]:
    in_flight = {} if replica.iteration is None else replica.iteration.tokens()
    completing = {r for r in replica.prefilling if r.computed + in_flight.get(r, 0) >= r.target}
    decoding = completing.union(replica.decoding)
    depth = max(min(plan.depth, budget // max(len(decoding), 1) - 1), 0)
    rates = [plan.tokens_per_step[tenant][depth] for tenant in range(TENANTS)]
    scheduled, preempted = _schedule_running(replica, plan, depth, budget, rules, in_flight, decoding)
    left = budget - sum(scheduled.values())
    drafts = min(plan.depth, budget - 1) if rules.drafts_beside_last_token and decoding.issuperset(scheduled) else 0
    beside = bool(scheduled)
    while not preempted and left > 0 and replica.running < plan.batch_cap:
        queue = replica.next_queue(plan.priority)
        if queue is None:
            break
        request = queue[0]
        new = _admissible(replica, request, plan, depth, left, rules, 0 if request.has_kv else drafts, beside)
        if new == 0:
            break
        if request.has_kv:
            replica.reset_counter_if_first(request.tenant)
            decoding.add(request)
        elif request.scheduled_ps < 0:
            request.scheduled_ps = now
        replica.admit(request)
        request.has_kv = False
        scheduled[request] = new
        left -= new
    idle = not scheduled and not preempted and replica.iteration is None
    assert not idle or not replica.load, "if nothing runs, the head of the queue always fits"
    chunks = [(r, new) for r, new in scheduled.items() if r not in decoding]
    return Batch(depth, rates, chunks, [r for r in scheduled if r in decoding]), preempted


def _schedule_running(
    replica: Replica,
    plan: WindowPlan,
    depth: int,
    budget: int,
    rules: SchedulerRules,
    in_flight: dict[Request, int],
    decoding: set[Request],
) -> tuple[dict[Request, int], bool]:
    """Return the new tokens of the running requests that are scheduled, and whether one was preempted."""
    running, preempted, index = replica.in_order(), False, 0
    chosen: dict[Request, int] = {}
    decodes_now = set(replica.decoding)
    while index < len(running) and budget > 0:
        request = running[index]
        ahead = in_flight.get(request, 0)
        last = replica.prefill_only or (rules.length_known and request.produced + 1 >= request.output)
        if ahead and last and request in decoding:  # the step in flight yields its last token here
            index += 1
            continue
        computed = (request.stored if request in decodes_now else request.computed) + ahead
        new = min(depth + 1 if request in decoding else request.target - computed, budget)
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
        replica.kv.computed(request, min(computed + new, request.prompt + request.produced))  # drafts may be refused
        chosen[request] = new
        budget -= new
        index += 1
    return chosen, preempted


def _admissible(
    replica: Replica,
    request: Request,
    plan: WindowPlan,
    depth: int,
    left: int,
    rules: SchedulerRules,
    drafts: int,
    beside: bool,
) -> int:
    """Return the new tokens of the waiting request that is next, with its blocks allocated; 0 if it does not fit.

    `drafts` come with a last token, if any of the request is cached or running requests are scheduled `beside` it.
    """
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
    new = request.target - hit.tokens
    if new == 1 and (beside or hit.tokens > 0):
        new += drafts
        if new > left:
            return 0
    new = min(new, left)
    slots = hit.tokens + new + (plan.depth if rules.admission_lookahead else 0)
    if kv.shortage(request, max(slots, request.target if rules.whole_prompt else 0), hit) > 0:
        return 0
    request.computed = hit.tokens
    replica.ledger.found(request)
    kv.allocate(request, slots, hit)
    kv.computed(request, min(hit.tokens + new, request.target))
    return new
