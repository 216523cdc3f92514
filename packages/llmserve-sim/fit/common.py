"""What every fit script shares: reading the measured tables, robust least squares, and the error table."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares  # type: ignore[import-untyped]

from llmserve_sim.errors import InvalidInputError

Array = NDArray[np.float64]

SOFT_L1_SCALE = 0.1  # residuals beyond 10 % weigh linearly: kernel tables hold outliers of a factor of two


OUT_OF_BOUNDS = 100.0  # log error, far beyond any prediction's


@dataclass(frozen=True)
class Error:
    """Relative error of a fit: |predicted / measured - 1| in percent."""

    what: str
    rows: int
    median: float
    p90: float
    worst: float
    bias: float


def data_dir() -> Path:
    """Folder with the measured tables: `LLMSERVE_DATA`, or `../shared/data` beside the repository."""
    root = Path(os.environ.get("LLMSERVE_DATA") or Path(__file__).resolve().parents[3].parent / "shared" / "data")
    if not root.is_dir():
        message = f"measured data not found at {root}: set LLMSERVE_DATA"
        raise SystemExit(message)
    return root


def table(name: str, **where: str) -> dict[str, Array]:
    """Columns of a CSV file as float arrays (text columns stay text), only rows whose column equals `where`."""
    with (data_dir() / name).open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if all(row[key] == value for key, value in where.items())]
    return {key: _column([row[key] for row in rows]) for key in rows[0]}


def _column(values: list[str]) -> Any:
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        return np.array(values)


def fit(
    predict: Callable[[Array], Array],
    start: Sequence[float],
    measured: Array,
    *,
    beside: Array | float = 0.0,
    weight: Array | float = 1.0,
    lower: float = 1e-6,
    scale: float = SOFT_L1_SCALE,
) -> Array:
    """Positive parameters that minimise the robust log error of `predict + beside` against `measured + beside`.

    `beside` is the time that the rest of the layer takes: with it, an error counts as a share of an engine iteration,
    so a kernel of 10 us beside 500 us of GEMMs does not outvote the regime that matters. A step of the search to
    parameters that their dataclass refuses counts as a miss by `OUT_OF_BOUNDS` everywhere, so it is not taken.
    """

    def residual(log_parameters: Array) -> Array:
        try:
            predicted = predict(np.exp(log_parameters))
        except InvalidInputError:
            return np.full_like(measured, OUT_OF_BOUNDS)
        result: Array = weight * np.log((predicted + beside) / (measured + beside))
        return result

    bound = np.log(lower)
    solution = least_squares(
        residual, np.log(np.asarray(start)), bounds=(bound, np.inf), loss="soft_l1", f_scale=scale, x_scale=0.1
    )
    return np.asarray(np.exp(solution.x))


def error(what: str, predicted: Array, measured: Array, beside: Array | float = 0.0) -> Error:
    """Relative error of a prediction, as a share of `measured + beside`."""
    relative = 100.0 * ((predicted + beside) / (measured + beside) - 1.0)
    size = np.abs(relative)
    return Error(
        what,
        size.size,
        float(np.median(size)),
        float(np.percentile(size, 90)),
        float(size.max()),
        float(relative.mean()),
    )


def differences(name: str, committed: Any, refit: Any, tolerance: float) -> list[str]:
    """Names and values of committed constants that a refit moves by more than `tolerance` (relative)."""
    if committed is None:
        return [f"{name}: committed None, refit {refit}"]
    if is_dataclass(committed):
        return [
            line
            for field in fields(committed)
            for line in differences(
                f"{name}.{field.name}", getattr(committed, field.name), getattr(refit, field.name), tolerance
            )
        ]
    if abs(refit - committed) <= tolerance * max(abs(refit), abs(committed)):
        return []
    return [f"{name}: committed {committed}, refit {refit:.5g}"]
