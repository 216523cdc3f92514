"""One figure of a comparison: measured, predicted, error and bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Row", "relative", "with_median"]

MEDIAN_PERCENT = 8.0


@dataclass(frozen=True)
class Row:
    """One figure. `error` is in percent of the measurement unless `unit` says otherwise. `bound` is optional."""

    run: str
    figure: str
    measured: float
    predicted: float
    error: float
    unit: str = "%"
    bound: float | None = None

    @property
    def passed(self) -> bool:
        """Within the bound, or none given."""
        return self.bound is None or abs(self.error) <= self.bound


def relative(run: str, figure: str, measured: float, predicted: float, bound: float | None = None) -> Row:
    """Compare two figures; the error is in percent of the measured one."""
    return Row(run, figure, float(measured), float(predicted), float(100.0 * (predicted / measured - 1.0)), "%", bound)


def with_median(rows: list[Row], bound: float = MEDIAN_PERCENT) -> Iterator[Row]:
    """The rows, and one for the median of their absolute errors."""
    yield from rows
    errors = np.abs([row.error for row in rows])
    middle = float(np.median(errors))
    yield replace(
        rows[0],
        figure=f"median of {len(rows)} (max {errors.max():.1f} %)",
        measured=float("nan"),
        predicted=float("nan"),
        error=middle,
        bound=bound,
    )
