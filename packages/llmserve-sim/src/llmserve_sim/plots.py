"""Pictures of episode logs: one episode's timeline, or several episodes of the same traffic on the same axes.

Needs the extra `cli` (matplotlib). It reads logs only and knows nothing about the simulator that made them; figures are
built without pyplot, so no display, backend or global state is involved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmserve_sim.errors import InvalidInputError, MissingExtraError
from llmserve_sim.schema import ACTION_FIELDS, QUANTIZATION_TIERS, EpisodeLog, ServeAction, ServeObservation

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["draw_comparison", "draw_timeline", "render_timeline", "require_picture"]

# Okabe and Ito's palette, distinguishable with any colour vision.
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
_CYCLE: Final = (_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _SKY)
_INK, _GRID = "#333333", "#dddddd"
_WIDTH_IN: Final = 11.0
_DPI: Final = 130
_FRAME_DPI: Final = 70


@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    value: Callable[[ServeObservation], float]
    colour: str


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    lines: tuple[_Line, ...]
    log_scale: bool = False
    share: bool = False


_LOAD = _Panel("arrivals (requests/s)", (_Line("arrival rate", lambda o: o.request_arrival_rate, _BLUE),))
_OUTPUT = _Panel("output (tokens/s)", (_Line("throughput", lambda o: o.throughput_tps, _GREEN),))
_QUEUE = _Panel(
    "requests",
    (
        _Line("waiting", lambda o: o.queue_depth, _RED),
        _Line("running", lambda o: o.active_requests, _BLUE),
    ),
)
_LATENCY = _Panel(
    "latency (ms)",
    (
        _Line("TTFT p99", lambda o: o.p99_ttft_ms, _RED),
        _Line("TTFT p50", lambda o: o.p50_ttft_ms, _ORANGE),
        _Line("ITL p50", lambda o: o.p50_itl_ms, _BLUE),
    ),
    log_scale=True,
)
_MEMORY = _Panel("GPU memory (GB)", (_Line("in use", lambda o: o.gpu_memory_used_gb, _PURPLE),))
_KV = _Panel("KV cache", (_Line("occupancy", lambda o: o.kv_cache_occupancy, _GREEN),), share=True)
_REWARD = _Panel(
    "reward and SLO",
    (
        _Line("SLO compliance", lambda o: o.slo_compliance_rate, _SKY),
        _Line("reward", lambda o: o.reward, _INK),
    ),
)


def draw_timeline(log: EpisodeLog, path: Path, *, window_s: float, title: str = "") -> None:
    """Draw load, queue, latency, memory, the six knobs and reward of one episode over time into a PNG at `path`.

    `window_s` is the simulated length of a window, seconds. Raises `InvalidInputError` for a log without steps.
    """
    times = _times(log, window_s)
    panels = (_LOAD, _OUTPUT, _QUEUE, _LATENCY, _MEMORY, _KV, _REWARD)
    figure, axes = _timeline(log, panels, window_s, title or f"{log.task_id}, seed {log.seed}")
    _save(figure, axes[-1], times[-1], path)


def render_timeline(log: EpisodeLog, *, window_s: float, windows: int) -> NDArray[np.uint8]:
    """Return the episode so far as a picture uint8[height, width, 3], of one size throughout an episode of `windows`."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    panels = (_LOAD, _QUEUE, _LATENCY, _KV, _REWARD)
    figure, axes = _timeline(log, panels, window_s, f"{log.task_id}, seed {log.seed}, window {len(log.steps)}")
    _label_time(axes[-1], windows * window_s / 60.0)
    figure.set_dpi(_FRAME_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def draw_comparison(logs: Mapping[str, EpisodeLog], path: Path, *, window_s: float, title: str) -> None:
    """Draw several episodes of the same traffic, one colour each, into a PNG at `path`; the keys are their names.

    Raises `InvalidInputError` for no log, or for one without steps.
    """
    if not logs:
        raise InvalidInputError("logs", "must hold at least one log")
    rows = (
        _LOAD,
        _OUTPUT,
        _Panel("requests waiting", _QUEUE.lines[:1]),
        _Panel("requests running", _QUEUE.lines[1:]),
        _Panel("TTFT p99 (ms)", _LATENCY.lines[:1], log_scale=True),
        _Panel("ITL p50 (ms)", _LATENCY.lines[2:]),
        _Panel("KV occupancy", _KV.lines),
        _Panel("SLO compliance", _REWARD.lines[:1], share=True),
    )
    figure, axes = _figure([1.0] * len(rows), title)
    for axis, panel in zip(axes, rows, strict=True):
        named = list(logs.items())[:1] if panel is _LOAD else list(logs.items())
        for colour, (name, log) in zip(_CYCLE * len(named), named, strict=False):
            values = [panel.lines[0].value(step.observation) for step in log.steps]
            shade = _INK if panel is _LOAD else colour
            axis.plot(_times(log, window_s), values, color=shade, label=name, linewidth=1.1)
        _dress(axis, panel, legend=panel is _OUTPUT)
    figure.align_ylabels(axes)
    _save(figure, axes[-1], max(_times(log, window_s)[-1] for log in logs.values()), path)


def require_picture(path: Path) -> None:
    """Raise `InvalidInputError` unless the path's suffix is one of a picture that can be drawn."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ModuleNotFoundError as error:
        raise MissingExtraError("cli", "drawing") from error
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise InvalidInputError("png", f"must end in one of {', '.join(f'.{name}' for name in known)}", got=str(path))


def _times(log: EpisodeLog, window_s: float) -> list[float]:
    if not log.steps:
        raise InvalidInputError("log.steps", "must hold at least one step to be drawn")
    return _ends(log, window_s)


def _ends(log: EpisodeLog, window_s: float) -> list[float]:
    """The windows' ends in minutes."""
    return [(index + 1) * window_s / 60.0 for index in range(len(log.steps))]


def _timeline(log: EpisodeLog, panels: Sequence[_Panel], window_s: float, title: str) -> tuple[Figure, list[Axes]]:
    """Return the figure of one episode: the panels, and the six knobs below them."""
    times = _ends(log, window_s)
    figure, axes = _figure([1.0] * len(panels) + [1.6], title)
    for axis, panel in zip(axes, panels, strict=False):
        for line in panel.lines:
            values = [line.value(step.observation) for step in log.steps]
            axis.plot(times, values, color=line.colour, label=line.label, linewidth=1.3)
        _dress(axis, panel, legend=len(panel.lines) > 1)
    _knobs(axes[-1], [step.action for step in log.steps], times, window_s)
    figure.align_ylabels(axes[:-1])
    return figure, axes


def _figure(heights: Sequence[float], title: str) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("cli", "drawing") from error
    figure = Figure(figsize=(_WIDTH_IN, 1.35 * sum(heights) + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=12, color=_INK)
    grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=list(heights))
    return figure, list(grid)


def _dress(axis: Axes, panel: _Panel, *, legend: bool) -> None:
    if panel.log_scale:
        axis.set_yscale("symlog", linthresh=10.0)
        axis.yaxis.set_major_formatter("{x:g}")
    if panel.share:
        axis.set_ylim(-0.03, 1.03)
    elif not panel.log_scale:
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    axis.set_ylabel(panel.title, fontsize=8, color=_INK)
    if legend:
        axis.legend(fontsize=8, frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0.0, 1.2), borderpad=0.0)
    _plain(axis)


def _plain(axis: Axes) -> None:
    axis.grid(visible=True, color=_GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors=_INK)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _knobs(axis: Axes, actions: Sequence[ServeAction], times: Sequence[float], window_s: float) -> None:
    """One strip per knob, its shade the value within the knob's bounds, its text the value where it changes."""
    names = list(ACTION_FIELDS)
    for row, name in enumerate(names):
        values = [getattr(action, name) for action in actions]
        starts = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
        for start, end in zip(starts, [*starts[1:], len(values)], strict=bool(values)):
            width = times[end - 1] - times[start] + window_s / 60.0
            left = times[start] - window_s / 60.0
            shade = 0.12 + 0.78 * _position(name, values[start])
            axis.barh(row, width, left=left, height=0.84, color=_BLUE, alpha=shade, linewidth=0)
            if width > 0.045 * (times[-1] - times[0] + window_s / 60.0):
                ink = "white" if shade > 0.55 else _INK
                axis.text(left + width / 2, row, _short(values[start]), fontsize=7, ha="center", va="center", color=ink)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    _plain(axis)
    axis.grid(visible=False, axis="y")


def _position(name: str, value: float | str | bool) -> float:
    """Where a knob's value lies between its bounds, 0..1."""
    field = ACTION_FIELDS[name]
    if isinstance(value, str):
        return QUANTIZATION_TIERS.index(value) / (len(QUANTIZATION_TIERS) - 1)
    if field.low is None or field.high is None:
        return float(value)
    return (float(value) - field.low) / (field.high - field.low)


def _short(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _label_time(lowest: Axes, minutes: float) -> None:
    lowest.set_xlabel("simulated time (minutes)", fontsize=9, color=_INK)
    lowest.set_xlim(0.0, minutes)


def _save(figure: Figure, lowest: Axes, minutes: float, path: Path) -> None:
    _label_time(lowest, minutes)
    try:
        figure.savefig(path, dpi=_DPI)
    except (OSError, ValueError) as error:
        raise InvalidInputError("png", f"must be a writable path of a picture ({error})", got=str(path)) from error
