"""The rows of the command's summary table, computed from an episode's log. Plain numbers, no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import EpisodeLog, ServeObservation

__all__ = ["Row", "summarise"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of an episode."""

    label: str
    value: float
    unit: str
    digits: int = 0
    """Decimal places worth showing."""
    better: int = 0
    """+1: more is better; −1: less is better; 0: neither."""

    @property
    def text(self) -> str:
        """The value as it is shown, without its unit."""
        return f"{self.value:,.{self.digits}f}"


def summarise(log: EpisodeLog, *, window_s: float) -> list[Row]:
    """The rows of one episode; `window_s` is the simulated length of a window, seconds.

    Latencies are medians and worst cases over windows of what each window reported. Raises `InvalidInputError` for a
    log without steps.
    """
    seen = [step.observation for step in log.steps]
    if not seen:
        raise InvalidInputError("log.steps", "must hold at least one step to be summarised")
    tokens = sum(o.throughput_tps for o in seen) * window_s
    dollars = sum(o.estimated_cost_per_1k * o.throughput_tps for o in seen) * window_s / 1000
    rows = [
        Row("simulated time", len(seen) * window_s / 60, "min", 1),
        Row("requests arrived", sum(o.request_arrival_rate for o in seen) * window_s, "requests"),
        *_fates(seen),
        Row("throughput", tokens / (len(seen) * window_s), "tokens/s", 0, 1),
        Row("SLO compliance", 100 * _compliance(seen), "% of requests due", 1, 1),
        Row("TTFT p50, median", median(o.p50_ttft_ms for o in seen), "ms", 0, -1),
        Row("TTFT p99, median", median(o.p99_ttft_ms for o in seen), "ms", 0, -1),
        Row("TTFT p99, worst", max(o.p99_ttft_ms for o in seen), "ms", 0, -1),
        Row("ITL p50, median", median(o.p50_itl_ms for o in seen), "ms", 1, -1),
        Row("requests waiting, mean", fmean(o.queue_depth for o in seen), "", 1, -1),
        Row("requests running, mean", fmean(o.active_requests for o in seen), "", 1),
        Row("KV occupancy, mean", 100 * fmean(o.kv_cache_occupancy for o in seen), "%", 1),
        Row("GPU memory, largest", max(o.gpu_memory_used_gb for o in seen), "GB per GPU", 1),
        Row("evictions", sum(o.eviction_events for o in seen), "requests", 0, -1),
    ]
    if tokens > 0:
        rows.append(Row("cost", 1000 * dollars / tokens * 1000, "USD/M tokens", 3, -1))
    rows.append(Row("reward per window", fmean(o.reward for o in seen), "", 4, 1))
    return rows + _terms(seen)


def _fates(seen: Sequence[ServeObservation]) -> list[Row]:
    """Return counts of requests by outcome. Without the backend's counts, only the unfinished ones are known."""
    unfinished = Row("  unfinished", seen[-1].queue_depth + seen[-1].active_requests, "requests", 0, -1)
    windows: list[dict[str, int]] = [o.metadata.get("window", {}) for o in seen]
    if not all({"due_requests", "abandoned_requests", "rejected_requests"} <= window.keys() for window in windows):
        return [unfinished]
    abandoned = sum(window["abandoned_requests"] for window in windows)
    rejected = sum(window["rejected_requests"] for window in windows)
    finished = sum(window["due_requests"] for window in windows) - abandoned - rejected
    return [
        Row("  finished", finished, "requests", 0, 1),
        Row("  abandoned", abandoned, "requests", 0, -1),
        Row("  rejected", rejected, "requests", 0, -1),
        unfinished,
    ]


def _compliance(seen: Sequence[ServeObservation]) -> float:
    """Share of all due requests that met their targets; over windows where a backend does not say how many were due."""
    due = [o.metadata.get("window", {}).get("due_requests", 1) for o in seen]
    total = sum(due)
    return sum(o.slo_compliance_rate * n for o, n in zip(seen, due, strict=True)) / total if total else 1.0


def _terms(seen: Sequence[ServeObservation]) -> list[Row]:
    """Means of the reward's named terms, where every observation carries them."""
    terms: list[dict[str, float]] = [o.metadata.get("reward_terms", {}) for o in seen]
    return [Row(f"  of it {name}", fmean(t[name] for t in terms), "", 4, 1) for name in terms[0]] if all(terms) else []
