"""The Prometheus metrics: vLLM's names for vLLM's metrics, the prefix `llmserve:` for our own.

Requests and steps are counted as they happen. The registry's figures are read when the metrics are requested.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import fsum
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from llmserve_server.backends.latencies import Latencies, Series
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_sim.schema import ServeObservation
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

_Windows = list[ServeObservation]
_GAUGES: Final[tuple[tuple[str, str, Callable[[_Windows], float]], ...]] = (
    ("vllm:num_requests_running", "Requests running.", lambda windows: sum(w.active_requests for w in windows)),
    ("vllm:num_requests_waiting", "Requests waiting.", lambda windows: sum(w.queue_depth for w in windows)),
    (
        "vllm:kv_cache_usage_perc",
        "KV-cache usage, 1 is full; mean over sessions.",
        lambda windows: fsum(w.kv_cache_occupancy for w in windows) / len(windows),
    ),
)
_LATENCIES: Final = (
    (
        "llmserve:time_to_first_token_seconds",
        "Time to first token in the last window; the worst session's quantiles.",
        {"0.5": "p50_ttft_ms", "0.99": "p99_ttft_ms"},
    ),
    (
        "llmserve:inter_token_latency_seconds",
        "Time between tokens in the last window; the worst session's quantiles.",
        {"0.5": "p50_itl_ms"},
    ),
)


_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[Latencies], list[Series]]], ...]] = (
    ("vllm:time_to_first_token_seconds", "Time to first token.", Latencies.ttft),
    ("vllm:inter_token_latency_seconds", "Time between tokens.", Latencies.itl),
    ("vllm:e2e_request_latency_seconds", "Time from a request's arrival to its last token.", Latencies.e2e),
)


class Metrics:
    """The metrics of one application. Nothing is global, so several applications in one process stay separate.

    Args:
        registry: the sessions.
        latencies: the latencies of the windows that were simulated.
    """

    def __init__(self, registry: SessionRegistry, latencies: Latencies) -> None:
        self._registry = registry
        self._latencies = latencies
        self._page = CollectorRegistry()
        self._requests = Histogram(
            "llmserve:request_duration_seconds",
            "Time to answer an HTTP request.",
            ["method", "route", "status"],
            registry=self._page,
            buckets=_SECONDS,
        )
        self._steps = Histogram(
            "llmserve:step_duration_seconds", "Time to run and store a step.", registry=self._page, buckets=_SECONDS
        )
        self.sockets = Gauge("llmserve:websockets", "WebSockets that are open.", registry=self._page)
        self._messages = prometheus_client.Counter(
            "llmserve:websocket_messages", "WebSocket messages sent.", ["outcome"], registry=self._page
        )
        self.sent = {outcome: self._messages.labels(outcome).inc for outcome in ("ok", "error")}
        """Counts one message sent over a socket, by outcome."""
        self._last: dict[str, ServeObservation] = {}
        self._most_kept = 2 * registry.stats().places
        self._tokens: defaultdict[str, float] = defaultdict(float)
        self._preemptions: Counter[str] = Counter()
        self._page.register(_Sessions(registry))
        self._page.register(self)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def step(self, session_id: str, observation: ServeObservation, seconds: float) -> None:
        """Count one step. Call it only on the event loop's thread."""
        self._steps.observe(seconds)
        self._last[session_id] = observation
        if len(self._last) > self._most_kept:  # nobody asks for the page, which forgets the sessions that left
            self._shown()
        task_id = observation.task_id
        self._tokens[task_id] += observation.throughput_tps * _window_s(task_id)
        forced = observation.metadata.get("window", {}).get("forced_evictions", 0)
        self._preemptions[task_id] += observation.eviction_events - forced

    def collect(self) -> Iterator[Metric]:
        """Yield vLLM's metrics, summed over the sessions in memory; docs/api.md explains each sum."""
        shown = self._shown()
        for name, meaning, read in _GAUGES:
            gauge = GaugeMetricFamily(name, meaning, labels=["task_id"])
            for task_id, windows in shown.items():
                gauge.add_metric([task_id], read(windows))
            yield gauge
        for name, meaning, quantiles in _LATENCIES:
            summary = Metric(name, meaning, "summary")
            for task_id, windows in shown.items():
                for quantile, field in quantiles.items():
                    worst = max(getattr(window, field) for window in windows) / 1000.0
                    summary.add_sample(name, {"task_id": task_id, "quantile": quantile}, worst)
            yield summary
        for name, meaning, series in _HISTOGRAMS:
            histogram = HistogramMetricFamily(name, meaning, labels=["task_id"])
            for one in series(self._latencies):
                histogram.add_metric([one.task_id], one.buckets, one.total)
            yield histogram
        counters: tuple[tuple[str, str, Mapping[str, float]], ...] = (
            ("vllm:generation_tokens", "Output tokens delivered.", self._tokens),
            ("vllm:num_preemptions", "Requests preempted for want of KV blocks.", self._preemptions),
        )
        for name, meaning, totals in counters:
            counter = CounterMetricFamily(name, meaning, labels=["task_id"])
            for task_id, total in sorted(totals.items()):
                counter.add_metric([task_id], total)
            yield counter

    def _shown(self) -> dict[str, list[ServeObservation]]:
        """Return the last window of every session in memory, by task, and forget the sessions that left."""
        found: dict[str, list[ServeObservation]] = {}
        kept: dict[str, ServeObservation] = {}
        for session in self._registry.open_sessions():
            window = self._last.get(session.session_id)
            if window is not None and window.task_id == session.task_id:
                kept[session.session_id] = window
                found.setdefault(session.task_id, []).append(window)
        self._last = kept
        return dict(sorted(found.items()))

    def page(self) -> bytes:
        """Return the page in Prometheus's text format."""
        return generate_latest(self._page)


@cache
def _window_s(task_id: str) -> float:
    return catalogue_task(task_id).window_s


class _Sessions:
    """The registry's figures, read when the metrics are requested."""

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families."""
        sessions = GaugeMetricFamily("llmserve:sessions", "Sessions in memory.", labels=["transport", "task_id"])
        counts: dict[tuple[str, str], int] = {}
        for session in self._registry.open_sessions():
            key = (session.transport, session.task_id)
            counts[key] = counts.get(key, 0) + 1
        for labels, count in sorted(counts.items()):
            sessions.add_metric(labels, count)
        yield sessions
        stats = self._registry.stats()
        yield GaugeMetricFamily("llmserve:session_places", "Most sessions in memory at once.", value=stats.places)
        for name, value, meaning in (
            ("episodes", stats.episodes, "Episodes started."),
            ("steps", stats.steps, "Steps accepted."),
            ("steps_repeated", stats.repeated, "Steps that were answered again."),
            ("sessions_rebuilt", stats.rebuilt, "Sessions brought back from the store."),
            ("sessions_dropped", stats.dropped, "Sessions that left memory for want of use."),
            ("sessions_fenced", stats.fenced, "Calls that found another process ahead."),
            (
                "sessions_refused",
                stats.refused,
                "Calls refused because every place, or the address's share, was in use.",
            ),
            ("episodes_pruned", stats.pruned, "Episodes removed from the store by age or number."),
        ):
            yield CounterMetricFamily(f"llmserve:{name}", meaning, value=value)
