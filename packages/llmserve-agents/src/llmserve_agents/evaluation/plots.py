"""Pictures of evaluations, episodes and ablations, as PNG. Needs the extra `plot` (matplotlib).

No figure depends on colour alone. The module reads reports and logs only. Learning curves are in `learning/curves.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llmserve_agents.evaluation.ablation_report import AblationReport
from llmserve_agents.evaluation.report import Estimate, EvaluationReport
from llmserve_agents.figures import BLUE, FAINT, INK, ORANGE, new_figure, panels, plain_axis, save_png, share_rows
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ACTION_FIELDS, QUANTIZATION_TIERS, EpisodeLog, ServeObservation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_knob_values", "draw_scores", "draw_timeline"]

_LEVELS: Final = ((0.0, "random"), (0.5, "best fixed"), (1.0, "clairvoyant"))


def draw_scores(report: EvaluationReport, path: Path) -> None:
    """Draw every agent's mean score with its interval, one panel per task; rewards if a task has no references."""
    labels = [entry.label for entry in report.agents]
    figure, axes = panels(len(report.tasks), height=1.5 + 0.34 * len(labels), width=3.9, left=0.9)
    for axis, task in zip(axes, report.tasks, strict=True):
        rows = [report.result(label, task) for label in labels]
        scored = all(row.score is not None for row in rows)
        for row_index, row in enumerate(rows):
            found = row.score if scored and row.score is not None else row.reward
            _interval(axis, row_index, found, BLUE if row_index == 0 else INK)
            axis.annotate(
                f"{found.value:.2f}",
                (found.value, row_index),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=INK,
            )
        if scored:
            for level, name in _LEVELS:
                axis.axvline(level, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
                axis.annotate(
                    name,
                    (level, 1.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                    color=FAINT,
                )
            axis.set_xlim(-0.08, 1.08)
        axis.set_ylim(len(labels) - 0.5, -0.75)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_title(f"{task} ({rows[0].episodes} test seeds)", fontsize=9, color=INK, pad=16)
        axis.set_xlabel("score" if scored else "mean reward per window", fontsize=8, color=INK)
        plain_axis(axis)
        axis.grid(visible=False, axis="y")
    share_rows(axes)
    figure.suptitle(f"Mean score with {report.confidence:.0%} bootstrap intervals", fontsize=11, color=INK)
    save_png(figure, path)


@dataclass(frozen=True, slots=True)
class _Row:
    """A panel of the timeline: its title, and the value that it shows of each observation."""

    title: str
    value: Callable[[ServeObservation], float]
    shared: bool = False
    """Whether the value is the same for every agent, and is drawn only once."""
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
    """Draw one episode over time, of one or two agents: load, queue, TTFT, memory, reward and the six knobs.

    The keys of `logs` are the agents' names. All logs are of one task and seed. `window_s` is a window's length in
    seconds.
    """
    named = list(logs.items())
    if not 1 <= len(named) <= 2 or any(not log.steps for _, log in named):
        raise InvalidInputError("logs", "must be one or two logs, each with a step", got=list(logs))
    if len({(log.task_id, log.seed) for _, log in named}) > 1:
        raise InvalidInputError(
            "logs", "must be of one task and seed", got=[(log.task_id, log.seed) for _, log in named]
        )
    heights = [1.0] * len(_ROWS) + [0.75] * 3 + [0.6, 0.45, 0.45]
    figure = new_figure(10.0, 1.02 * sum(heights) + 0.9)
    axes: list[Axes] = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    styles: tuple[dict[str, Any], ...] = (
        {"color": BLUE, "linewidth": 1.4},
        {"color": ORANGE, "linewidth": 1.4, "linestyle": (0, (4, 1.2))},
    )
    minutes = 0.0
    for (name, log), style in zip(named, styles, strict=False):
        edges = np.arange(len(log.steps) + 1) * window_s / 60.0
        minutes = max(minutes, float(edges[-1]))
        for axis, row in zip(axes, _ROWS, strict=False):
            if row.shared and name != named[0][0]:
                continue
            values = [row.value(step.observation) for step in log.steps]
            axis.stairs(values, edges, baseline=None, label=name, **(style | ({"color": INK} if row.shared else {})))
        if name == named[0][0]:
            _neighbour(axes[3], log, edges)
        for axis, knob in zip(axes[len(_ROWS) :], _KNOB_TITLES, strict=True):
            values = [_number(getattr(step.action, knob)) for step in log.steps]
            axis.stairs(values, edges, baseline=None, label=name, **style)
    for axis, row in zip(axes, _ROWS, strict=False):
        if row.log_scale:
            axis.set_yscale("symlog", linthresh=100.0)
            axis.yaxis.set_major_formatter("{x:g}")
        if row.title != "reward":
            axis.set_ylim(bottom=0.0)
        axis.set_ylabel(row.title, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    for axis, (knob, label) in zip(axes[len(_ROWS) :], _KNOB_TITLES.items(), strict=True):
        axis.set_ylabel(label, fontsize=8, color=INK, rotation=0, ha="right", va="center")
        _scale(axis, knob)
    for axis in axes:
        plain_axis(axis)
    figure.legend(*axes[1].get_legend_handles_labels(), fontsize=9, frameon=False, ncols=2, loc="outside upper left")
    axes[3].legend(*_only(axes[3], "neighbour"), fontsize=8, frameon=False, loc="upper right")
    axes[-1].set_xlabel("simulated time (minutes)", fontsize=9, color=INK)
    axes[-1].set_xlim(0.0, minutes)
    first = named[0][1]
    figure.suptitle(title or f"{first.task_id}, seed {first.seed}", fontsize=11, color=INK)
    save_png(figure, path)


def draw_knob_values(report: AblationReport, path: Path) -> None:
    """Draw the value of each knob, one panel per task: as the best constant, and as a choice in every window."""
    knobs = list(ACTION_FIELDS)
    figure, axes = panels(len(report.tasks), height=3.6, width=3.9, left=1.2)
    for axis, task in zip(axes, report.tasks, strict=True):
        for row_index, knob in enumerate(knobs):
            row = report.value(task, knob)
            for shift, found, colour in ((-0.19, row.dynamic, BLUE), (0.19, row.level, ORANGE)):
                axis.barh(row_index + shift, found.value, height=0.34, color=colour, linewidth=0, zorder=2)
                axis.plot([found.low, found.high], [row_index + shift] * 2, color=INK, linewidth=1.3, zorder=3)
        axis.axvline(0.0, color=INK, linewidth=0.8, zorder=1)
        axis.set_yticks(range(len(knobs)), knobs)
        axis.set_ylim(len(knobs) - 0.5, -0.5)
        axis.set_title(f"{task} ({len(report.seeds[task])} test seeds)", fontsize=9, color=INK)
        axis.set_xlabel("mean reward per window", fontsize=8, color=INK)
        plain_axis(axis)
        axis.grid(visible=False, axis="y")
    share_rows(axes)
    handles = [_patch(BLUE, "dynamic: free − best constant"), _patch(ORANGE, "level: best constant − default")]
    figure.legend(handles=handles, fontsize=8, frameon=False, ncols=2, loc="outside lower center")
    figure.suptitle(
        f"Value of each knob to {report.agent}, with {report.confidence:.0%} paired intervals", fontsize=11, color=INK
    )
    save_png(figure, path)


def _neighbour(axis: Axes, log: EpisodeLog, edges: Any) -> None:
    """Shade the co-tenant's memory, if the log has it."""
    windows = [step.observation.metadata.get("window") for step in log.steps]
    held = [window["cotenant_gb"] for window in windows if isinstance(window, dict) and "cotenant_gb" in window]
    if len(held) == len(log.steps):
        axis.stairs(held, edges, fill=True, color=FAINT, alpha=0.3, label="neighbour's memory")


def _only(axis: Axes, part: str) -> tuple[list[Any], list[str]]:
    """Return handles and labels of a legend with nothing but `part`."""
    found = [pair for pair in zip(*axis.get_legend_handles_labels(), strict=True) if part in pair[1]]
    return [handle for handle, _ in found], [label for _, label in found]


def _number(value: float | str | bool) -> float:
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


def _interval(axis: Axes, row_index: int, found: Estimate, colour: str) -> None:
    axis.plot(
        [found.low, found.high], [row_index, row_index], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=2
    )
    axis.plot([found.value], [row_index], marker="o", markersize=5.5, color=colour, zorder=3)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
