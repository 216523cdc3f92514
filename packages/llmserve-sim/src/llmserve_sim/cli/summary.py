"""The rows of the command's summary table, and the same figures as JSON. Plain numbers, no terminal.

They come from an episode's log, and from the summary of its requests where that is known. A log alone holds windows:
latencies are then those of windows, and the figures that windows cannot tell are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf
from statistics import fmean, median
from typing import Any

from llmserve_sim.__about__ import __version__
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.replay.summary import RequestSummary
from llmserve_sim.schema import EpisodeLog, ServeObservation
from llmserve_sim.tasks import Task

__all__ = ["Row", "summarise", "summary_json"]

_REASONS = {
    "cut": ("finished", "cut at the task's longest"),
    "patience": ("abandoned", "out of patience"),
    "max_model_len": ("rejected", "too long"),
    "max_unfinished": ("rejected", "queue full"),
    "episode_end": ("unfinished", "at the run's end"),
}
"""For each reason the outcome that it explains, and its words."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of an episode."""

    label: str
    value: float | None
    """None: there is nothing to measure."""
    unit: str
    digits: int = 0
    """Decimal places worth showing."""
    better: int = 0
    """+1: more is better; −1: less is better; 0: neither."""

    @property
    def text(self) -> str:
        """The value as it is shown, without its unit."""
        return "–" if self.value is None else f"{self.value:,.{self.digits}f}"

    @property
    def rank(self) -> float:
        """The larger, the better the value among those of a row that has a better and a worse."""
        return -inf if self.value is None else self.better * self.value


def summarise(log: EpisodeLog, *, window_s: float, requests: RequestSummary | None = None) -> list[Row]:
    """The rows of one episode; `window_s` is the simulated length of a window, seconds.

    Without `requests`, latencies are medians and worst cases over the windows that delivered tokens. Raises
    `InvalidInputError` for a log without steps.
    """
    seen = [step.observation for step in log.steps]
    if not seen:
        raise InvalidInputError("log.steps", "must hold at least one step to be summarised")
    rows = [Row("simulated time", len(seen) * window_s / 60, "min", 1)]
    if requests is None:
        rows += _of_windows(seen, window_s)
    else:
        rows += _of_requests(requests)
    rows += [
        Row("requests waiting, mean", fmean(o.queue_depth for o in seen), "", 1, -1),
        Row("requests running, mean", fmean(o.active_requests for o in seen), "", 1),
        Row("KV occupancy, mean", 100 * fmean(o.kv_cache_occupancy for o in seen), "%", 1),
        Row("GPU memory, largest", max(o.gpu_memory_used_gb for o in seen), "GB per GPU", 1),
        Row("evictions", sum(o.eviction_events for o in seen), "requests", 0, -1),
    ]
    dollars, million_tokens = _cost(seen, window_s) if requests is None else _paid(requests)
    if million_tokens > 0:
        rows.append(Row("cost", dollars / million_tokens, "USD/M tokens", 3, -1))
    rows.append(Row("reward per window", fmean(o.reward for o in seen), "", 4, 1))
    return rows + _terms(seen)


def summary_json(
    summary: RequestSummary, log: EpisodeLog, rules: Task, *, agent: str, deployment: str
) -> dict[str, Any]:
    """Return the figures of an episode as JSON takes them; `rules` is the task under which it ran."""
    seen = [step.observation for step in log.steps]
    terms = [o.metadata.get("reward_terms", {}) for o in seen]
    return {
        "simulator_version": __version__,
        "task": rules.id,
        "seed": log.seed,
        "agent": agent,
        "deployment": deployment,
        "limits": {
            "patience_s": rules.patience_s,
            "max_unfinished": rules.max_unfinished,
            "max_model_len": rules.max_len_tokens,
        },
        "simulated_s": len(seen) * rules.window_s,
        **summary.to_dict(),
        "evictions": sum(o.eviction_events for o in seen),
        "reward_per_window": fmean(o.reward for o in seen),
        "reward_terms": {name: fmean(t[name] for t in terms) for name in terms[0]} if all(terms) else {},
    }


def _of_requests(summary: RequestSummary) -> list[Row]:
    """Return what became of the requests, the reasons below each outcome, and how well they were served."""
    counts = summary.requests
    rows = [Row("requests arrived", counts["arrived"], "requests")]
    for outcome, better in (("finished", 1), ("abandoned", -1), ("rejected", -1), ("unfinished", -1)):
        rows.append(Row(f"  {outcome}", counts[outcome], "requests", 0, better))
        reasons = ((words, summary.reasons[name]) for name, (of, words) in _REASONS.items() if of == outcome)
        rows += [Row(f"    {words}", count, "requests", 0, -1) for words, count in reasons if count]
    rows += [
        Row("throughput", summary.output_tokens_per_s, "tokens/s", 0, 1),
        Row("goodput", summary.goodput_tokens_per_s, "tokens/s", 0, 1),
        Row("goodput, requests", summary.goodput_requests_per_s, "requests/s", 2, 1),
        Row(
            "SLO compliance",
            None if summary.slo_compliance is None else 100 * summary.slo_compliance,
            "% of requests due",
            1,
            1,
        ),
    ]
    for label, found in (
        ("TTFT", summary.ttft_ms),
        ("TPOT", summary.tpot_ms),
        ("ITL", summary.itl_ms),
        ("E2E", summary.e2e_ms),
    ):
        values = ((item.name, getattr(found, item.name)) for item in fields(found))
        rows += [Row(f"{label} {name}", value, "ms", 1, -1) for name, value in values]
    return rows


def _paid(summary: RequestSummary) -> tuple[float, float]:
    return summary.cost_usd, summary.output_tokens / 1e6


def _of_windows(seen: Sequence[ServeObservation], window_s: float) -> list[Row]:
    """Return what windows alone tell of requests. A window without tokens repeats latencies: it is left out."""
    served = [o for o in seen if o.throughput_tps > 0] or seen[-1:]
    return [
        Row("requests arrived", sum(o.request_arrival_rate for o in seen) * window_s, "requests"),
        *_fates(seen),
        Row("throughput", fmean(o.throughput_tps for o in seen), "tokens/s", 0, 1),
        Row("SLO compliance", 100 * _compliance(seen), "% of requests due", 1, 1),
        Row("TTFT p50, median window", median(o.p50_ttft_ms for o in served), "ms", 0, -1),
        Row("TTFT p99, median window", median(o.p99_ttft_ms for o in served), "ms", 0, -1),
        Row("TTFT p99, worst window", max(o.p99_ttft_ms for o in served), "ms", 0, -1),
        Row("ITL p50, median window", median(o.p50_itl_ms for o in served), "ms", 1, -1),
    ]


def _cost(seen: Sequence[ServeObservation], window_s: float) -> tuple[float, float]:
    """Return the price of all windows, idle ones too, and the tokens that they delivered, millions.

    The price of a window is that of one which delivered tokens: only there, a log states the cost of a token.
    """
    tokens = sum(o.throughput_tps for o in seen) * window_s
    usd_per_s = max(o.estimated_cost_per_1k * o.throughput_tps for o in seen) / 1000
    return usd_per_s * window_s * len(seen), tokens / 1e6


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
