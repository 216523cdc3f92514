"""Refit the workload generators to recorded traffic and print, statistic by statistic, fitted against measured.

    python packages/llmserve-sim/fit/fit_workloads.py            print constants and errors
    python packages/llmserve-sim/fit/fit_workloads.py --check    exit 1 if a committed constant is not its refit

Reads azure_{conv,code}_2023.csv and servegen_rate_*.csv from LLMSERVE_DATA, else from ../shared/data beside the
repository. Generated statistics are medians over `SEEDS` hours.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmserve_sim.workload.fitted import AZURE_CODE, AZURE_CONVERSATION, QUANTILES, FittedTrace
from llmserve_sim.workload.traces import Trace, read_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SEEDS = range(40)
WINDOW_S = 10
TOLERANCE = 0.02


@dataclass(frozen=True)
class Refit:
    """A committed constant and what the data gives now."""

    name: str
    committed: float
    refit: float

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than the tolerance (one token for quantiles)."""
        return abs(self.committed - self.refit) <= max(TOLERANCE * abs(self.refit), 0.005)


def main() -> int:
    """Run all fits; returns the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a committed constant is not its refit")
    check = parser.parse_args().check
    data = Path(os.environ.get("LLMSERVE_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
    if not data.is_dir():
        print(f"no recorded data: set LLMSERVE_DATA ({data} is not there)", file=sys.stderr)
        return 2
    refits: list[Refit] = []
    for fitted, file in ((AZURE_CONVERSATION, "azure_conv_2023.csv"), (AZURE_CODE, "azure_code_2023.csv")):
        trace = read_trace(data / file)
        refits += refit_trace(fitted, trace)
        compare(fitted, trace)
    for file in ("servegen_rate_m-small.csv", "servegen_rate_deepseek-r1.csv"):
        print_swing(file, data / file)
    wrong = [r for r in refits if not r.agrees]
    for r in wrong:
        print(f"{r.name}: committed {r.committed:g}, refit {r.refit:g}", file=sys.stderr)
    return int(check and bool(wrong))


def refit_trace(fitted: FittedTrace, trace: Trace) -> list[Refit]:
    """Derive every constant of a fitted trace from the recorded one, and print them."""
    counts = per_window(trace, WINDOW_S)
    on = counts > 0
    shape: dict[str, Any] = {"rate_rps": float(counts[on].mean()) / WINDOW_S}
    if not on.all():
        shape["mean_on_windows"], shape["mean_off_windows"] = runs(on)
    shape["rate_correlation"] = fitted.rate_correlation
    gap_cv = fit_gap_cv(fitted, counts, on, shape, dispersion(per_window(trace, 1)))
    values = shape | {
        "gap_cv": gap_cv,
        "rate_cv": sqrt(rate_variance(counts, on, gap_cv)),
        "rate_correlation": rate_correlation(counts, on, gap_cv),
    }
    print(f"\n{fitted.name}: refitted constants")
    found = [Refit(f"{fitted.name}.{name}", getattr(fitted, name), value) for name, value in values.items()]
    for name, tokens, committed in (("prompt", trace.prompt, fitted.prompt), ("output", trace.output, fitted.output)):
        quantiles = [round(float(q)) for q in np.quantile(tokens, QUANTILES)]
        logs = np.log(tokens)
        print(f"    {name}={tuple(quantiles)}   (log-normal mu {logs.mean():.3f}, sigma {logs.std():.3f})")
        found += [
            Refit(f"{fitted.name}.{name}[{p:g}]", a, b) for p, a, b in zip(QUANTILES, committed, quantiles, strict=True)
        ]
    for name, value in values.items():
        print(f"    {name}={value:.3f} (committed {getattr(fitted, name):g})")
    correlation = np.corrcoef(np.log(trace.prompt), np.log(trace.output))[0, 1]
    print(f"    correlation of log prompt with log output {correlation:.3f} (the generator: 0)")
    return found


def fit_gap_cv(fitted: FittedTrace, counts: Floats, on: NDArray[np.bool_], shape: dict[str, Any], goal: float) -> float:
    """Return the gap CV at which generated hours have the recorded index of dispersion over 1 s.

    Gaps measured inside windows would be biased: the windows' edges cut the long ones.
    """
    low, high = 0.5, 3.9
    for _ in range(12):
        middle = 0.5 * (low + high)
        trial = replace(fitted, **shape, gap_cv=middle, rate_cv=sqrt(rate_variance(counts, on, middle)))
        hours = [trial.trace(seed, len(counts) * WINDOW_S) for seed in SEEDS]
        if float(np.median([dispersion(per_window(hour, 1)) for hour in hours])) < goal:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def rate_variance(counts: Floats, on: NDArray[np.bool_], gap_cv: float) -> float:
    """Return the rate's squared CV between on windows: the counts' variance less that of a renewal process."""
    level = counts[on]
    return float(max(level.var() - gap_cv**2 * level.mean(), 0.0) / level.mean() ** 2)


def rate_correlation(counts: Floats, on: NDArray[np.bool_], gap_cv: float) -> float:
    """Return the rate's correlation between adjacent windows.

    From the decay of the autocovariance between lags 1 and 12 where every window is on (counting noise does not
    touch those), from lag 1 over the rate's variance where runs are shorter than that.
    """
    mean = counts[on].mean()

    def covariance(lag: int) -> float:
        both = on[lag:] & on[:-lag]
        return float(((counts[lag:][both] - mean) * (counts[:-lag][both] - mean)).mean())

    if on.all():
        return float((covariance(12) / covariance(1)) ** (1 / 11))
    return float(np.clip(covariance(1) / (rate_variance(counts, on, gap_cv) * mean**2), 0.0, 0.999))


def compare(fitted: FittedTrace, trace: Trace) -> None:
    """Print measured and generated statistics and the error of each."""
    measured = statistics(trace)
    generated = [statistics(fitted.trace(seed, trace.duration_s)) for seed in SEEDS]
    print(f"    {'statistic':34s}{'measured':>10s}{'generated':>10s}{'error':>8s}")
    for name, value in measured.items():
        typical = float(np.median([g[name] for g in generated]))
        error = f"{100 * (typical / value - 1):+.0f} %" if value else "-"
        print(f"    {name:34s}{value:10.3f}{typical:10.3f}{error:>8s}")


def statistics(trace: Trace) -> dict[str, float]:
    """Return what a fleet feels of a trace: rate, dispersion at three scales, peaks, quiet, lengths."""
    ten = per_window(trace, 10)
    result = {
        "requests/s": len(trace) / trace.duration_s,
        "gap CV": float(np.diff(trace.arrival_ps).std() / np.diff(trace.arrival_ps).mean()),
        "index of dispersion, 1 s": dispersion(per_window(trace, 1)),
        "index of dispersion, 10 s": dispersion(ten),
        "index of dispersion, 60 s": dispersion(per_window(trace, 60)),
        "peak/mean, 10 s": float(ten.max() / ten.mean()),
        "share of empty 10-s windows": float((ten == 0).mean()),
    }
    for name, tokens in (("prompt", trace.prompt), ("output", trace.output)):
        result[f"{name} mean"] = float(tokens.mean())
        result |= {f"{name} p{100 * p:g}": float(np.quantile(tokens, p)) for p in (0.25, 0.5, 0.75, 0.9, 0.99)}
    return result


def per_window(trace: Trace, seconds: int) -> Floats:
    """Return requests per window of that many seconds; the last one may be cut short and is left out."""
    whole = max(trace.duration_ps // (seconds * 10**12), 1)
    counts = np.bincount(trace.arrival_ps // (seconds * 10**12), minlength=whole)[:whole]
    return counts.astype(np.float64)


def dispersion(counts: Floats) -> float:
    """Return the variance of counts over their mean: 1 for a Poisson process."""
    return float(counts.var() / counts.mean())


def runs(on: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the mean run of true and of false windows (0 where there is none)."""
    starts = np.concatenate(([0], np.flatnonzero(on[1:] != on[:-1]) + 1))
    lengths, states = np.diff(np.append(starts, len(on))), on[starts]
    return (
        float(lengths[states].mean()) if states.any() else 0.0,
        float(lengths[~states].mean()) if (~states).any() else 0.0,
    )


def print_swing(name: str, path: Path) -> None:
    """Print the daily swing of hourly means (what `Diurnal.peak_to_trough` is) and the 10-minute peak over the mean."""
    with path.open(newline="") as file:
        rate = np.array([float(row["rps"]) for row in csv.DictReader(file)])
    days = rate[: len(rate) // 144 * 144].reshape(-1, 24, 6).mean(axis=2)
    quiet = days.min(axis=1) > 0.02 * days.mean()
    swing = days.max(axis=1)[quiet] / days.min(axis=1)[quiet]
    print(
        f"\n{name}: hourly peak/trough per day {swing.min():.2f}-{swing.max():.2f}, median {np.median(swing):.2f}"
        f" ({(~quiet).sum()} of {len(days)} days hold an outage and are left out);"
        f" 10-minute peak/mean {rate.max() / rate.mean():.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
