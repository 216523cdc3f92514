"""The actions over time as SVG: a row per knob, with a thin band per run.

Numbers are drawn as a step line between the knob's bounds, tiers and switches as bands of colour. As in `chart.py`, the
colours are CSS classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Final

from llmserve_server.ui.chart import compact
from llmserve_sim.schema import ACTION_FIELDS, ActionField, ServeAction
from llmserve_sim.tasks import Task

__all__ = ["draw_action_timeline", "format_value"]

_WIDTH: Final = 360.0
_ALONE: Final = 22.0
_TOGETHER: Final = 14.0
"""Height of a run's band, px: alone in its row, and beside others."""
_PAD: Final = 3.0

ActionRun = tuple[str, str, int, Sequence[ServeAction]]
"""A run's name, its style, its first window to draw, and its actions."""


def format_value(value: object) -> str:
    """Return a knob's value as text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def draw_action_timeline(runs: Sequence[ActionRun], task: Task) -> str:
    """Return the rows as HTML; without a run they are empty."""
    rows = "".join(_row(field, runs, task.windows) for field in ACTION_FIELDS.values())
    return (
        '<section class="ls-lanes" aria-label="Actions over time"><h3>Actions <small>the configuration of each window</small>'
        f"</h3>{rows}</section>"
    )


def _row(field: ActionField, runs: Sequence[ActionRun], windows: int) -> str:
    last = format_value(getattr(runs[0][3][-1], field.name)) if runs and runs[0][3] else "–"
    band = _TOGETHER if len(runs) > 1 else _ALONE
    height = band * max(len(runs), 1)
    bands = "".join(_band(field, run, i * band, band, windows) for i, run in enumerate(runs))
    label = f"{field.name}, {field.bounds}; last window: {last}"
    return (
        f'<div class="ls-lane" title="{escape(field.meaning)}"><span>{escape(field.name)}</span>'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" preserveAspectRatio="none" role="img" aria-label="{escape(label)}" '
        f'style="height:{height:.0f}px">{bands}</svg><b>{escape(last)}</b></div>'
    )


def _band(field: ActionField, run: ActionRun, top: float, height: float, windows: int) -> str:
    _, style, since, actions = run
    values = [getattr(action, field.name) for action in actions[since:]]
    frame = f'<rect class="ls-band" x="0" y="{top + 1}" width="{_WIDTH}" height="{height - 2}"/>'
    if field.kind in ("enum", "bool"):
        return frame + _blocks(field, values, since, top, height, windows)
    return frame + _steps(field, values, since, top, height, windows, style)


def _blocks(field: ActionField, values: Sequence[object], since: int, top: float, height: float, windows: int) -> str:
    parts, at = [], since
    for value, group in groupby(values):
        length = len(list(group))
        if value is not False:
            kind = f"tier-{str(value).lower()}" if field.kind == "enum" else "flag"
            x, width = _WIDTH * at / windows, _WIDTH * length / windows
            parts.append(
                f'<rect class="ls-block {kind}" x="{x:.1f}" y="{top + 1}" width="{width:.1f}" height="{height - 2}">'
                f"<title>{escape(format_value(value))}, windows {at + 1} to {at + length}</title></rect>"
            )
        at += length
    return "".join(parts)


def _steps(
    field: ActionField, values: Sequence[float], since: int, top: float, height: float, windows: int, style: str
) -> str:
    if not values:
        return ""
    low, high = field.low or 0.0, field.high or 1.0
    room = height - 2 * _PAD
    path, at = "", since
    for value, group in groupby(values):
        y = top + height - _PAD - room * (value - low) / (high - low)
        path += f"{'L' if path else 'M'}{_WIDTH * at / windows:.1f} {y:.1f}"
        at += len(list(group))
        path += f"H{_WIDTH * at / windows:.1f}"
    spoken = f"{compact(min(values))} to {compact(max(values))} {field.unit}"
    return f'<path class="ls-line {style}" d="{path}"><title>{escape(spoken)}</title></path>'
