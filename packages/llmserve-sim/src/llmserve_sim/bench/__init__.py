"""The speed of the engines, as ratios measured side by side in one run; absolute times mean little on another machine.

`measure` runs everything this package can measure by itself and `main` is `llmserve-sim bench`. Comparisons with other
simulators live in the repository's `benchmarks/`, since they need environments of their own.
"""

from __future__ import annotations

from pathlib import Path

from llmserve_sim.bench.accuracy import measure_tables
from llmserve_sim.bench.growth import measure_growth
from llmserve_sim.bench.report import Result, conclude
from llmserve_sim.bench.speed import measure_engines, measure_threads
from llmserve_sim.engine.kernel.compiled import available
from llmserve_sim.errors import MissingExtraError

__all__ = ["Result", "conclude", "main", "measure"]


def measure(*, quick: bool = False) -> list[Result]:
    """Measure everything; a few minutes, less when `quick`. Raises `MissingExtraError` without numba."""
    if not available():
        raise MissingExtraError("fast", "the bench")
    return [
        *measure_engines(repeats=1 if quick else 2),
        *measure_threads(environments=256, repeats=2 if quick else 5),
        *measure_growth(windows=200 if quick else 1200),
        measure_tables(samples=500 if quick else 20_000),
    ]


def main(*, out: Path | None = None, quick: bool = False) -> int:
    """Measure, print, write bench.json and bench.png into `out`; 1 if a bar is missed (never when `quick`)."""
    return conclude(measure(quick=quick), out=out, verdict=not quick)
