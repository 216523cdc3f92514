"""One small chart as SVG text: lines, stacked areas or stacked bars over the windows of an episode, and target lines.

Colours, dashes and the dark theme are CSS classes, so the same SVG fits both themes. The text scales with its panel, so
the same chart is legible on a phone.

Why no plotting library: the one in Gradio (Plotly) sends 4.6 MB of JavaScript to the browser before the first line is
drawn. It also writes colours into the figure, so that a change of theme needs the server. These charts have about 4
KB each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from typing import Final, Literal

__all__ = ["Chart", "Line", "Target", "compact", "draw", "ticks"]

Value = float | None
"""The value of a window; None draws a gap."""

_WIDTH: Final = 360.0
_HEIGHT: Final = 150.0
_LEFT: Final = 38.0
_RIGHT: Final = 8.0
_TOP: Final = 8.0
_BOTTOM: Final = 20.0
_INNER_WIDTH: Final = _WIDTH - _LEFT - _RIGHT
_INNER_HEIGHT: Final = _HEIGHT - _TOP - _BOTTOM
_NAME: Final = 11.0
"""Space for a line's name."""
_X_TICKS: Final = 4
_MOST_DECADES: Final = 12
"""Maximum decades of a logarithmic axis; smaller values are drawn at the bottom."""
_Y_TICKS: Final = 3


@dataclass(frozen=True, slots=True)
class Line:
    """A named series, one value per window from the first one on. `style` is the CSS class that colours it."""

    name: str
    values: Sequence[Value]
    style: str = "main"
    named: bool = True
    """Whether the chart's heading names it; if not, another key on the page does."""


@dataclass(frozen=True, slots=True)
class Target:
    """A horizontal line to stay below (or above): a service-level objective, a limit."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The content of one panel.

    `kind` "lines" draws each series; "areas" stacks them from zero, "bars" stacks positive ones upwards and negative
    ones downwards. `overlays` are drawn as lines over either, unstacked. `log` is a decimal scale, with gaps for zeros.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    overlays: Sequence[Line] = ()
    targets: Sequence[Target] = ()
    kind: Literal["lines", "areas", "bars"] = "lines"
    ceiling: float | None = None
    """Top of the scale if it is known (1 for a share); None takes the maximum of the data."""
    log: bool = False
    note: str = ""
    """The tooltip of the heading."""


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    log: bool
    marks: tuple[float, ...] = field(default=())

    def y(self, value: float) -> float:
        """Return the vertical position; values outside the scale are drawn on the frame."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        share = (value - low) / (high - low)
        return _TOP + _INNER_HEIGHT * (1.0 - min(max(share, 0.0), 1.0))


def compact(value: Value) -> str:
    """Return a short number: at most three figures, thousands as k, an en dash for None."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 9_999.5:
        return f"{value / 1000:.0f}k"
    if size >= 999.5:
        return f"{value / 1000:.1f}".rstrip("0").rstrip(".") + "k"
    if size >= 99.5 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 9.95 else f"{value:.2f}"


def ticks(low: float, high: float, about: int) -> tuple[float, ...]:
    """Return about `about` round numbers from `low` to `high`, in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1))


def draw(chart: Chart, windows: int) -> str:
    """Return the panel as HTML: heading and SVG. The heading has all series' values in the first one's last window.

    `windows` is the length of the axis.
    """
    scale = _scale(chart)
    body = [*_grid(scale, windows)]
    shown = {"lines": _plain, "areas": _areas, "bars": _bars}[chart.kind]
    body += shown(chart.lines, scale, windows)
    body += [_path(line, scale, windows) for line in chart.overlays]
    body += _targets(chart.targets, scale)
    keyed = [*chart.lines, *chart.overlays]
    now = len(keyed[0].values) - 1
    table = [[None if v is None else float(f"{v:.4g}") for v in line.values] for line in keyed]
    return (
        f'<figure class="ls-plot" data-windows="{windows}" data-values="{json.dumps(table, separators=(",", ":"))}">'
        f"<figcaption><h3{_hint(chart.note)}>{escape(chart.title)} <small>{escape(chart.unit)}</small></h3>"
        f"<p>{''.join(_key(line, now) for line in keyed)}</p></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(_spoken(chart, keyed, now))}">'
        f'{"".join(body)}<line class="ls-cursor" y1="{_TOP}" y2="{_TOP + _INNER_HEIGHT}"/></svg></figure>'
    )


def _hint(note: str) -> str:
    return f' title="{escape(note)}"' if note else ""


def _at(line: Line, window: int) -> str:
    return compact(line.values[window] if 0 <= window < len(line.values) else None)


def _key(line: Line, now: int) -> str:
    """Return a series' colour, name and value in the window `now`."""
    value, name = _at(line, now), escape(line.name)
    return (
        f'<span class="ls-key {line.style}" title="{name}"><i></i>{f"{name} " if line.named else ""}'
        f'<b data-last="{value}">{value}</b></span>'
    )


def _spoken(chart: Chart, keyed: Iterable[Line], now: int) -> str:
    """Return the chart as one sentence, for screen readers."""
    values = ", ".join(f"{line.name} {_at(line, now)}" for line in keyed)
    limits = "".join(f"; {target.name} {compact(target.value)}" for target in chart.targets)
    return f"{chart.title} ({chart.unit}), last window: {values}{limits}"


def _x(window: float, windows: int) -> float:
    """Return the horizontal position of a time, counted in windows from the episode's start."""
    return _LEFT + _INNER_WIDTH * window / windows


def _scale(chart: Chart) -> _Scale:
    values = [v for line in (*chart.lines, *chart.overlays) for v in line.values if v is not None]
    targets = [target.value for target in chart.targets]
    if chart.log:
        positive = [v for v in (*values, *targets) if v > 0.0] or [10.0, 1000.0]
        top = math.ceil(math.log10(max(positive)) + 0.02)
        bottom = min(max(math.floor(math.log10(min(positive))), top - _MOST_DECADES), top - 1)
        every = 1 + (top - bottom - 1) // _Y_TICKS
        marks = tuple(10.0**power for power in range(bottom, top + 1, every))
        return _Scale(10.0**bottom, 10.0**top, log=True, marks=marks)
    if chart.kind != "lines":
        columns = list(zip(*(line.values for line in chart.lines), strict=True))
        values += [sum(v for v in column if v is not None and v > 0.0) for column in columns]
        values += [sum(v for v in column if v is not None and v < 0.0) for column in columns]
    low = min(0.0, *values, 0.0)
    high = chart.ceiling if chart.ceiling is not None else max(0.0, *values, *(t * 1.12 for t in targets), 0.0) * 1.06
    if high <= low:
        high = low + 1.0
    return _Scale(low, high, log=False, marks=ticks(low, high, _Y_TICKS))


def _grid(scale: _Scale, windows: int) -> Iterable[str]:
    bottom = _TOP + _INNER_HEIGHT
    for mark in scale.marks:
        y = scale.y(mark)
        kind = "ls-zero" if mark == 0.0 and scale.low < 0.0 else "ls-grid"
        yield f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 5}" y="{y + 3.6:.1f}" text-anchor="end">{compact(mark)}</text>'
    yield f'<line class="ls-axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    quarters = tuple(windows * i // 4 for i in range(5))
    for mark in quarters if windows % 4 == 0 else ticks(0, windows, _X_TICKS):
        anchor = "end" if mark >= windows * 0.97 else "middle"
        yield f'<text x="{_x(mark, windows):.1f}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{compact(mark)}</text>'


def _runs(points: Iterable[tuple[float, float] | None]) -> Iterable[list[tuple[float, float]]]:
    """Yield the parts between gaps."""
    for present, stretch in groupby(points, lambda point: point is not None):
        if present:
            yield [point for point in stretch if point is not None]


def _path(line: Line, scale: _Scale, windows: int) -> str:
    points = [
        None if v is None or (scale.log and v <= 0.0) else (_x(i + 0.5, windows), scale.y(v))
        for i, v in enumerate(line.values)
    ]
    parts = []
    for run in _runs(points):
        # A single window becomes a short dash, because a path of one point is invisible.
        corners = run if len(run) > 1 else [(run[0][0] - 1.0, run[0][1]), (run[0][0] + 1.0, run[0][1])]
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners))
    return f'<path class="ls-line {line.style}" d="{"".join(parts)}"/>' if parts else ""


def _plain(lines: Sequence[Line], scale: _Scale, windows: int) -> list[str]:
    return [_path(line, scale, windows) for line in reversed(lines)]


def _areas(lines: Sequence[Line], scale: _Scale, windows: int) -> list[str]:
    base = [0.0] * (len(lines[0].values) if lines else 0)
    parts = []
    for line in lines:
        top = [b + (v or 0.0) for b, v in zip(base, line.values, strict=True)]
        if top:
            outline = [(_x(i + 0.5, windows), scale.y(v)) for i, v in enumerate(top)]
            outline += [(_x(i + 0.5, windows), scale.y(v)) for i, v in reversed(list(enumerate(base)))]
            text = "L".join(f"{x:.1f} {y:.1f}" for x, y in outline)
            parts.append(f'<path class="ls-area {line.style}" d="M{text}Z"/>')
        base = top
    return parts


def _bars(lines: Sequence[Line], scale: _Scale, windows: int) -> list[str]:
    count = len(lines[0].values) if lines else 0
    up, down = [0.0] * count, [0.0] * count
    width = _INNER_WIDTH / windows
    parts = []
    for line in lines:
        boxes = []
        for i, v in enumerate(line.values):
            if not v:
                continue
            stack = up if v > 0.0 else down
            first, second = scale.y(stack[i]), scale.y(stack[i] + v)
            stack[i] += v
            boxes.append(f"M{_x(i, windows):.1f} {first:.1f}V{second:.1f}h{width:.2f}V{first:.1f}Z")
        parts.append(f'<path class="ls-bar {line.style}" d="{"".join(boxes)}"/>' if boxes else "")
    return parts


def _targets(targets: Sequence[Target], scale: _Scale) -> Iterable[str]:
    """Yield target lines with their names at the right end: above the line, or below it if the space is taken."""
    above = 0.0
    for target in sorted(targets, key=lambda target: -target.value):
        y = scale.y(target.value)
        crowded = y - _NAME < _TOP or y - _NAME < above
        above = y + _NAME if crowded else y
        yield f'<line class="ls-target" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield (
            f'<text class="ls-target" x="{_WIDTH - _RIGHT - 2}" y="{y + 9.5 if crowded else y - 3.0:.1f}" text-anchor="end">'
            f"{escape(target.name)}</text>"
        )
