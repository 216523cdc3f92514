"""The figures of an episode over its requests: latencies, throughput, goodput, cost.

Percentiles interpolate linearly between requests, as `numpy.percentile` and `vllm bench serve` do. TTFT is over the
requests that got a first token, TPOT and E2E over those that finished. ITL is over all gaps between successive tokens,
from the engine's histogram: right to 1.6 %. Time is paid from the start until the traffic is over and the last request
has ended, busy or idle; windows, and waiting for nothing after that, do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llmserve_sim.engine.histogram import BINS, bin_middle_ps
from llmserve_sim.engine.interface import PS_PER_S
from llmserve_sim.replay.requests import OUTCOMES, REASONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.replay.requests import RequestTable

    Floats = NDArray[np.float64]

__all__ = ["Distribution", "RequestSummary", "paid_ps", "summarise_requests"]

_PERCENTILES: Final = (50, 90, 95, 99)
_MIDDLES_S: Final = np.array([bin_middle_ps(index) for index in range(BINS)]) / PS_PER_S


@dataclass(frozen=True, slots=True)
class Distribution:
    """A latency over requests (ITL: over gaps), milliseconds. All are None where there is nothing to measure."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """Figures over the requests of an episode."""

    requests: dict[str, int]
    """Requests that arrived, and how many of them had each outcome, and met their targets."""
    reasons: dict[str, int]
    """How many ended otherwise than asked, by reason."""
    ttft_ms: Distribution
    tpot_ms: Distribution
    itl_ms: Distribution
    e2e_ms: Distribution
    duration_s: float
    """Time paid, see the module."""
    output_tokens: int
    """Tokens delivered, those of unfinished requests included."""
    output_tokens_per_s: float
    requests_per_s: float
    """Finished requests per second."""
    goodput_requests_per_s: float
    """Requests per second that met their targets."""
    goodput_tokens_per_s: float
    """Their output tokens per second."""
    slo_compliance: float | None
    """Share that met their targets, of all requests that ended; None if none did."""
    cost_usd: float
    """Price of the fleet for `duration_s`."""
    usd_per_million_output_tokens: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON takes them."""
        latencies = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
        return {
            name: {f.name: getattr(getattr(self, name), f.name) for f in Distribution.__dataclass_fields__.values()}
            if name in latencies
            else getattr(self, name)
            for name in self.__dataclass_fields__
        }


def paid_ps(table: RequestTable, *, traffic_ps: int, episode_ps: int) -> int:
    """Return until when the fleet is paid, ps: the traffic is over and every request has ended, or the episode ended.

    `traffic_ps` is the length of the traffic and `episode_ps` that of all windows.
    """
    if table.count("unfinished"):
        return episode_ps
    return max(traffic_ps, int(table.last_ps.max(initial=0)))


def summarise_requests(
    table: RequestTable, *, duration_ps: int, output_tokens: int, usd_per_hour: float
) -> RequestSummary:
    """Return the figures of a table.

    Args:
        table: the requests.
        duration_ps: time paid, see `paid_ps`.
        output_tokens: tokens that were delivered.
        usd_per_hour: price of the whole fleet, US dollars.
    """
    seconds = duration_ps / PS_PER_S
    met, ended = int(table.met.sum()), len(table) - table.count("unfinished")
    usd = usd_per_hour * seconds / 3600.0
    return RequestSummary(
        requests={"arrived": len(table), **{name: table.count(name) for name in OUTCOMES}, "met_slo": met},
        reasons={name: table.count(reason=name) for name in REASONS if name},
        ttft_ms=_distribution(table.ttft_s),
        tpot_ms=_distribution(table.tpot_s),
        itl_ms=_of_gaps(table),
        e2e_ms=_distribution(table.e2e_s),
        duration_s=seconds,
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / seconds,
        requests_per_s=table.count("finished") / seconds,
        goodput_requests_per_s=met / seconds,
        goodput_tokens_per_s=int(table.delivered[table.met].sum()) / seconds,
        slo_compliance=met / ended if ended else None,
        cost_usd=usd,
        usd_per_million_output_tokens=usd / output_tokens * 1e6 if output_tokens else None,
    )


def _distribution(seconds: Floats) -> Distribution:
    known = seconds[~np.isnan(seconds)] * 1000.0
    if len(known) == 0:
        return Distribution()
    return Distribution(float(known.mean()), *np.percentile(known, _PERCENTILES).tolist())


def _of_gaps(table: RequestTable) -> Distribution:
    """Return the distribution of a histogram: its percentiles are nearest-rank, all values are middles of bins."""
    weights = table.itl_histogram
    total = int(weights.sum())
    if total == 0:
        return Distribution()
    ranks = [-(-total * q // 100) for q in _PERCENTILES]
    found = _MIDDLES_S[np.searchsorted(np.cumsum(weights), ranks)] * 1000.0
    return Distribution(float(weights @ _MIDDLES_S) / total * 1000.0, *found.tolist())
