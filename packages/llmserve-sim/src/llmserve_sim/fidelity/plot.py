"""Pictures of a recorded run's one-second series beside the simulator's. Needs the extra `cli` (matplotlib)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmserve_sim.errors import MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

    from llmserve_sim.fidelity.data import SeriesLog
    from llmserve_sim.fidelity.replay import Replay

__all__ = ["draw_series"]

_MEASURED, _PREDICTED = "#333333", "#D55E00"  # Okabe and Ito


def draw_series(title: str, log: SeriesLog, result: Replay, path: Path) -> None:
    """Running, waiting and KV usage over time, measured and predicted, as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("cli", "the picture") from error
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    figure.suptitle(title)
    panels = (
        ("running requests", log.running, result.running),
        ("waiting requests", log.waiting, result.waiting),
        ("KV cache in use, %", log.kv_percent, result.kv_percent),
    )
    for index, (label, measured, predicted) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        axes.plot(log.t_s, measured, color=_MEASURED, linewidth=1.4, label="measured")
        axes.plot(np.arange(1, len(predicted) + 1), predicted, color=_PREDICTED, linewidth=1.1, label="simulated")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(color="#dddddd", linewidth=0.6)
        if index == 0:
            axes.legend(frameon=False, loc="upper right")
    axes.set_xlabel("seconds")
    figure.savefig(path, dpi=130)
