"""The Prometheus page: vLLM's names where the meaning is vLLM's, `llmserve:` for what is ours.

Counters of steps are kept as they happen; what the registry knows is read when the page is asked for. The module knows
observations and counts, no caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from llmserve_server.sessions import SessionRegistry
from llmserve_sim.schema import ServeObservation

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one application; nothing is global, so that two applications in a process do not mix."""

    def __init__(self, registry: SessionRegistry) -> None:
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
        self._messages = Counter(
            "llmserve:websocket_messages", "WebSocket messages sent.", ["outcome"], registry=self._page
        )
        self.sent = {outcome: self._messages.labels(outcome).inc for outcome in ("ok", "error")}
        """Take in one message sent over a socket."""
        self._page.register(_Sessions(registry))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Take in one answered request."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def step(self, observation: ServeObservation, seconds: float) -> None:
        """Take in one step."""
        self._steps.observe(seconds)

    def page(self) -> bytes:
        """Return the page in Prometheus's text format."""
        return generate_latest(self._page)


class _Sessions:
    """What the registry knows, at the time of asking."""

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        sessions = GaugeMetricFamily("llmserve:sessions", "Sessions in memory.", labels=["transport", "task_id"])
        counts: dict[tuple[str, str], int] = {}
        for session in self._registry.open_sessions():
            key = (session.transport, session.task_id)
            counts[key] = counts.get(key, 0) + 1
        for labels, count in sorted(counts.items()):
            sessions.add_metric(labels, count)
        yield sessions
        stats = self._registry.stats()
        for name, value, meaning in (
            ("episodes", stats.episodes, "Episodes started."),
            ("steps", stats.steps, "Steps accepted."),
            ("steps_repeated", stats.repeated, "Steps that were answered again."),
            ("sessions_rebuilt", stats.rebuilt, "Sessions brought back from the store."),
            ("sessions_dropped", stats.dropped, "Sessions that left memory for want of use."),
            ("sessions_fenced", stats.fenced, "Calls that found another process ahead."),
            ("sessions_refused", stats.refused, "Calls refused because every place was in use."),
            ("episodes_pruned", stats.pruned, "Episodes removed from the store by age."),
        ):
            yield CounterMetricFamily(f"llmserve:{name}", meaning, value=value)
