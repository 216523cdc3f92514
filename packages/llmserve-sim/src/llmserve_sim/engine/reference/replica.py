"""One model replica: which requests run in its next iteration, what the iteration delivers, and the KV blocks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import FP, PRIORITY, STANDARD, TENANTS
from llmserve_sim.engine.reference import first_scheduler, rules
from llmserve_sim.engine.reference.request import Request
from llmserve_sim.engine.reference.steps import Batch, Iteration

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import SchedulerRules, WindowPlan
    from llmserve_sim.engine.reference.blocks import KVBlocks
    from llmserve_sim.engine.reference.costs import IterationCosts
    from llmserve_sim.engine.reference.ledger import Ledger

__all__ = ["Replica"]


@dataclass(eq=False)
class Replica:
    """One model replica: its waiting queues, its running requests, its KV blocks and its iteration in flight."""

    index: int
    ledger: Ledger
    patience_ps: int
    kv: KVBlocks
    rules: SchedulerRules | None = None
    """Of a vLLM version; None: the simulator's first scheduler."""
    prefill_only: bool = False
    """Hands over every request that its first token does not finish."""
    decode_only: bool = False
    """Gets no arrivals, only hand-overs. It prefills only what it has preempted."""

    resumed: tuple[deque[Request], deque[Request]] = field(default_factory=lambda: (deque(), deque()))
    """Waiting requests with a first token, by class: preempted or handed over. They do not give up."""
    fresh: tuple[deque[Request], deque[Request]] = field(default_factory=lambda: (deque(), deque()))
    """Waiting requests without a first token, by class, in order of arrival."""
    decoding: list[Request] = field(default_factory=list)
    prefilling: list[Request] = field(default_factory=list)
    """In order of admission."""

    iteration: Iteration | None = None
    planned: Batch | None = None
    """The step after the iteration in flight, which an asynchronous scheduler has chosen already."""
    ready_ps: int = 0
    """End of the last stall; no iteration starts before it."""
    link_free_ps: int = 0
    """The link to the decode replicas is busy until then."""
    counters: list[int] = field(default_factory=lambda: [0] * TENANTS)
    """Fixed-point tokens that each tenant's decoding requests have gained in lock-step; whole tokens are delivered."""
    admissions: int = 0
    """Admissions so far, which number `Request.admitted`."""

    @property
    def running(self) -> int:
        """Number of running requests, which `batch_cap` limits."""
        return len(self.decoding) + len(self.prefilling)

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return sum(len(queue) for queue in self.resumed + self.fresh)

    @property
    def load(self) -> int:
        """Number of unfinished requests assigned here, which routing balances."""
        return self.running + self.waiting

    # -- waiting ---------------------------------------------------------------------------------------------------

    def abandon_expired(self, now: int) -> None:
        """Abandon the requests without a first token whose patience has run out by `now`."""
        for queue in self.fresh:
            while queue and self.gives_up(queue[0], now):
                queue.popleft()

    def gives_up(self, request: Request, now: int) -> bool:
        """Return whether a request without a first token has lost patience by `now`; count it as abandoned if so."""
        deadline = request.arrival_ps + self.patience_ps
        if self.patience_ps == 0 or deadline > now:
            return False
        self.ledger.abandoned(request, deadline, self.index)
        return True

    def next_queue(self, priority: bool) -> deque[Request] | None:
        """Return the waiting queue whose head is next: resumed before fresh, by class if `priority`, then by `seq`.

        Under a vLLM version's rules: by class if `priority`, then by `seq`.
        """
        if self.rules is not None:
            heads = [queue for queue in self.resumed + self.fresh if queue]
            return min(heads, key=lambda q: (q[0].priority if priority else 0, q[0].seq), default=None)
        if priority:
            order = (self.resumed[PRIORITY], self.fresh[PRIORITY], self.resumed[STANDARD], self.fresh[STANDARD])
            return next((queue for queue in order if queue), None)
        for queues in (self.resumed, self.fresh):
            if any(queues):
                return min((queue for queue in queues if queue), key=lambda queue: queue[0].seq)
        return None

    # -- KV blocks -------------------------------------------------------------------------------------------------

    def preempt(self, request: Request) -> None:
        """Preempt a running request: free its KV blocks and put it at the front of its queue, to be recomputed."""
        if request in self.decoding:
            self.decoding.remove(request)
        else:
            self.prefilling.remove(request)
        self.kv.free(request, reusable=False)
        request.computed = 0
        request.preemptions += 1
        self.wait_again(request)

    def wait_again(self, request: Request) -> None:
        """Put a preempted request at the front of its queue; under a version's rules at its place in order of `seq`."""
        queue = self.queue_of(request)
        if self.rules is None:
            queue.appendleft(request)
        else:  # victims need not leave in the opposite order of their coming
            queue.insert(sum(1 for r in queue if r.seq < request.seq), request)

    def queue_of(self, request: Request) -> deque[Request]:
        """Return the queue in which a preempted request waits."""
        return (self.fresh if request.first_ps < 0 else self.resumed)[request.priority]

    def evict(self, request: Request) -> None:
        """Preempt a running request outside of a step: what a step in flight computes for it is lost."""
        for step in (self.iteration, self.planned):
            if step is not None:
                step.drop(request)
        self.preempt(request)

    def victim(self, priority: bool) -> Request:
        """Return the running request to preempt: the newest; with `priority` the newest of the standard class first."""
        if self.rules is not None:
            return rules.victim_of(self.in_order(), priority)
        return max(self.decoding + self.prefilling, key=lambda r: (r.priority if priority else 0, r.seq))

    def in_order(self) -> list[Request]:
        """Return the running requests in order of admission, as vLLM keeps them."""
        return sorted(self.decoding + self.prefilling, key=lambda r: r.admitted)

    def admit(self, request: Request) -> None:
        """Move the head of a waiting queue to the end of the running requests."""
        request.admitted = self.admissions
        self.admissions += 1
        queues = self.resumed if request in self.resumed[request.priority] else self.fresh
        queues[request.priority].remove(request)
        (self.decoding if request.has_kv else self.prefilling).append(request)

    def set_pool(self, blocks: int, priority: bool) -> int:
        """Resize the KV pool and return the number of requests preempted to fit it."""
        self.kv.resize(blocks)
        victims = 0
        while self.kv.missing > 0:
            self.evict(self.victim(priority))
            victims += 1
        return victims

    # -- an iteration ----------------------------------------------------------------------------------------------

    def gain(self, tenant: int, tokens_fp: int) -> int:
        """Return the whole tokens that a step of `tokens_fp` yields for each decoding request of a tenant."""
        counter = self.counters[tenant]
        return (counter + tokens_fp) // FP - counter // FP

    def reset_counter_if_first(self, tenant: int) -> None:
        """Reset a tenant's counter if none of its requests decodes."""
        if all(r.tenant != tenant for r in self.decoding):
            self.counters[tenant] = 0

    def start(self, now: int, plan: WindowPlan, costs: IterationCosts) -> None:
        """Schedule and start an iteration at `now`, unless no request waits or runs."""
        self.abandon_expired(now)
        batch, self.planned = self.planned, None
        self._run(now, batch or self._schedule(now, plan, costs), costs)
        if self.rules is not None and self.rules.asynchronous and self.iteration is not None:
            self.planned = self._schedule(now, plan, costs)

    def _schedule(self, now: int, plan: WindowPlan, costs: IterationCosts) -> Batch:
        budget = costs.tables.budget
        if self.rules is None:
            return first_scheduler.schedule(self, now, plan, budget)
        return rules.schedule(self, now, plan, budget, self.rules)

    def _run(self, now: int, batch: Batch, costs: IterationCosts) -> None:
        """Start an iteration, unless its batch is empty."""
        if not batch:
            return
        context_fp = sum(FP * (r.prompt + r.produced) + self.counters[r.tenant] % FP for r in batch.decoding)
        duration = costs.iteration_ps(len(batch.decoding), batch.depth, context_fp, batch.chunks)
        completing = [r for r, new in batch.chunks if r.computed + new >= r.target]
        self.iteration = Iteration(
            batch.depth, batch.tokens_per_step, batch.chunks, batch.decoding, now + duration, duration, completing
        )

    def complete(self) -> list[Request]:
        """Deliver the tokens of the iteration in flight and return the requests to hand over to a decode replica."""
        iteration = self.iteration
        assert iteration is not None
        self.iteration = None
        self.ledger.stats.iterations += 1
        self.ledger.stats.busy_ps += iteration.duration_ps
        self._deliver_decoded(iteration)
        return self._deliver_prefilled(iteration)

    def _deliver_decoded(self, iteration: Iteration) -> None:
        """Deliver the tokens of the decoding requests, also of one that was preempted while they were computed."""
        now, stats = iteration.end_ps, self.ledger.stats
        gains = [self.gain(tenant, iteration.tokens_per_step[tenant]) for tenant in range(TENANTS)]
        stepped = [r for r in iteration.decoding if not r.ended]
        for tenant in {r.tenant for r in stepped}:
            self.counters[tenant] += iteration.tokens_per_step[tenant]
        for r in stepped:
            rate = iteration.tokens_per_step[r.tenant]
            if iteration.depth > 0:
                stats.draft_fp += iteration.depth * FP
                stats.accepted_fp += rate - FP
            self.ledger.gap(r, now, rate)
            self.ledger.delivered(r, now, min(gains[r.tenant], r.output - r.produced))
            if r.blocks and self.rules is not None and self.rules.asynchronous:
                self.kv.computed(r, r.stored)  # they were not known when the step was scheduled
            if r.produced == r.output:
                (self.decoding if r.blocks else self.resumed[r.priority]).remove(r)
                self.finish(r)

    def _deliver_prefilled(self, iteration: Iteration) -> list[Request]:
        """Deliver the tokens of complete prompts and return the requests to hand over."""
        handed_over = []
        for r, new in iteration.chunks:
            preempted = r.blocks == 0  # while its chunk was computed; the token counts, the KV is gone
            if not preempted:
                r.computed = min(r.computed + new, r.target)  # placeholders beside its last token are refused
            hands_over = self.prefill_only and r.produced + 1 < r.output
            if r not in iteration.completing or r.ended or (preempted and hands_over):
                continue
            (self.queue_of(r) if preempted else self.prefilling).remove(r)
            if hands_over:
                self.kv.free(r, reusable=True)  # its first token travels with its KV
                handed_over.append(r)
                continue
            self.ledger.prefilled(r, iteration.end_ps)
            if r.produced == r.output:
                self.finish(r)
            elif preempted:
                self.wait_again(r)
            else:
                self.reset_counter_if_first(r.tenant)
                self.decoding.append(r)
        return handed_over

    def finish(self, request: Request) -> None:
        """Finish a request that has all its tokens: free its KV blocks and keep its prefix cached."""
        self.kv.free(request, reusable=True)
        self.ledger.finished(request, self.index)
