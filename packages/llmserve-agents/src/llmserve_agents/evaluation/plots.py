"""Pictures of evaluations, episodes, trainings and ablations, as PNG. Needs the extra `plot` (matplotlib).

Figures are built without pyplot, so no display, backend or global state is involved, and say in words what colours say. The
module reads reports and logs, and knows nothing about how they were made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llmserve_agents.errors import MissingExtraError
from llmserve_agents.evaluation.ablation_report import AblationReport
from llmserve_agents.evaluation.report import Estimate, EvaluationReport
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ACTION_FIELDS, QUANTIZATION_TIERS, EpisodeLog, ServeObservation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "draw_knob_values", "draw_learning_curves", "draw_scores", "draw_timeline", "require_matplotlib"]

# Okabe and Ito's palette, distinguishable with any colour vision.
_BLUE, _ORANGE, _GREEN, _RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
_INK, _FAINT, _GRID = "#333333", "#8a8a8a", "#e2e2e2"
_DPI: Final = 150
_LEVELS: Final = ((0.0, "random"), (0.5, "best fixed"), (1.0, "clairvoyant"))


@dataclass(frozen=True, slots=True)
class Curve:
    """One training run: mean score or reward of its evaluations, by simulated windows."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


def require_matplotlib(wanted_by: str) -> None:
    """Raise `MissingExtraError` where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401 - whether it can be imported is the question
    except ModuleNotFoundError as error:
        raise MissingExtraError("plot", wanted_by) from error


def draw_scores(report: EvaluationReport, path: Path) -> None:
    """Draw every agent's mean score with its interval, a panel per task; rewards where a task has no references."""
    labels = [entry.label for entry in report.agents]
    figure, axes = _panels(len(report.tasks), height=1.5 + 0.34 * len(labels), width=3.9, left=0.9)
    for axis, task in zip(axes, report.tasks, strict=True):
        rows = [report.standing(label, task) for label in labels]
        scored = all(row.score is not None for row in rows)
        for place, row in enumerate(rows):
            found = row.score if scored and row.score is not None else row.reward
            _interval(axis, place, found, _BLUE if place == 0 else _INK)
            axis.annotate(
                f"{found.value:.2f}",
                (found.value, place),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=_INK,
            )
        if scored:
            for level, name in _LEVELS:
                axis.axvline(level, color=_FAINT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
                axis.annotate(
                    name,
                    (level, 1.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    color=_FAINT,
                )
            axis.set_xlim(-0.08, 1.08)
        axis.set_ylim(len(labels) - 0.5, -0.75)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_title(f"{task} ({rows[0].episodes} test seeds)", fontsize=9, color=_INK, pad=16)
        axis.set_xlabel("score" if scored else "mean reward per window", fontsize=8, color=_INK)
        _plain(axis)
        axis.grid(visible=False, axis="y")
    _share_rows(axes)
    figure.suptitle(f"Mean score with {report.confidence:.0%} bootstrap intervals", fontsize=11, color=_INK)
    _save(figure, path)


@dataclass(frozen=True, slots=True)
class _Row:
    """A panel of the timeline: what it shows of each observation."""

    title: str
    value: Callable[[ServeObservation], float]
    shared: bool = False
    """The same for every agent: drawn once."""
    log_scale: bool = False


_ROWS: Final = (
    _Row("arrivals\n(requests/s)", lambda seen: seen.request_arrival_rate, shared=True),
    _Row("queue\n(requests)", lambda seen: seen.queue_depth),
    _Row("TTFT p99\n(ms)", lambda seen: seen.p99_ttft_ms, log_scale=True),
    _Row("GPU memory\n(GB per GPU)", lambda seen: seen.gpu_memory_used_gb),
    _Row("SLO met\n(share)", lambda seen: seen.slo_compliance_rate),
    _Row("reward", lambda seen: seen.reward),
)
_KNOB_TITLES: Final = {
    "batch_cap": "batch cap\n(requests)",
    "kv_budget_fraction": "KV budget\n(share)",
    "speculation_depth": "draft depth\n(tokens)",
    "quantization_tier": "tier",
    "prefill_decode_split": "split",
    "priority_routing": "priority",
}


def draw_timeline(logs: Mapping[str, EpisodeLog], path: Path, *, window_s: float, title: str = "") -> None:
    """Draw one episode over time, as one or two agents served it: load, queue, TTFT, memory, reward and the six knobs.

    The keys of `logs` are the agents' names; the logs are of one task and seed. `window_s` is a window's length in seconds.
    """
    named = list(logs.items())
    if not 1 <= len(named) <= 2 or any(not log.steps for _, log in named):
        raise InvalidInputError("logs", "must be one or two logs, each with a step", got=list(logs))
    if len({(log.task_id, log.seed) for _, log in named}) > 1:
        raise InvalidInputError(
            "logs", "must be of one task and seed", got=[(log.task_id, log.seed) for _, log in named]
        )
    heights = [1.0] * len(_ROWS) + [0.75] * 3 + [0.6, 0.45, 0.45]
    figure = _figure(10.0, 1.02 * sum(heights) + 0.9)
    axes: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    styles: tuple[dict[str, Any], ...] = (
        {"color": _BLUE, "linewidth": 1.4},
        {"color": _ORANGE, "linewidth": 1.4, "linestyle": (0, (4, 1.2))},
    )
    minutes = 0.0
    for (name, log), style in zip(named, styles, strict=False):
        edges = np.arange(len(log.steps) + 1) * window_s / 60.0
        minutes = max(minutes, float(edges[-1]))
        for axis, row in zip(axes, _ROWS, strict=False):
            if row.shared and name != named[0][0]:
                continue
            values = [row.value(step.observation) for step in log.steps]
            axis.stairs(values, edges, baseline=None, label=name, **(style | ({"color": _INK} if row.shared else {})))
        if name == named[0][0]:
            _neighbour(axes[3], log, edges)
        for axis, knob in zip(axes[len(_ROWS) :], _KNOB_TITLES, strict=True):
            values = [_place(getattr(step.action, knob)) for step in log.steps]
            axis.stairs(values, edges, baseline=None, label=name, **style)
    for axis, row in zip(axes, _ROWS, strict=False):
        if row.log_scale:
            axis.set_yscale("symlog", linthresh=100.0)
            axis.yaxis.set_major_formatter("{x:g}")
        if row.title != "reward":
            axis.set_ylim(bottom=0.0)
        axis.set_ylabel(row.title, fontsize=8, color=_INK, rotation=0, ha="right", va="center")
    for axis, (knob, label) in zip(axes[len(_ROWS) :], _KNOB_TITLES.items(), strict=True):
        axis.set_ylabel(label, fontsize=8, color=_INK, rotation=0, ha="right", va="center")
        _scale(axis, knob)
    for axis in axes:
        _plain(axis)
    figure.legend(*axes[1].get_legend_handles_labels(), fontsize=9, frameon=False, ncols=2, loc="outside upper left")
    axes[3].legend(*_only(axes[3], "neighbour"), fontsize=8, frameon=False, loc="upper right")
    axes[-1].set_xlabel("simulated time (minutes)", fontsize=9, color=_INK)
    axes[-1].set_xlim(0.0, minutes)
    first = named[0][1]
    figure.suptitle(title or f"{first.task_id}, seed {first.seed}", fontsize=11, color=_INK)
    _save(figure, path)


def draw_learning_curves(
    curves: Mapping[str, Sequence[Curve]],
    path: Path,
    *,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    unit: str = "mean reward per window",
) -> None:
    """Draw each task's trainings: a thin line per training seed, their mean, and a band from the lowest to the highest.

    `levels` are lines to compare with: by task, by name, in the same unit.
    """
    if not curves or not all(curves.values()):
        raise InvalidInputError("curves", "must hold at least one curve for each task", got=list(curves))
    figure, axes = _panels(len(curves), height=3.4, width=4.3, left=0.3)
    for axis, (task, runs) in zip(axes, curves.items(), strict=True):
        ends = [float(run.steps[-1]) for run in runs]
        grid = np.linspace(max(float(run.steps[0]) for run in runs), min(ends), 200)
        values = np.stack([np.interp(grid, run.steps, run.values) for run in runs])
        label = runs[0].label if len(runs) == 1 else f"mean of {len(runs)} training seeds"
        for run in runs:
            axis.plot(run.steps, run.values, color=_BLUE, linewidth=0.7, alpha=0.45)
        axis.fill_between(grid, values.min(axis=0), values.max(axis=0), color=_BLUE, alpha=0.15, linewidth=0)
        axis.plot(grid, values.mean(axis=0), color=_BLUE, linewidth=2.0, label=label)
        for number, (name, level) in enumerate((levels or {}).get(task, {}).items()):
            colour = (_ORANGE, _GREEN, _RED, _INK)[number % 4]
            axis.axhline(level, color=colour, linewidth=1.1, linestyle=(0, (5, 1 + number)), label=name)
        axis.set_xlim(0.0, max(ends))
        axis.xaxis.set_major_formatter(_thousands)
        axis.set_title(task, fontsize=9, color=_INK)
        axis.set_xlabel("simulated windows of training", fontsize=8, color=_INK)
        _plain(axis)
        axis.legend(fontsize=7, frameon=False, loc="lower right")
    axes[0].set_ylabel(unit, fontsize=8, color=_INK)
    several = any(len(runs) > 1 for runs in curves.values())
    title = "Learning curves; the band is the lowest to the highest seed" if several else "Learning curve"
    figure.suptitle(title, fontsize=11, color=_INK)
    _save(figure, path)


def draw_knob_values(report: AblationReport, path: Path) -> None:
    """Draw what each knob is worth, a panel per task: as a well-chosen constant, and as a choice made every window."""
    knobs = list(ACTION_FIELDS)
    figure, axes = _panels(len(report.tasks), height=3.6, width=3.9, left=1.2)
    for axis, task in zip(axes, report.tasks, strict=True):
        for place, knob in enumerate(knobs):
            row = report.value(task, knob)
            for shift, found, colour in ((-0.19, row.dynamic, _BLUE), (0.19, row.level, _ORANGE)):
                axis.barh(place + shift, found.value, height=0.34, color=colour, linewidth=0, zorder=2)
                axis.plot([found.low, found.high], [place + shift] * 2, color=_INK, linewidth=1.3, zorder=3)
        axis.axvline(0.0, color=_INK, linewidth=0.8, zorder=1)
        axis.set_yticks(range(len(knobs)), knobs)
        axis.set_ylim(len(knobs) - 0.5, -0.5)
        axis.set_title(f"{task} ({len(report.seeds[task])} test seeds)", fontsize=9, color=_INK)
        axis.set_xlabel("mean reward per window", fontsize=8, color=_INK)
        _plain(axis)
        axis.grid(visible=False, axis="y")
    _share_rows(axes)
    handles = [_patch(_BLUE, "dynamic: free − best constant"), _patch(_ORANGE, "level: best constant − default")]
    figure.legend(handles=handles, fontsize=8, frameon=False, ncols=2, loc="outside lower center")
    figure.suptitle(
        f"Value of each knob to {report.agent}, with {report.confidence:.0%} paired intervals", fontsize=11, color=_INK
    )
    _save(figure, path)


def _neighbour(axis: Axes, log: EpisodeLog, edges: Any) -> None:
    """Shade the co-tenant's memory, where it is reported."""
    windows = [step.observation.metadata.get("window") for step in log.steps]
    held = [window["cotenant_gb"] for window in windows if isinstance(window, dict) and "cotenant_gb" in window]
    if len(held) == len(log.steps):
        axis.stairs(held, edges, fill=True, color=_FAINT, alpha=0.3, label="neighbour's memory")


def _only(axis: Axes, part: str) -> tuple[list[Any], list[str]]:
    """Handles and labels of a legend that names nothing but `part`."""
    found = [pair for pair in zip(*axis.get_legend_handles_labels(), strict=True) if part in pair[1]]
    return [handle for handle, _ in found], [label for _, label in found]


def _place(value: float | str | bool) -> float:
    return float(QUANTIZATION_TIERS.index(value)) if isinstance(value, str) else float(value)


def _scale(axis: Axes, knob: str) -> None:
    if knob == "quantization_tier":
        axis.set_yticks(range(len(QUANTIZATION_TIERS)), QUANTIZATION_TIERS)
        axis.set_ylim(len(QUANTIZATION_TIERS) - 0.7, -0.3)
    elif ACTION_FIELDS[knob].low is None:
        axis.set_yticks([0, 1], ["off", "on"])
        axis.set_ylim(-0.3, 1.3)
    elif knob == "batch_cap":
        axis.set_yscale("log", base=2)
        axis.set_ylim(min(3.0, axis.get_ylim()[0]), 700.0)
        axis.set_yticks([4, 32, 256], ["4", "32", "256"])
    else:
        axis.set_ylim(0.0, 1.08 * float(ACTION_FIELDS[knob].high or 1.0))


def _interval(axis: Axes, place: int, found: Estimate, colour: str) -> None:
    axis.plot([found.low, found.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=2)
    axis.plot([found.value], [place], marker="o", markersize=5.5, color=colour, zorder=3)


def _thousands(value: float, _position: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _figure(width: float, height: float) -> Figure:
    require_matplotlib("drawing")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panels(count: int, *, height: float, width: float, left: float) -> tuple[Figure, list[Axes]]:
    """Panels side by side; `left` inches for the names of rows."""
    figure = _figure(max(count * width, 5.0) + left, height)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _share_rows(axes: Sequence[Axes]) -> None:
    for axis in axes[1:]:
        axis.set_yticklabels([])


def _plain(axis: Axes) -> None:
    axis.grid(visible=True, color=_GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors=_INK)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    try:
        # Without the writer's version, the same report gives the same bytes for longer.
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    except (OSError, ValueError) as error:
        raise InvalidInputError("png", f"must be a writable path of a picture ({error})", got=str(path)) from error
