"""The common look of all pictures of this package: colours, panels, axes, and the PNG file.

Figures are built without pyplot, so they need no display and no global state. Only drawing needs the extra ``plot``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmserve_agents.errors import MissingExtraError
from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "FAINT",
    "GREEN",
    "INK",
    "ORANGE",
    "RED",
    "new_figure",
    "panels",
    "plain_axis",
    "require_matplotlib",
    "save_png",
    "share_rows",
]

# From Okabe and Ito's palette, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, FAINT, GRID = "#333333", "#8a8a8a", "#e2e2e2"
_DPI: Final = 150


def require_matplotlib(wanted_by: str) -> None:
    """Raise `MissingExtraError` if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401 - whether it can be imported is the question
    except ModuleNotFoundError as error:
        raise MissingExtraError("plot", wanted_by) from error


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size, in inches; raises `MissingExtraError` without matplotlib."""
    require_matplotlib("drawing")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(count: int, *, height: float, width: float, left: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels side by side, and its axes. Sizes in inches; `left` is space for row names."""
    figure = new_figure(max(count * width, 5.0) + left, height)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def share_rows(axes: Sequence[Axes]) -> None:
    """Keep the row names of the first panel only."""
    for axis in axes[1:]:
        axis.set_yticklabels([])


def plain_axis(axis: Axes) -> None:
    """Give an axis a light grid, small labels, and no frame at the top and the right."""
    axis.grid(visible=True, color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure; raises `InvalidInputError` if the path cannot be written."""
    try:
        # Without matplotlib's version in the file, the same report gives the same bytes with more versions of it.
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    except (OSError, ValueError) as error:
        raise InvalidInputError("png", f"must be a writable path of a picture ({error})", got=str(path)) from error
