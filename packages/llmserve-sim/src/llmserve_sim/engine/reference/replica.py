"""One model replica: which requests run in its next iteration, what the iteration delivers, and the KV blocks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import FP, PRIORITY, STANDARD, TENANTS
from llmserve_sim.engine.reference.request import Request, blocks_of

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import WindowPlan
    from llmserve_sim.engine.reference.costs import IterationCosts
    from llmserve_sim.engine.reference.ledger import Ledger

__all__ = ["Iteration", "Replica"]


@dataclass(slots=True, eq=False)
class Iteration:
    """An iteration in flight. Its chunks are (request, new tokens); all of `Replica.decoding` takes part in it."""

    end_ps: int
    duration_ps: int
    depth: int
    tokens_per_step: list[int]
    """By tenant, fixed-point."""
    chunks: list[tuple[Request, int]]


@dataclass(eq=False)
class Replica:
    """One model replica: its waiting queues, its running requests, its KV blocks and its iteration in flight."""

    index: int
    ledger: Ledger
    patience_ps: int
    async_scheduling: bool = False
    """An iteration is scheduled when the one before it begins, and knows only what had come and ended by then."""
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

    pool: int = 0
    """KV blocks in all."""
    used: int = 0
    """KV blocks that running requests hold."""
    cached: int = 0
    """Free KV blocks that still hold a reusable prefix. Any allocation may take them."""

    known_ps: int = 0
    """The coming iteration is scheduled for the requests that had joined by then."""
    leaving: list[Request] = field(default_factory=list)
    """Finished requests whose end the coming iteration's schedule does not know yet: they keep place and blocks."""

    iteration: Iteration | None = None
    last_start_ps: int = -1
    last_end_ps: int = -1
    """Of the iteration completed last."""
    ready_ps: int = 0
    """End of the last stall; no iteration starts before it."""
    link_free_ps: int = 0
    """The link to the decode replicas is busy until then."""
    counters: list[int] = field(default_factory=lambda: [0] * TENANTS)
    """Fixed-point tokens that each tenant's decoding requests have gained in lock-step; whole tokens are delivered."""

    @property
    def num_free_blocks(self) -> int:
        """KV blocks that no running request holds; negative while the pool has become too small."""
        return self.pool - self.used

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
        """Return the waiting queue whose head is next: resumed before fresh, by class if `priority`, then by `seq`."""
        if priority:
            order = (self.resumed[PRIORITY], self.fresh[PRIORITY], self.resumed[STANDARD], self.fresh[STANDARD])
            return next((queue for queue in order if self.knows_head(queue)), None)
        for queues in (self.resumed, self.fresh):
            if any(map(self.knows_head, queues)):
                return min((queue for queue in queues if self.knows_head(queue)), key=lambda queue: queue[0].seq)
        return None

    def knows_head(self, queue: deque[Request]) -> bool:
        """Return whether a waiting queue has a head that had joined when the coming iteration was scheduled."""
        return bool(queue) and queue[0].joined_ps <= self.known_ps

    # -- KV blocks -------------------------------------------------------------------------------------------------

    def allocate(self, request: Request, blocks: int) -> None:
        """Allocate KV blocks to `request`, so that it holds `blocks`; they are taken from the cached blocks last."""
        self.used += blocks - request.blocks
        request.blocks = blocks
        self.cached = min(self.cached, self.num_free_blocks)

    def free(self, request: Request, *, cache: bool) -> None:
        """Free the KV blocks of `request`; with `cache` its prefix in them stays reusable."""
        self.used -= request.blocks
        if cache:
            self.cached += request.blocks
        request.blocks = 0

    def preempt(self, request: Request) -> None:
        """Preempt a running request: free its KV blocks and put it at the front of its queue, to be recomputed."""
        if request in self.decoding:
            self.decoding.remove(request)
        else:
            self.prefilling.remove(request)
            if self.iteration is not None:
                self.iteration.chunks = [chunk for chunk in self.iteration.chunks if chunk[0] is not request]
        self.free(request, cache=False)
        request.computed = 0
        request.preemptions += 1
        queues = self.fresh if request.first_ps < 0 else self.resumed
        queues[request.priority].appendleft(request)

    def victim(self, priority: bool) -> Request:
        """Return the running request to preempt: the newest; with `priority` the newest of the standard class first."""
        return max(self.decoding + self.prefilling, key=lambda r: (r.priority if priority else 0, r.seq))

    def set_pool(self, blocks: int, priority: bool) -> int:
        """Resize the KV pool and return the number of requests preempted to fit it."""
        self.pool = blocks
        self.cached = min(self.cached, max(self.num_free_blocks, 0))
        victims = 0
        while self.num_free_blocks < 0:
            if self.leaving:
                self.release()
                self.cached = min(self.cached, max(self.num_free_blocks, 0))
                continue
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
        if self.async_scheduling and self.last_end_ps == now:
            self.known_ps = self.last_start_ps
            self.schedule(now, plan, costs)
            if self.iteration is not None:
                self.release()
                return
            # nothing was known to run next, so the schedule is made again when the iteration has ended
        self.release()
        self.known_ps = now
        self.schedule(now, plan, costs)
        assert self.iteration is not None or not self.load, "if nothing runs, the head of the queue always fits"

    def release(self) -> None:
        """Free the KV blocks of the requests that have left; their prefixes stay cached."""
        for request in self.leaving:
            self.free(request, cache=True)
        self.leaving = []

    def schedule(self, now: int, plan: WindowPlan, costs: IterationCosts) -> None:
        """Schedule an iteration for the requests that are known, and start it if there is one."""
        budget = costs.tables.budget
        self.abandon_expired(now)

        # Decoding requests first: each needs blocks for the tokens of this step. The newest is preempted until all fit.
        preempted = False
        while True:
            n = len(self.decoding)
            depth = max(min(plan.depth, budget // max(n, 1) - 1), 0)
            rates = [plan.tokens_per_step[tenant][depth] for tenant in range(TENANTS)]
            gains = [self.gain(tenant, rates[tenant]) for tenant in range(TENANTS)]
            demand = sum(blocks_of(r.stored + gains[r.tenant]) - r.blocks for r in self.decoding)
            if demand <= self.num_free_blocks:
                break
            self.preempt(self.victim(plan.priority))
            self.ledger.stats.preemptions += 1
            preempted = True
        for r in self.decoding:
            self.allocate(r, blocks_of(r.stored + gains[r.tenant]))
        left = budget - n * (depth + 1)

        # Then the prompts that are partly computed.
        chunks: list[tuple[Request, int]] = []
        for r in self.prefilling:
            new = min(r.target - r.computed, left)
            if new > 0:
                chunks.append((r, new))
                left -= new

        # Then the waiting requests, strictly in order: one that does not fit blocks those behind it.
        while not preempted and left > 0 and self.running + len(self.leaving) < plan.batch_cap:
            queue = self.next_queue(plan.priority)
            if queue is None:
                break
            r = queue[0]
            if r.has_kv:
                self.reset_counter_if_first(r.tenant)
                most = -(-rates[r.tenant] // FP)  # the most tokens that a step can yield; they must fit
                if blocks_of(r.stored + most) > self.num_free_blocks or depth + 1 > left:
                    break
                queue.popleft()
                r.has_kv = False
                self.allocate(r, blocks_of(r.stored + self.gain(r.tenant, rates[r.tenant])))
                self.decoding.append(r)
                left -= depth + 1
            else:
                r.target = r.prompt + r.produced
                blocks = blocks_of(r.target)
                if blocks > self.num_free_blocks:
                    break
                queue.popleft()
                r.computed = self.prefix_hit(r, plan)
                if r.scheduled_ps < 0:
                    r.scheduled_ps = now
                self.allocate(r, blocks)
                self.prefilling.append(r)
                new = min(r.target - r.computed, left)
                chunks.append((r, new))
                left -= new

        if not self.decoding and not chunks:
            return
        context_fp = sum(FP * (r.prompt + r.produced) + self.counters[r.tenant] % FP for r in self.decoding)
        duration = costs.iteration_ps(len(self.decoding), depth, context_fp, chunks)
        self.iteration = Iteration(now + duration, duration, depth, rates, chunks)

    def prefix_hit(self, request: Request, plan: WindowPlan) -> int:
        """Return the prompt tokens that the prefix cache holds; the last token is always computed."""
        if self.cached == 0:
            return 0
        hit = request.prompt * plan.hit_q10 * self.cached // (1024 * (self.cached + plan.hit_half_blocks))
        return min(request.target - 1, hit)

    def complete(self) -> list[Request]:
        """Deliver the tokens of the iteration in flight and return the requests to hand over to a decode replica."""
        iteration = self.iteration
        assert iteration is not None
        self.iteration = None
        now, stats = iteration.end_ps, self.ledger.stats
        self.last_start_ps, self.last_end_ps = now - iteration.duration_ps, now
        stats.iterations += 1
        stats.busy_ps += iteration.duration_ps

        gains = [self.gain(tenant, iteration.tokens_per_step[tenant]) for tenant in range(TENANTS)]
        for tenant in {r.tenant for r in self.decoding}:
            self.counters[tenant] += iteration.tokens_per_step[tenant]
        stepped, self.decoding = self.decoding, []
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
                self.free(r, cache=True)  # its first token travels with its KV
                handed_over.append(r)
                continue
            self.ledger.prefilled(r, now)
            if r.produced == r.output:
                self.finish(r)
            else:
                self.reset_counter_if_first(r.tenant)
                self.decoding.append(r)
        if not self.async_scheduling or not self.load:
            self.release()
        return handed_over

    def finish(self, request: Request) -> None:
        """Finish a request that has all its tokens."""
        self.leaving.append(request)
        self.ledger.finished(request, self.index)
