"""The fleet: routes requests to replicas, hands them over between replicas and applies plans."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Self

import numpy as np

from llmserve_sim.engine.future import check_future
from llmserve_sim.engine.interface import PRIORITY, STANDARD, STATUSES, Progress
from llmserve_sim.engine.reference.costs import IterationCosts
from llmserve_sim.engine.reference.ledger import Ledger
from llmserve_sim.engine.reference.replica import Replica
from llmserve_sim.engine.reference.request import Request

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable, Iterator

    from llmserve_sim.engine.interface import (
        FleetSpec,
        LatencySink,
        RequestRecord,
        Slo,
        Traffic,
        WindowPlan,
        WindowStats,
    )

__all__ = ["ReferenceEngine"]


@dataclass(slots=True, eq=False)
class Handover:
    """A request whose KV is being sent from a prefill replica to the decode replicas."""

    ready_ps: int
    source: int
    request: Request


class ReferenceEngine:
    """The plain implementation of `engine.interface.Engine`. With `record` it keeps request histories."""

    def __init__(self, fleet: FleetSpec, slo: Slo, traffic: Traffic, *, record: bool = False) -> None:
        self.fleet = fleet
        self.costs = [IterationCosts(tables) for tables in fleet.tiers]
        self.offered = traffic
        self.traffic = _rows(traffic)
        self.arrived = 0
        self.joined = 0
        self.now = 0
        self.plan: WindowPlan | None = None
        self.handovers: list[Handover] = []
        self.ledger = Ledger(slo, record=record)
        self.replicas = [Replica(index, self.ledger, fleet.patience_ps, fleet.rules) for index in range(fleet.replicas)]

    def step(self, plan: WindowPlan) -> WindowStats:
        """Apply `plan` and run to its end; raises `InvalidInputError` for a plan that cannot be run."""
        self.fleet.check_plan(plan, self.now)
        self.ledger.open_window()
        self._apply_plan(plan)
        while True:
            self.now = self._next_event(plan)
            for replica in self.replicas:
                if replica.iteration is not None and replica.iteration.end_ps == self.now:
                    self._hand_over(replica, replica.complete())
            if self.now == plan.end_ps:
                break
            self._join_decode_replicas()
            self._route_arrivals()
            for replica in self.replicas:
                if replica.iteration is None and replica.ready_ps <= self.now:
                    replica.start(self.now, plan, self.costs[plan.tier])
        self._abandon_expired()
        self._measure_levels()
        return self.ledger.close_window()

    def fork(self, traffic: Traffic | None = None) -> Self:
        """Return an independent engine in the same state, with the same future or the one in `traffic`."""
        shared = (self.fleet, self.costs, self.traffic, self.offered, self.plan)
        clone = copy.deepcopy(self, {id(part): part for part in shared})
        if traffic is not None:
            check_future(self.offered, traffic, self.progress(), self.now)
            clone.offered, clone.traffic = traffic, _rows(traffic)
            for request, _ in clone.unfinished():
                request.output = min(int(traffic.output[request.id]), self.fleet.max_len - request.prompt)
        return clone

    def __copy__(self) -> Self:
        return self.fork()

    def progress(self) -> Progress:
        """Return the progress of the requests that have arrived."""
        ended = np.ones(self.arrived, dtype=np.bool_)
        produced = np.zeros(self.arrived, dtype=np.int64)
        for request, tokens in self.unfinished():
            ended[request.id] = False
            produced[request.id] = tokens
        return Progress(ended, produced)

    def unfinished(self) -> Iterator[tuple[Request, int]]:
        """Yield each unfinished request, with the number of tokens that its output is known to exceed."""
        for replica in self.replicas:
            for request in (*replica.decoding, *replica.prefilling, *chain(*replica.resumed, *replica.fresh)):
                yield request, request.produced
        for handover in self.handovers:  # one more token travels with the KV, and it is not the last
            yield handover.request, handover.request.produced + 1

    def records(self) -> list[RequestRecord]:
        """Take the histories of the requests that ended since the last call, sorted by id; empty unless recording."""
        records, self.ledger.records = self.ledger.records, []
        return sorted(records)

    def count_latencies(self, into: LatencySink) -> None:
        """Add the last window's latencies."""
        ledger = self.ledger
        histograms = [0, 0, *ledger.ttft_hist, 0, 0, *ledger.itl_hist]
        ended = [
            x
            for r in ledger.ended
            for x in (r.id, STATUSES.index(r.status), r.scheduled_ps, r.first_ps, r.last_ps, r.preemptions, r.replica)
        ]
        into.add(histograms, ledger.stats.ttft_sum_ps, ended, self.offered.arrival_ps)

    # -- events ----------------------------------------------------------------------------------------------------

    def _next_event(self, plan: WindowPlan) -> int:
        times = [plan.end_ps]
        if self.arrived < len(self.traffic):
            times.append(self.traffic[self.arrived][0])
        times.extend(handover.ready_ps for handover in self.handovers)
        for replica in self.replicas:
            if replica.iteration is not None:
                times.append(replica.iteration.end_ps)
            elif replica.load or replica.planned is not None:
                times.append(max(replica.ready_ps, self.now))
        return min(times)

    def _hand_over(self, replica: Replica, requests: Iterable[Request]) -> None:
        for request in requests:
            start = max(self.now, replica.link_free_ps)
            replica.link_free_ps = start + self.fleet.link_ps_per_token * request.target
            ready = replica.link_free_ps + self.fleet.handover_ps
            self.handovers.append(Handover(ready, replica.index, request))
            self.ledger.stats.handovers += 1

    def _join_decode_replicas(self) -> None:
        due = [h for h in self.handovers if h.ready_ps <= self.now]
        self.handovers = [h for h in self.handovers if h.ready_ps > self.now]
        for handover in sorted(due, key=lambda h: h.source):
            handover.request.has_kv = True
            self.ledger.prefilled(handover.request, self.now)
            replica = min((r for r in self.replicas if r.decode_only), key=lambda r: r.load)
            self._enqueue(replica, replica.resumed, handover.request)

    def _route_arrivals(self) -> None:
        while self.arrived < len(self.traffic) and self.traffic[self.arrived][0] <= self.now:
            request = Request(self.arrived, *self.traffic[self.arrived])
            self.arrived += 1
            self.ledger.arrived(request)
            self._abandon_expired()
            unfinished = sum(replica.load for replica in self.replicas) + len(self.handovers)
            if request.prompt + 1 > self.fleet.max_len or unfinished >= self.fleet.max_unfinished:
                self.ledger.rejected(request)
                continue
            request.output = min(request.output, self.fleet.max_len - request.prompt)
            self._route(request)

    def _route(self, request: Request) -> None:
        replica = min((r for r in self.replicas if not r.decode_only), key=lambda r: r.load)
        self._enqueue(replica, replica.fresh if request.first_ps < 0 else replica.resumed, request)

    def _enqueue(self, replica: Replica, queues: tuple[deque[Request], deque[Request]], request: Request) -> None:
        request.seq = self.joined
        self.joined += 1
        queues[request.priority].append(request)

    def _abandon_expired(self) -> None:
        for replica in self.replicas:
            replica.abandon_expired(self.now)

    # -- windows ---------------------------------------------------------------------------------------------------

    def _apply_plan(self, plan: WindowPlan) -> None:
        """Apply a plan at the start of a window. The first plan is the initial state and costs nothing."""
        now, last, stats = self.now, self.plan, self.ledger.stats
        self.plan = plan
        if last is None:
            self._set_roles(plan)
            for replica in self.replicas:
                replica.pool = plan.pool_blocks
            return
        self._abandon_expired()
        if plan.tier != last.tier or plan.split != last.split:
            stall = (self.fleet.swap_ps[plan.tier] if plan.tier != last.tier else 0) + (
                self.fleet.split_ps if plan.split != last.split else 0
            )
            self._restart(plan, stall)
        for replica in self.replicas:
            victims = replica.set_pool(plan.pool_blocks, plan.priority)
            idle_from = max(now, replica.ready_ps, replica.iteration.end_ps if replica.iteration else now)
            if plan.resized:
                stats.preemptions += victims
                replica.ready_ps = idle_from + self.fleet.resize_ps
            elif victims:
                stats.forced_evictions += victims
                replica.ready_ps = idle_from + self.fleet.evict_ps

    def _set_roles(self, plan: WindowPlan) -> None:
        for replica in self.replicas:
            replica.prefill_only = plan.split and replica.index < self.fleet.replicas // 2
            replica.decode_only = plan.split and not replica.prefill_only

    def _restart(self, plan: WindowPlan, stall_ps: int) -> None:
        """Free all KV, stall, and route every unfinished request anew, those with a first token first."""
        for replica in self.replicas:
            replica.iteration = replica.planned = None
            self.ledger.stats.preemptions += replica.running
            while replica.running:
                replica.preempt(replica.victim(plan.priority))
        self._abandon_expired()  # a preempted request without a first token may be past its patience
        resumed: list[Request] = []
        fresh: list[Request] = []
        for handover in self.handovers:  # the token that travels with the KV is lost
            if handover.request.first_ps >= 0:
                resumed.append(handover.request)
            elif not self.replicas[handover.source].gives_up(handover.request, self.now):
                fresh.append(handover.request)
        self.handovers = []
        for replica in self.replicas:
            for queue in replica.resumed:
                resumed.extend(queue)
                queue.clear()
            for queue in replica.fresh:
                fresh.extend(queue)
                queue.clear()
            replica.cached = 0
            replica.link_free_ps = self.now
            replica.ready_ps = max(replica.ready_ps, self.now) + stall_ps
        self._set_roles(plan)
        for request in sorted(resumed, key=lambda r: r.id) + sorted(fresh, key=lambda r: r.id):
            request.has_kv = False
            self._route(request)

    def _measure_levels(self) -> None:
        stats, replicas = self.ledger.stats, self.replicas
        waiting_fresh = [r for replica in replicas for queue in replica.fresh for r in queue]
        waiting = [r for replica in replicas for queue in replica.resumed for r in queue] + waiting_fresh
        waiting.extend(handover.request for handover in self.handovers)
        stats.queue = [sum(r.priority == kind for r in waiting) for kind in (PRIORITY, STANDARD)]
        stats.queue_depth = len(waiting)
        stats.running = sum(replica.running for replica in replicas)
        stats.prefilling = sum(len(replica.prefilling) for replica in replicas)
        stats.used_blocks = sum(replica.used for replica in replicas)
        stats.pool_blocks = sum(replica.pool for replica in replicas)
        stats.cached_blocks = sum(replica.cached for replica in replicas)
        stats.oldest_wait_ps = max((self.now - r.arrival_ps for r in waiting_fresh), default=0)


def _rows(traffic: Traffic) -> list[tuple[int, int, int, int, int]]:
    """Return one tuple per request: arrival, prompt, output, class and tenant."""
    columns = (traffic.arrival_ps, traffic.prompt, traffic.output, traffic.priority, traffic.tenant)
    return list(zip(*(column.tolist() for column in columns), strict=True))
