"""Which charts the page shows and what is in them: from episode logs to panels.

A `Run` is one episode under a name: the visitor's own, a second agent's on the same traffic, or a branch. The colour
of a line shows its run; within the visitor's own run, the shade shows the series. `chart.py` and `action_timeline.py`
draw. What a backend could not measure is a gap, not a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

from llmserve_server.ui.action_timeline import draw_action_timeline
from llmserve_server.ui.chart import Chart, Line, Target, Value, draw
from llmserve_sim.hardware import get_deployment
from llmserve_sim.memory import MemoryModel
from llmserve_sim.schema import EpisodeLog, ServeObservation
from llmserve_sim.tasks import Task

__all__ = ["Run", "charts", "draw_panels"]

Reading = Callable[[ServeObservation], Value]

_TERMS: Final = ("throughput", "slo", "memory", "cost")
_GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class Run:
    """An episode so far, with its name on the page."""

    name: str
    style: Literal["main", "rival", "branch"]
    log: EpisodeLog
    since: int = 0
    """First window to draw: a branch is drawn from the window where it begins."""

    def series(self, read: Reading) -> list[Value]:
        """Return one value per window."""
        return [None if i < self.since else read(step.observation) for i, step in enumerate(self.log.steps)]

    def total(self) -> list[Value]:
        """Return the sum of rewards after each window."""
        reached, sums = 0.0, list[Value]()
        for i, step in enumerate(self.log.steps):
            reached += step.observation.reward
            sums.append(None if i < self.since else reached)
        return sums


def draw_panels(task: Task, runs: Sequence[Run]) -> str:
    """Return all charts and the action timeline as HTML. `runs` has the visitor's own first, or is empty."""
    figures = "".join(draw(chart, task.windows) for chart in charts(task, runs))
    lanes = draw_action_timeline(
        [(run.name, run.style, run.since, [step.action for step in run.log.steps]) for run in runs], task
    )
    return f'{_names(runs)}<div class="ls-grid">{figures}</div>{lanes}'


def charts(task: Task, runs: Sequence[Run]) -> list[Chart]:
    """Return the charts in reading order: traffic, state of the fleet, reward."""
    own, others = (runs[0] if runs else None), runs[1:]
    slo = task.slo

    def line(name: str, read: Reading, style: str = "main") -> Line:
        return Line(name, own.series(read) if own else [], style)

    def over(read: Reading) -> list[Line]:
        return [Line(run.name, run.series(read), run.style, named=False) for run in others]

    usable_gb, cap_gb = _memory_gb(task)
    per_s = f"+1 s per {slo.ttft_prompt_tokens_per_s:,.0f} prompt tokens"
    return [
        Chart(
            "Load",
            "requests/s",
            [
                line("all", lambda o: o.request_arrival_rate),
                line("priority", _window("priority_arrival_rate"), "second"),
            ],
            note="Arrivals per second. The traffic is the same whatever anybody does.",
        ),
        Chart(
            "Requests",
            "at the window's end",
            [line("waiting", lambda o: o.queue_depth), line("running", lambda o: o.active_requests, "second")],
            over(lambda o: o.queue_depth),
            note="Requests waiting in the queue and running in batches; other runs: waiting.",
        ),
        Chart(
            "Time to first token",
            "ms, log scale",
            [line("p99", _after_first("p99_ttft_ms")), line("p50", _after_first("p50_ttft_ms"), "second")],
            over(_after_first("p99_ttft_ms")),
            [
                Target(f"target {slo.standard.ttft_s:g} s", slo.standard.ttft_s * 1000.0),
                Target(f"priority {slo.priority.ttft_s:g} s", slo.priority.ttft_s * 1000.0),
            ],
            log=True,
            note=f"Targets for an empty prompt, {per_s}. Other runs: p99.",
        ),
        Chart(
            "Inter-token latency",
            "ms, median",
            [line("p50", _after_first("p50_itl_ms"))],
            over(_after_first("p50_itl_ms")),
            [
                Target(f"target {slo.standard.tpot_ms:g} ms", slo.standard.tpot_ms),
                Target(f"priority {slo.priority.tpot_ms:g} ms", slo.priority.tpot_ms),
            ],
            note="Time between two tokens of an answer; the targets are for the mean per request.",
        ),
        Chart(
            "SLO compliance",
            "share of due requests",
            [
                line("all", lambda o: o.slo_compliance_rate),
                line("priority", _window("slo_compliance_priority"), "second"),
            ],
            over(lambda o: o.slo_compliance_rate),
            ceiling=1.0,
            note="Share of the requests due in the window that met both targets.",
        ),
        Chart(
            "Throughput",
            "output tokens/s",
            [line("delivered", lambda o: o.throughput_tps), line("within SLO", _window("goodput_tps"), "second")],
            over(lambda o: o.throughput_tps),
            note="Output tokens per second, and those of requests that met their targets.",
        ),
        Chart(
            "KV cache",
            "share in use",
            [
                line("in use", lambda o: o.kv_cache_occupancy),
                line("reusable", _window("prefix_cache_share"), "second"),
            ],
            over(lambda o: o.kv_cache_occupancy),
            ceiling=1.0,
            note="KV blocks in use over blocks granted; reusable: free blocks that still hold prompts.",
        ),
        Chart(
            "GPU memory",
            "GB per GPU",
            [
                line("ours", lambda o: o.gpu_memory_used_gb, "main"),
                line("co-tenant", _window("cotenant_gb"), "neighbour"),
            ],
            over(lambda o: o.gpu_memory_used_gb),
            [Target("usable", usable_gb), Target("shared cap", cap_gb)],
            kind="areas",
            note="Weights, draft, activations and KV blocks in use, and what a neighbour on the same GPUs takes.",
        ),
        Chart(
            "Reward and its terms",
            "per window",
            [line(name, _term(name), f"term-{name}") for name in _TERMS],
            [line("sum", lambda o: o.reward, "sum")],
            kind="bars",
            note="Throughput and SLO earn, memory pressure and cost are paid; the line is their sum.",
        ),
        Chart(
            "Reward so far",
            "sum",
            [Line("you", own.total() if own else [])],
            [Line(run.name, run.total(), run.style, named=False) for run in others],
            note="The sum of the rewards up to each window.",
        ),
    ]


def _names(runs: Sequence[Run]) -> str:
    """Return the key of the runs, if there are several."""
    if len(runs) < 2:
        return ""
    keys = "".join(f'<li class="ls-key {run.style}"><i></i>{escape(run.name)}</li>' for run in runs)
    return f'<ul class="ls-names" aria-label="Runs">{keys}</ul>'


def _window(name: str) -> Reading:
    """Return a reader of one extended feature; it gives a gap if the backend does not have it."""

    def read(observation: ServeObservation) -> Value:
        window = observation.metadata.get("window")
        value = window.get(name) if isinstance(window, dict) else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    return read


def _after_first(name: str) -> Reading:
    """Return a reader of a latency; it gives a gap while the latency is 0, before the first sample."""

    def read(observation: ServeObservation) -> Value:
        return float(getattr(observation, name)) or None

    return read


def _term(name: str) -> Reading:
    def read(observation: ServeObservation) -> Value:
        terms = observation.metadata.get("reward_terms")
        return float(terms[name]) if isinstance(terms, dict) and name in terms else None

    return read


def _memory_gb(task: Task) -> tuple[float, float]:
    """Return the memory (GB per GPU) for engine and co-tenant together, and the level above which it costs reward."""
    usable = MemoryModel(get_deployment(task.deployment), task.max_len_tokens).usable_bytes / _GB
    return usable, usable * task.memory_cap_share
