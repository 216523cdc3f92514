"""One model replica: which requests run in its next iteration, what the iteration delivers, and the KV blocks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import FP, PRIORITY, STANDARD, TENANTS
from llmserve_sim.engine.reference.request import Request, blocks_of
from llmserve_sim.engine.reference.rules import schedule, victim_of

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import SchedulerRules, WindowPlan
    from llmserve_sim.engine.reference.blocks import KVBlocks
    from llmserve_sim.engine.reference.costs import IterationCosts
    from llmserve_sim.engine.reference.ledger import Ledger

__all__ = ["Iteration", "Replica"]


@dataclass(slots=True, eq=False)
class Iteration:
    """An iteration in flight. Its chunks are (request, new tokens)."""

    end_ps: int
    duration_ps: int
    depth: int
    tokens_per_step: list[int]
    """By tenant, fixed-point."""
    chunks: list[tuple[Request, int]]
    left_out: list[Request]
    """Decoding requests that do not take part: a vLLM version's rules ended the step before them."""


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
            if self.iteration is not None:
                self.iteration.chunks = [chunk for chunk in self.iteration.chunks if chunk[0] is not request]
        self.kv.free(request, reusable=False)
        request.computed = 0
        request.preemptions += 1
        queues = self.fresh if request.first_ps < 0 else self.resumed
        queue = queues[request.priority]
        if self.rules is None:
            queue.appendleft(request)
        else:  # victims need not leave in the opposite order of their coming
            queue.insert(sum(1 for r in queue if r.seq < request.seq), request)

    def victim(self, priority: bool) -> Request:
        """Return the running request to preempt: the newest; with `priority` the newest of the standard class first."""
        if self.rules is not None:
            return victim_of(self.in_order(), priority)
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
            self.preempt(self.victim(priority))
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
        budget = costs.tables.budget
        self.abandon_expired(now)
        if self.rules is not None:
            batch = schedule(self, now, plan, budget, self.rules)
            self.run(now, batch.depth, batch.rates, batch.chunks, batch.decoding, costs)
            return

        # Decoding requests first: each needs blocks for the tokens of this step. The newest is preempted until all fit.
        preempted = False
        while True:
            n = len(self.decoding)
            depth = max(min(plan.depth, budget // max(n, 1) - 1), 0)
            rates = [plan.tokens_per_step[tenant][depth] for tenant in range(TENANTS)]
            gains = [self.gain(tenant, rates[tenant]) for tenant in range(TENANTS)]
            demand = sum(blocks_of(r.stored + gains[r.tenant]) - r.blocks for r in self.decoding)
            if demand <= self.kv.num_free:
                break
            self.preempt(self.victim(plan.priority))
            self.ledger.stats.preemptions += 1
            preempted = True
        for r in self.decoding:
            self.kv.allocate(r, r.stored + gains[r.tenant])
            self.kv.computed(r, r.stored + 1)
        left = budget - n * (depth + 1)

        # Then the prompts that are partly computed.
        chunks: list[tuple[Request, int]] = []
        for r in self.prefilling:
            new = min(r.target - r.computed, left)
            if new > 0:
                self.kv.computed(r, r.computed + new)
                chunks.append((r, new))
                left -= new

        # Then the waiting requests, strictly in order: one that does not fit blocks those behind it.
        while not preempted and left > 0 and self.running < plan.batch_cap:
            queue = self.next_queue(plan.priority)
            if queue is None:
                break
            r = queue[0]
            if r.has_kv:
                self.reset_counter_if_first(r.tenant)
                most = -(-rates[r.tenant] // FP)  # the most tokens that a step can yield; they must fit
                hit = self.kv.share(r)
                if self.kv.shortage(r, r.stored + most, hit) > 0 or depth + 1 > left:
                    break
                queue.popleft()
                r.has_kv = False
                self.kv.allocate(r, r.stored + self.gain(r.tenant, rates[r.tenant]), hit)
                self.kv.computed(r, r.stored + 1)
                self.decoding.append(r)
                left -= depth + 1
            else:
                r.target = r.prompt + r.produced
                hit = self.kv.find(r, plan)
                if self.kv.shortage(r, r.target, hit) > 0:
                    break
                queue.popleft()
                r.computed = hit.tokens
                self.ledger.found(r)
                if r.scheduled_ps < 0:
                    r.scheduled_ps = now
                self.kv.allocate(r, r.target, hit)
                self.prefilling.append(r)
                new = min(r.target - r.computed, left)
                self.kv.computed(r, r.computed + new)
                chunks.append((r, new))
                left -= new

        if not self.decoding and not chunks:
            assert not self.load, "if nothing runs, the head of the queue always fits"
            return
        self.run(now, depth, rates, chunks, self.decoding, costs)

    def run(
        self,
        now: int,
        depth: int,
        rates: list[int],
        chunks: list[tuple[Request, int]],
        decoding: list[Request],
        costs: IterationCosts,
    ) -> None:
        """Start an iteration of prompt chunks and decoding requests, unless it is empty."""
        if not decoding and not chunks:
            return
        context_fp = sum(FP * (r.prompt + r.produced) + self.counters[r.tenant] % FP for r in decoding)
        duration = costs.iteration_ps(len(decoding), depth, context_fp, chunks)
        left_out = [r for r in self.decoding if r not in decoding]
        self.iteration = Iteration(now + duration, duration, depth, rates, chunks, left_out)

    def complete(self) -> list[Request]:
        """Deliver the tokens of the iteration in flight and return the requests to hand over to a decode replica."""
        iteration = self.iteration
        assert iteration is not None
        self.iteration = None
        now, stats = iteration.end_ps, self.ledger.stats
        stats.iterations += 1
        stats.busy_ps += iteration.duration_ps

        gains = [self.gain(tenant, iteration.tokens_per_step[tenant]) for tenant in range(TENANTS)]
        stepped = [r for r in self.decoding if r not in iteration.left_out]
        for tenant in {r.tenant for r in stepped}:
            self.counters[tenant] += iteration.tokens_per_step[tenant]
        self.decoding = [r for r in self.decoding if r in iteration.left_out]
        for r in stepped:
            rate = iteration.tokens_per_step[r.tenant]
            if iteration.depth > 0:
                stats.draft_fp += iteration.depth * FP
                stats.accepted_fp += rate - FP
            self.ledger.gap(r, now, rate)
            self.ledger.delivered(r, now, min(gains[r.tenant], r.output - r.produced))
            if r.produced == r.output:
                self.finish(r)
            else:
                self.decoding.append(r)

        handed_over = []
        for r, new in iteration.chunks:
            r.computed += new
            if r.computed < r.target:
                continue
            self.prefilling.remove(r)
            if self.prefill_only and r.produced + 1 < r.output:
                self.kv.free(r, reusable=True)  # its first token travels with its KV
                handed_over.append(r)
                continue
            self.ledger.prefilled(r, now)
            if r.produced == r.output:
                self.finish(r)
            else:
                self.reset_counter_if_first(r.tenant)
                self.decoding.append(r)
        return handed_over

    def finish(self, request: Request) -> None:
        """Finish a request that has all its tokens: free its KV blocks and keep its prefix cached."""
        self.kv.free(request, reusable=True)
        self.ledger.finished(request, self.index)
