"""The statistics of a window that follow from requests: arrivals, tokens, ends, objectives met, times.

What the scheduler itself counts (preemptions, iterations, drafted tokens) is in `replica.py` and `engine.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_sim.engine.histogram import BINS, bin_of, percentile_ps
from llmserve_sim.engine.interface import FP, PRIORITY, TOTALS, RequestRecord, WindowStats

if TYPE_CHECKING:
    from llmserve_sim.engine.interface import Slo
    from llmserve_sim.engine.reference.request import Request

__all__ = ["Ledger"]


def percentile_or_minus_one(hist: list[int], q_percent: int) -> int:
    """Return a percentile in ps; −1 without samples."""
    value = percentile_ps(hist, q_percent)
    return -1 if value is None else value


class Ledger:
    """Counts the statistics of the window and the totals of the episode, and keeps the histories of ended requests."""

    def __init__(self, slo: Slo, *, record: bool) -> None:
        self.slo = slo
        self.record = record
        self.records: list[RequestRecord] = []
        self.stats = WindowStats()
        self.ttft_hist = [0] * BINS
        self.itl_hist = [0] * BINS
        self.ended: list[RequestRecord] = []
        """Histories of the requests that ended in the window."""

    def open_window(self) -> None:
        """Reset all statistics but the totals."""
        self.ttft_hist = [0] * BINS
        self.itl_hist = [0] * BINS
        self.ended = []
        self.stats = WindowStats(**{name: getattr(self.stats, name) for name in TOTALS})

    def close_window(self) -> WindowStats:
        """Return the statistics; the engine has already set the levels."""
        stats = self.stats
        stats.ttft_p50_ps, stats.ttft_p99_ps = (percentile_or_minus_one(self.ttft_hist, q) for q in (50, 99))
        stats.itl_p50_ps, stats.itl_p99_ps = (percentile_or_minus_one(self.itl_hist, q) for q in (50, 99))
        if self.record:
            stats.ttft_hist, stats.itl_hist = self.ttft_hist, self.itl_hist
        return stats

    def arrived(self, request: Request) -> None:
        """Count a request that arrives, also if it is rejected afterwards."""
        stats = self.stats
        stats.arrivals += 1
        stats.arrivals_priority += request.priority == PRIORITY
        stats.prompt_tokens += request.prompt
        stats.offered_tokens += request.output
        stats.offered_tenant[request.tenant] += request.output
        stats.total_arrived += 1

    def prefilled(self, request: Request, now: int) -> None:
        """Count the token that a prefill yields: the first, with its TTFT, or the next one after a preemption."""
        if request.first_ps < 0:
            request.first_ps = now
            ttft = now - request.arrival_ps
            self.stats.first_tokens += 1
            self.stats.ttft_count += 1
            self.stats.ttft_sum_ps += ttft
            self.ttft_hist[bin_of(ttft)] += 1
        else:
            self.gap(request, now, FP)
        self.delivered(request, now, 1)

    def gap(self, request: Request, now: int, tokens_fp: int) -> None:
        """Count the time since the last delivery, spread over the tokens that a step is expected to yield."""
        self.itl_hist[bin_of((now - request.last_ps) * FP // tokens_fp)] += tokens_fp

    def delivered(self, request: Request, now: int, tokens: int) -> None:
        """Count tokens that are delivered to the user."""
        request.produced += tokens
        request.last_ps = now
        self.stats.delivered_tokens += tokens

    def finished(self, request: Request, replica: int) -> None:
        """Count a request whose last token was delivered, and whether it met its objectives."""
        stats, slo, kind = self.stats, self.slo, request.priority
        stats.finished += 1
        stats.total_finished += 1
        stats.due[kind] += 1
        ttft = request.first_ps - request.arrival_ps
        in_time = ttft <= slo.ttft_ps[kind] + request.prompt * slo.ttft_ps_per_prompt_token
        if request.output > 1:
            in_time &= (request.last_ps - request.first_ps) // (request.output - 1) <= slo.tpot_ps[kind]
        if in_time:
            stats.met[kind] += 1
            stats.good_tokens[request.tenant] += request.output
        self._write(request, "finished", replica)

    def abandoned(self, request: Request, deadline_ps: int, replica: int) -> None:
        """Count a request whose user gave up before the first token."""
        self.stats.abandoned += 1
        self.stats.total_abandoned += 1
        self.stats.due[request.priority] += 1
        request.last_ps = deadline_ps
        self._write(request, "abandoned", replica)

    def rejected(self, request: Request) -> None:
        """Count a request that was rejected on arrival."""
        self.stats.rejected += 1
        self.stats.total_rejected += 1
        self.stats.due[request.priority] += 1
        request.last_ps = request.arrival_ps
        self._write(request, "rejected", -1)

    def _write(self, request: Request, status: str, replica: int) -> None:
        r = request
        record = RequestRecord(r.id, status, r.scheduled_ps, r.first_ps, r.last_ps, r.preemptions, replica)
        self.ended.append(record)
        if self.record:
            self.records.append(record)
