"""One model replica: which requests run in its next iteration, and what the iteration delivers. Knows no other replica."""

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
    """An iteration in flight. Its decoders are the replica's; its chunks are (request, new tokens)."""

    end_ps: int
    duration_ps: int
    depth: int
    tokens_per_step: list[int]
    """By tenant, fixed-point."""
    chunks: list[tuple[Request, int]]


@dataclass(eq=False)
class Replica:
    """One model replica: its waiting lines, its running requests, its KV blocks and its clock."""

    index: int
    ledger: Ledger
    patience_ps: int
    prefill_only: bool = False
    """Hands every request over that is not done with its first token."""
    decode_only: bool = False
    """Gets no arrivals, only hand-overs (it does recompute what it preempts)."""

    resumed: tuple[deque[Request], deque[Request]] = field(default_factory=lambda: (deque(), deque()))
    """Waiting, by class, after a first token: preempted or handed over. They do not give up."""
    fresh: tuple[deque[Request], deque[Request]] = field(default_factory=lambda: (deque(), deque()))
    """Waiting, by class, for a first token, in order of arrival."""
    decoding: list[Request] = field(default_factory=list)
    prefilling: list[Request] = field(default_factory=list)
    """In order of admission."""

    pool: int = 0
    used: int = 0
    cached: int = 0
    """Free blocks that still hold a reusable prefix; they give way to any allocation."""

    iteration: Iteration | None = None
    ready_ps: int = 0
    """End of the last stall: no iteration starts before."""
    link_free_ps: int = 0
    """When the link to the decode replicas has sent what it was given."""
    counters: list[int] = field(default_factory=lambda: [0] * TENANTS)
    """Fixed-point tokens that each tenant's decoders have gained in lock-step; whole tokens are delivered."""

    @property
    def free(self) -> int:
        """Blocks that no running request holds."""
        return self.pool - self.used

    @property
    def running(self) -> int:
        """Running requests, which is what `batch_cap` limits."""
        return len(self.decoding) + len(self.prefilling)

    @property
    def waiting(self) -> int:
        """Requests in the waiting lines."""
        return sum(len(line) for line in self.resumed + self.fresh)

    @property
    def load(self) -> int:
        """Unfinished requests assigned here: what routing balances."""
        return self.running + self.waiting

    # -- waiting ---------------------------------------------------------------------------------------------------

    def abandon_expired(self, now: int) -> None:
        """Drop the fresh requests whose patience has run out by `now`."""
        for line in self.fresh:
            while line and self.gives_up(line[0], now):
                line.popleft()

    def gives_up(self, request: Request, now: int) -> bool:
        """Whether the patience of a request without a first token has run out by `now`; if so, it is abandoned."""
        deadline = request.arrival_ps + self.patience_ps
        if self.patience_ps == 0 or deadline > now:
            return False
        self.ledger.abandoned(request, deadline, self.index)
        return True

    def next_line(self, priority: bool) -> deque[Request] | None:
        """The waiting line whose head is next: first come first served, by class if `priority`, resumed before fresh."""
        if priority:
            order = (self.resumed[PRIORITY], self.fresh[PRIORITY], self.resumed[STANDARD], self.fresh[STANDARD])
            return next((line for line in order if line), None)
        for lines in (self.resumed, self.fresh):
            if any(lines):
                return min((line for line in lines if line), key=lambda line: line[0].seq)
        return None

    # -- KV blocks -------------------------------------------------------------------------------------------------

    def allocate(self, request: Request, blocks: int) -> None:
        """Let `request` hold `blocks` blocks; cached prefixes give way."""
        self.used += blocks - request.blocks
        request.blocks = blocks
        self.cached = min(self.cached, self.free)

    def release(self, request: Request, *, cache: bool) -> None:
        """Free the blocks of `request`; with `cache` they go on holding its prefix."""
        self.used -= request.blocks
        if cache:
            self.cached += request.blocks
        request.blocks = 0

    def preempt(self, request: Request) -> None:
        """Take a running request's blocks; it waits at the head of its line and will be recomputed."""
        if request in self.decoding:
            self.decoding.remove(request)
        else:
            self.prefilling.remove(request)
            if self.iteration is not None:
                self.iteration.chunks = [chunk for chunk in self.iteration.chunks if chunk[0] is not request]
        self.release(request, cache=False)
        request.computed = 0
        request.preemptions += 1
        lines = self.fresh if request.first_ps < 0 else self.resumed
        lines[request.priority].appendleft(request)

    def victim(self, priority: bool) -> Request:
        """The running request to preempt: the newest, of the standard class first if `priority`."""
        return max(self.decoding + self.prefilling, key=lambda r: (r.priority if priority else 0, r.seq))

    def set_pool(self, blocks: int, priority: bool) -> int:
        """Give the KV pool a new size; the number of requests preempted to fit it."""
        self.pool = blocks
        self.cached = min(self.cached, max(self.free, 0))
        victims = 0
        while self.free < 0:
            self.preempt(self.victim(priority))
            victims += 1
        return victims

    # -- an iteration ----------------------------------------------------------------------------------------------

    def gain(self, tenant: int, tokens_fp: int) -> int:
        """Whole tokens that a step of `tokens_fp` brings to each decoder of a tenant."""
        counter = self.counters[tenant]
        return (counter + tokens_fp) // FP - counter // FP

    def reset_counter_if_first(self, tenant: int) -> None:
        """A tenant's lock-step starts at zero with its first decoder."""
        if all(r.tenant != tenant for r in self.decoding):
            self.counters[tenant] = 0

    def start(self, now: int, plan: WindowPlan, costs: IterationCosts) -> None:
        """Schedule and start an iteration at `now`, unless nothing waits or runs."""
        budget = costs.tables.budget
        self.abandon_expired(now)

        # Decoders first: each needs blocks for the tokens of this step. The newest yields until they are there.
        preempted = False
        while True:
            n = len(self.decoding)
            depth = max(min(plan.depth, budget // max(n, 1) - 1), 0)
            rates = [plan.tokens_per_step[tenant][depth] for tenant in range(TENANTS)]
            gains = [self.gain(tenant, rates[tenant]) for tenant in range(TENANTS)]
            demand = sum(blocks_of(r.stored + gains[r.tenant]) - r.blocks for r in self.decoding)
            if demand <= self.free:
                break
            self.preempt(self.victim(plan.priority))
            self.ledger.stats.preemptions += 1
            preempted = True
        for r in self.decoding:
            self.allocate(r, blocks_of(r.stored + gains[r.tenant]))
        left = budget - n * (depth + 1)

        # Then prompts under way.
        chunks: list[tuple[Request, int]] = []
        for r in self.prefilling:
            new = min(r.target - r.computed, left)
            if new > 0:
                chunks.append((r, new))
                left -= new

        # Then the waiting, strictly in order: a head that does not fit blocks the line.
        while not preempted and left > 0 and self.running < plan.batch_cap:
            line = self.next_line(plan.priority)
            if line is None:
                break
            r = line[0]
            if r.has_kv:
                self.reset_counter_if_first(r.tenant)
                most = -(-rates[r.tenant] // FP)  # tokens that a step can bring: it must have room for them
                if blocks_of(r.stored + most) > self.free or depth + 1 > left:
                    break
                line.popleft()
                r.has_kv = False
                self.allocate(r, blocks_of(r.stored + self.gain(r.tenant, rates[r.tenant])))
                self.decoding.append(r)
                left -= depth + 1
            else:
                r.target = r.prompt + r.produced
                blocks = blocks_of(r.target)
                if blocks > self.free:
                    break
                line.popleft()
                r.computed = self.prefix_hit(r, plan)
                if r.scheduled_ps < 0:
                    r.scheduled_ps = now
                self.allocate(r, blocks)
                self.prefilling.append(r)
                new = min(r.target - r.computed, left)
                chunks.append((r, new))
                left -= new

        if not self.decoding and not chunks:
            assert not self.load, "with nothing running, the head of the line always fits"
            return
        context_fp = sum(FP * (r.prompt + r.produced) + self.counters[r.tenant] % FP for r in self.decoding)
        duration = costs.iteration_ps(len(self.decoding), depth, context_fp, chunks)
        self.iteration = Iteration(now + duration, duration, depth, rates, chunks)

    def prefix_hit(self, request: Request, plan: WindowPlan) -> int:
        """Tokens of the prompt that the prefix cache spares; the last token is always computed."""
        if self.cached == 0:
            return 0
        hit = request.prompt * plan.hit_q10 * self.cached // (1024 * (self.cached + plan.hit_half_blocks))
        return min(request.target - 1, hit)

    def complete(self) -> list[Request]:
        """Deliver what the iteration in flight computed; the requests to hand over to a decode replica."""
        iteration = self.iteration
        assert iteration is not None
        self.iteration = None
        now, stats = iteration.end_ps, self.ledger.stats
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
                self.release(r, cache=True)  # its token travels with its KV
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
        """Let a request go that has all its tokens; its blocks stay behind as a cached prefix."""
        self.release(request, cache=True)
        self.ledger.finished(request, self.index)
