"""The texts of the answers: short tables with units, what has changed, and what each column means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmserve_agents.tools.forecasting import FIGURES, Forecast
from llmserve_sim.metrics import EXTENDED
from llmserve_sim.schema import (
    ACTION_FIELDS,
    OBSERVATION_FIELDS,
    GradeReport,
    ServeAction,
    ServeObservation,
    ServeState,
)

__all__ = [
    "MEASURED",
    "briefing",
    "changes",
    "forecast_table",
    "grade_text",
    "knobs",
    "measured",
    "task_table",
    "window_table",
]


@dataclass(frozen=True, slots=True)
class _Column:
    """One measured figure: its name, its heading, and by how much it is multiplied to be read."""

    name: str
    heading: str
    times: float = 1.0


_COLUMNS: Final = (
    _Column("request_arrival_rate", "arrivals/s"),
    _Column("priority_arrival_rate", "priority/s"),
    _Column("mean_prompt_length", "prompt tokens"),
    _Column("queue_depth", "waiting"),
    _Column("queue_priority", "priority waiting"),
    _Column("oldest_wait_s", "oldest wait s"),
    _Column("active_requests", "running"),
    _Column("abandoned_requests", "gave up"),
    _Column("p50_ttft_ms", "TTFT p50 ms"),
    _Column("p99_ttft_ms", "TTFT p99 ms"),
    _Column("p50_itl_ms", "ITL p50 ms"),
    _Column("slo_compliance_rate", "met targets %", 100.0),
    _Column("throughput_tps", "tokens/s"),
    _Column("goodput_tps", "good tokens/s"),
    _Column("kv_cache_occupancy", "KV full %", 100.0),
    _Column("eviction_events", "preempted"),
    _Column("spec_acceptance_rate", "drafts accepted %", 100.0),
    _Column("cotenant_gb", "co-tenant GB"),
    _Column("memory_pressure", "memory over %", 100.0),
    _Column("stall_s", "stall s"),
    _Column("estimated_cost_per_1k", "USD per 1k tokens"),
)
MEASURED: Final = tuple(column.name for column in _COLUMNS)
"""The measured figures of a window that an answer holds; a backend that cannot measure one leaves it out."""
_BY_NAME: Final = {column.name: column for column in _COLUMNS}
_WATCHED: Final = (
    "request_arrival_rate", "mean_prompt_length", "queue_depth", "p99_ttft_ms", "p50_itl_ms", "slo_compliance_rate",
    "kv_cache_occupancy", "eviction_events", "cotenant_gb",
)  # fmt: skip
"""The figures whose changes are said in words."""
_NOTABLE: Final = 0.25
"""A figure has changed if it differs by more than this share of the larger value."""


def measured(observation: ServeObservation) -> dict[str, Any]:
    """Return a window's figures by name: step_index, reward, and those of `MEASURED` that the backend measures."""
    window = observation.metadata.get("window")
    further = window if isinstance(window, Mapping) else {}
    found: dict[str, Any] = {"step_index": observation.step_index, "reward": observation.reward}
    for name in MEASURED:
        if name in OBSERVATION_FIELDS:
            found[name] = getattr(observation, name)
        elif name in further:
            found[name] = further[name]
    return found


def knobs(action: ServeAction) -> str:
    """Return a configuration on one line."""
    return ", ".join(f"{name} {_value(value)}" for name, value in action.model_dump().items())


def window_table(windows: Sequence[ServeObservation], actions: Sequence[ServeAction | None] = ()) -> str:
    """Return a row for each window, oldest first; with `actions` also each one's configuration."""
    rows = [measured(window) for window in windows]
    columns = [column for column in _COLUMNS if any(column.name in row for row in rows)]
    head = ["window", "reward", *(column.heading for column in columns), *(ACTION_FIELDS if actions else ())]
    lines = []
    for place, row in enumerate(rows):
        cells = [str(row["step_index"]), _number(row["reward"])]
        cells += [_number(row[column.name] * column.times) if column.name in row else "" for column in columns]
        action = actions[place] if actions else None
        if actions:
            cells += ["-"] * len(ACTION_FIELDS) if action is None else map(_value, action.model_dump().values())
        lines.append(cells)
    return _table(head, lines)


def changes(before: ServeObservation, after: ServeObservation) -> str:
    """Return the figures that differ notably between two windows, in words."""
    old, new = measured(before), measured(after)
    told = []
    for name in _WATCHED:
        if name not in old or name not in new or abs(new[name] - old[name]) <= _NOTABLE * max(new[name], old[name]):
            continue
        column = _BY_NAME[name]
        told.append(f"{column.heading} {_number(old[name] * column.times)} -> {_number(new[name] * column.times)}")
    return f"From window {before.step_index} to {after.step_index}: {'; '.join(told) or 'no notable change'}."


def forecast_table(found: Forecast) -> str:
    """Return the forecast: the plan's reward, and a row for each window with mean and deviation of its figures."""
    rewards = found.reward_per_window
    mean = sum(rewards) / len(rewards)
    headings = ["reward" if name == "reward" else _BY_NAME[name].heading for name in FIGURES]
    rows = []
    for place, spreads in enumerate(found.windows):
        cells = [str(found.first_window + place)]
        for name in FIGURES:
            times = 1.0 if name == "reward" else _BY_NAME[name].times
            spread = spreads[name]
            cells.append(f"{_number(spread.mean * times)} ±{_number(spread.deviation * times)}")
        rows.append(cells)
    return (
        f"Over {len(rows)} windows on {found.futures} drawn futures the plan earns {_number(mean)} per window on "
        f"average, from {_number(min(rewards))} to {_number(max(rewards))}. Mean ± standard deviation by window:\n"
        + _table(["window", *headings], rows)
    )


def grade_text(report: GradeReport) -> str:
    """Return a grade in a few lines."""
    score = "none" if report.score is None else f"{report.score:.4f}"
    verified = {True: "yes", False: "no", None: "not possible here"}[report.verified]
    complete = "complete" if report.complete else "not complete"
    lines = [
        f"score {score} (0 random policy, 0.5 best fixed configuration, 1 search that knows the future)",
        f"verified by replay: {verified}",
        f"{report.steps} of {report.episode_length} windows run ({complete})",
        f"mean reward per window {_number(report.mean_reward)}; seed {report.seed} of the split {report.split}",
        "parts, each a mean share from 0 to 1: "
        + ", ".join(f"{name} {_number(value)}" for name, value in report.components.items()),
    ]
    if report.references is not None:
        known = report.references
        lines.append(
            f"mean rewards per window to compare with: random {_number(known.random)}, best fixed "
            f"{_number(known.best_static)}, clairvoyant {_number(known.clairvoyant)}"
        )
    if report.reason is not None:
        lines.append(f"reason: {report.reason}")
    return "\n".join(lines)


def task_table(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each task, and below them what each is about."""
    head = ["task_id", "difficulty", "windows", "window s", "deployment", "TTFT target s (priority)",
            "time per token target ms (priority)", "training seeds", "test seeds"]  # fmt: skip
    rows, texts = [], []
    for task in tasks:
        slo, splits = task["slo"], task["splits"]
        rows.append([
            task["id"],
            str(task["difficulty"]),
            str(task["episode_length"]),
            f"{task['window_s']:g}",
            str(task["deployment"]),
            f"{slo['standard']['ttft_s']:g} ({slo['priority']['ttft_s']:g})",
            f"{slo['standard']['tpot_ms']:g} ({slo['priority']['tpot_ms']:g})",
            *(f"{splits[name]['start']}..{splits[name]['stop'] - 1}" for name in ("train", "test")),
        ])  # fmt: skip
        texts.append(f"{task['id']}: {task['description']}")
    return "\n".join([_table(head, rows), *texts])


def briefing(task: Mapping[str, Any], state: ServeState, first: ServeObservation) -> str:
    """Return what a player is told at the start: the job, the targets, the reward, and what the columns mean."""
    job = (
        "You operate a fleet of GPUs that serves a large language model. Time passes in windows of "
        f"{state.window_s:g} s. There are {state.episode_length}: run them all, and look at what they show before you "
        "choose again. Your aim is the largest sum of rewards. A window's reward is a weighted sum: tokens of requests "
        "that met their targets over tokens offered (answers of lower precision count less), plus the share of "
        "requests that met their targets (priority requests count more), minus memory pressure, minus cost."
    )
    lines = [job, f"The task is {task.get('name', state.task_id)}. {task.get('description', '')}".rstrip()]
    if "slo" in task:
        slo = task["slo"]
        limits = "; ".join(
            f"{kind} {slo[kind]['ttft_s']:g} s and {slo[kind]['tpot_ms']:g} ms" for kind in ("standard", "priority")
        )
        lines.append(
            "Targets for the time to the first token (TTFT; longer by prompt length / "
            f"{slo['ttft_prompt_tokens_per_s']:g} s) and per further token: {limits}."
        )
    shown = measured(first)
    meanings = {row.name: row.meaning for row in EXTENDED} | {
        name: field.meaning for name, field in OBSERVATION_FIELDS.items()
    }
    columns = [f"- {column.heading}: {meanings[column.name]}" for column in _COLUMNS if column.name in shown]
    configuration = [f"- {f.name} ({f.bounds}; {f.unit}): {f.meaning}" for f in ACTION_FIELDS.values()]
    return "\n".join([*lines, "The knobs:", *configuration, "The columns:", *columns])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(" | ".join(cells) for cells in (head, *rows))


def _number(value: float) -> str:
    """Four significant digits: a third of the tokens."""
    return f"{float(f'{value:.4g}'):g}" if abs(value) < 1e6 else f"{value:.0f}"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
