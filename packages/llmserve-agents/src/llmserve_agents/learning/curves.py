"""Learning curves of training runs, as a picture. The module knows nothing about training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmserve_agents.figures import BLUE, GREEN, INK, ORANGE, RED, panels, plain_axis, save_png
from llmserve_sim.errors import InvalidInputError

__all__ = ["Curve", "draw_learning_curves"]


@dataclass(frozen=True, slots=True)
class Curve:
    """One training run: mean score or reward of its evaluations, by simulated windows."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


def draw_learning_curves(
    curves: Mapping[str, Sequence[Curve]],
    path: Path,
    *,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    unit: str = "mean reward per window",
) -> None:
    """Draw each task's runs: a thin line per training seed, their mean, and a band from the lowest to the highest.

    `levels` are horizontal lines to compare with, by task and name, in the same unit.
    """
    if not curves or not all(curves.values()):
        raise InvalidInputError("curves", "must hold at least one curve for each task", got=list(curves))
    figure, axes = panels(len(curves), height=3.4, width=4.3, left=0.3)
    for axis, (task, runs) in zip(axes, curves.items(), strict=True):
        ends = [float(run.steps[-1]) for run in runs]
        grid = np.linspace(max(float(run.steps[0]) for run in runs), min(ends), 200)
        values = np.stack([np.interp(grid, run.steps, run.values) for run in runs])
        label = runs[0].label if len(runs) == 1 else f"mean of {len(runs)} training seeds"
        for run in runs:
            axis.plot(run.steps, run.values, color=BLUE, linewidth=0.7, alpha=0.45)
        axis.fill_between(grid, values.min(axis=0), values.max(axis=0), color=BLUE, alpha=0.15, linewidth=0)
        axis.plot(grid, values.mean(axis=0), color=BLUE, linewidth=2.0, label=label)
        for number, (name, level) in enumerate((levels or {}).get(task, {}).items()):
            colour = (ORANGE, GREEN, RED, INK)[number % 4]
            axis.axhline(level, color=colour, linewidth=1.1, linestyle=(0, (5, 1 + number)), label=name)
        axis.set_xlim(0.0, max(ends))
        axis.xaxis.set_major_formatter(_thousands)
        axis.set_title(task, fontsize=9, color=INK)
        axis.set_xlabel("simulated windows of training", fontsize=8, color=INK)
        plain_axis(axis)
        axis.legend(fontsize=7, frameon=False, loc="lower right")
    axes[0].set_ylabel(unit, fontsize=8, color=INK)
    several = any(len(runs) > 1 for runs in curves.values())
    title = "Learning curves; the band is the lowest to the highest seed" if several else "Learning curve"
    figure.suptitle(title, fontsize=11, color=INK)
    save_png(figure, path)


def _thousands(value: float, _position: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"
