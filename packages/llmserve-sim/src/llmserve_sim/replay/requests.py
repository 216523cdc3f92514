"""`RequestTable`: what became of each request of an episode. `RequestCollector` gathers it window by window.

Times are integer picoseconds of simulated time, as in the engine; −1 for what never happened. A request that the
episode's end cut off is *unfinished*: its times are not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from llmserve_sim.engine.histogram import BINS
from llmserve_sim.engine.interface import STATUSES
from llmserve_sim.engine.latencies import ENDED_SIZE, HISTOGRAMS_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.engine.interface import Slo, Traffic

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

__all__ = ["OUTCOMES", "REASONS", "RequestCollector", "RequestTable"]

OUTCOMES: Final = (*STATUSES, "unfinished")
"""What becomes of a request; `RequestTable.outcome` counts them in this order."""
FINISHED, ABANDONED, REJECTED, UNFINISHED = range(len(OUTCOMES))
REASONS: Final = ("", "patience", "max_model_len", "max_unfinished", "cut", "episode_end")
"""Why a request did not end as asked; `RequestTable.reason` counts them in this order.

"patience": it waited too long for its first token. "max_model_len": more tokens than that were asked for.
"max_unfinished": so many requests were unfinished when it arrived. "cut": it finished at the task's `max_len_tokens`,
before its output was complete. "episode_end": the episode ended first.
"""
NONE, PATIENCE, TOO_LONG, QUEUE_FULL, CUT, EPISODE_END = range(len(REASONS))
_NEVER: Final = -1


class RequestCollector:
    """Takes the requests that end in each window, as `ServingEnv.count_latencies` hands them over."""

    def __init__(self) -> None:
        self._ended: list[Ints] = []
        self._histograms: Ints = np.zeros(HISTOGRAMS_SIZE, dtype=np.int64)

    def add(self, histograms: Ints | list[int], ttft_ps: int, ended: Ints | list[int], arrival_ps: Ints) -> None:
        """Add one window, see `LatencySums.add`."""
        self._ended.append(np.array(ended, dtype=np.int64))
        self._histograms += histograms

    def table(self, traffic: Traffic, slo: Slo, *, max_len: int, until_ps: int, cut: bool) -> RequestTable:
        """Return the table of the requests that arrived before `until_ps`, the end of the last window.

        Args:
            traffic: the requests as they were recorded or drawn.
            slo: their targets.
            max_len: longest prompt plus output.
            until_ps: end of the last window.
            cut: longer requests are cut short, as in a task, if their prompt leaves room; else they are rejected.
        """
        count = int(np.searchsorted(traffic.arrival_ps, until_ps))
        prompt, output = traffic.prompt[:count], traffic.output[:count]
        columns = np.full((ENDED_SIZE, count), _NEVER, dtype=np.int64)
        columns[1] = UNFINISHED
        columns[5] = 0
        rows = np.concatenate([*self._ended, np.zeros(0, dtype=np.int64)]).reshape(-1, ENDED_SIZE)
        columns[:, rows[:, 0]] = rows.T
        _, outcome, scheduled, first, last, preemptions, replica = columns
        long = prompt + (1 if cut else output) > max_len
        delivered = np.where(outcome == FINISHED, np.minimum(output, max_len - prompt) if cut else output, 0)
        reason = np.select(
            [outcome == UNFINISHED, outcome == ABANDONED, outcome == REJECTED, delivered < output],
            [np.full(count, EPISODE_END), np.full(count, PATIENCE), np.where(long, TOO_LONG, QUEUE_FULL), CUT],
            default=NONE,
        )
        return RequestTable(
            arrival_ps=traffic.arrival_ps[:count],
            prompt=prompt,
            output=output,
            delivered=delivered,
            priority=traffic.priority[:count],
            tenant=traffic.tenant[:count],
            scheduled_ps=scheduled,
            first_ps=first,
            last_ps=last,
            preemptions=preemptions,
            replica=replica,
            outcome=outcome,
            reason=reason,
            met=_met(traffic, slo, delivered, outcome, first, last),
            itl_histogram=self._histograms[-BINS:],
        )


def _met(traffic: Traffic, slo: Slo, delivered: Ints, outcome: Ints, first: Ints, last: Ints) -> Bools:
    """Return bool[n]: requests that finished within their targets, by the engine's rule."""
    count = len(outcome)
    priority = traffic.priority[:count]
    target = np.array(slo.ttft_ps)[priority] + traffic.prompt[:count] * slo.ttft_ps_per_prompt_token
    in_time = first - traffic.arrival_ps[:count] <= target
    gaps = np.maximum(delivered - 1, 1)
    paced = (delivered <= 1) | ((last - first) // gaps <= np.array(slo.tpot_ps)[priority])
    result: Bools = (outcome == FINISHED) & in_time & paced
    return result


@dataclass(frozen=True, eq=False)
class RequestTable:
    """The requests of an episode by id, in order of arrival; int64 arrays of one length unless said otherwise."""

    arrival_ps: Ints
    prompt: Ints
    """Prompt tokens."""
    output: Ints
    """Output tokens asked for."""
    delivered: Ints
    """Output tokens of a finished request: those asked for, unless it was cut; else 0."""
    priority: Ints
    """0 priority, 1 standard."""
    tenant: Ints
    """Index of the tenant class."""
    scheduled_ps: Ints
    """When it was first admitted."""
    first_ps: Ints
    last_ps: Ints
    """Last token; for an abandoned or rejected request, the time at which it ended."""
    preemptions: Ints
    replica: Ints
    """Where it ended; −1 if it never reached one."""
    outcome: Ints
    """Index into `OUTCOMES`."""
    reason: Ints
    """Index into `REASONS`."""
    met: Bools
    """bool[n]: it finished within its targets."""
    itl_histogram: Ints
    """int64[BINS], 1/256 token: gaps between successive tokens, of all requests, see `engine/histogram.py`."""

    def __len__(self) -> int:
        return len(self.arrival_ps)

    @property
    def finished(self) -> Bools:
        """bool[n]: finished requests."""
        result: Bools = self.outcome == FINISHED
        return result

    @property
    def ttft_s(self) -> Floats:
        """float64[n] time to first token, s; NaN if none is known."""
        return _since(self.first_ps, self.arrival_ps, self.first_ps >= 0)

    @property
    def e2e_s(self) -> Floats:
        """float64[n] time from arrival to last token, s; NaN unless finished."""
        return _since(self.last_ps, self.arrival_ps, self.finished)

    @property
    def tpot_s(self) -> Floats:
        """float64[n] mean time per token after the first, s; NaN unless finished with at least two tokens."""
        whole = _since(self.last_ps, self.first_ps, self.finished & (self.delivered > 1))
        result: Floats = whole / np.maximum(self.delivered - 1, 1)
        return result

    def count(self, outcome: str | None = None, reason: str | None = None) -> int:
        """Return how many requests had this outcome and this reason."""
        chosen = np.ones(len(self), dtype=np.bool_)
        if outcome is not None:
            chosen &= self.outcome == OUTCOMES.index(outcome)
        if reason is not None:
            chosen &= self.reason == REASONS.index(reason)
        return int(chosen.sum())


def _since(end_ps: Ints, start_ps: Ints, known: Bools) -> Floats:
    return np.where(known, (end_ps - start_ps) / 1e12, np.nan)
