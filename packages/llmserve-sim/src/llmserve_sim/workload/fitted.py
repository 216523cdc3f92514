"""Generators fitted to the two Azure 2023 production traces, for use where the recorded files are absent.

Each makes a `Trace` in place of the recorded hour. Constants are printed beside what was measured, with the
error of each statistic, by `fit/fit_workloads.py`; source: Azure LLM inference trace 2023 (conversation and code;
P. Patel et al., "Splitwise", ISCA 2024; CC-BY-4.0). Prompt and output are drawn independently: their logarithms
correlate by 0.09 (conversation) and 0.00 (code).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite, log1p, sqrt
from typing import Annotated

import numpy as np

from llmserve_sim.bounds import Between, Checked
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.arrivals import arrival_times, window_mass
from llmserve_sim.workload.lengths import empirical_lengths
from llmserve_sim.workload.patterns import ar1, on_off_windows
from llmserve_sim.workload.random import first_u32
from llmserve_sim.workload.traces import Trace

__all__ = [
    "AZURE_CODE",
    "AZURE_CONVERSATION",
    "FITTED",
    "QUANTILES",
    "FittedTrace",
    "fitted_azure_code",
    "fitted_azure_conversation",
    "fitted_trace",
]

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
"""Probabilities of the length quantiles below."""
_WINDOW_PS = 10 * 10**12
_MAX_DURATION_S = 1_000_000.0


@dataclass(frozen=True)
class FittedTrace(Checked):
    """Parameters of one fitted trace. The rate is constant within 10-s windows."""

    name: str
    rate_rps: Annotated[float, Between(1e-6, 1e6, "requests/s")]
    """Mean rate of the windows that are on, requests/s."""
    gap_cv: Annotated[float, Between(0.01, 100)]
    """Coefficient of variation of the gaps at constant rate."""
    rate_cv: Annotated[float, Between(0, 100)]
    """Coefficient of variation of the rate between windows that are on."""
    rate_correlation: Annotated[float, Between(-0.9999, 0.9999)]
    """Correlation of the rate's logarithm from window to window."""
    mean_on_windows: Annotated[float, Between(1, 1e6, "windows")] | None
    """Mean run of on windows; None: always on."""
    mean_off_windows: Annotated[float, Between(1, 1e6, "windows")] | None
    """Mean run of empty windows."""
    prompt: tuple[Annotated[int, Between(1, 1 << 20, "tokens")], ...]
    """Prompt tokens at `QUANTILES`."""
    output: tuple[Annotated[int, Between(1, 1 << 20, "tokens")], ...]
    """Output tokens at `QUANTILES`."""

    def _relations(self) -> None:
        for name in ("prompt", "output"):
            values = getattr(self, name)
            if len(values) != len(QUANTILES) or list(values) != sorted(values):
                self._refuse(name, f"must be {len(QUANTILES)} token counts that do not decrease")
        if (self.mean_on_windows is None) != (self.mean_off_windows is None):
            self._refuse("mean_off_windows", "must be None where mean_on_windows is, and only there")

    def trace(self, seed: int, duration_s: float = 3600.0) -> Trace:
        """Return a trace of this length, 0.001 to 1e6 s, without rows left out; at least one request long."""
        if not (isfinite(duration_s) and 1e-3 <= duration_s <= _MAX_DURATION_S):
            raise InvalidInputError("duration_s", f"must be a number in 0.001..{_MAX_DURATION_S:g}", got=duration_s)
        windows = ceil(duration_s * 1e12 / _WINDOW_PS)
        variance = log1p(self.rate_cv**2)
        factor = np.exp(ar1(seed, "fitted_rate", sqrt(variance), self.rate_correlation, windows) - 0.5 * variance)
        if self.mean_on_windows is not None and self.mean_off_windows is not None:
            factor *= on_off_windows(seed, "fitted_on_off", self.mean_on_windows, self.mean_off_windows, windows)
        at, _ = arrival_times(seed, window_mass(self.rate_rps * factor, _WINDOW_PS), _WINDOW_PS, self.gap_cv)
        at = at[at < duration_s * 1e12]
        if len(at) == 0:
            raise InvalidInputError("duration_s", "is too short for this seed: no request arrives", got=duration_s)
        return Trace(
            name=self.name,
            arrival_ps=at,
            prompt=_table(self.prompt, seed, "fitted_prompt", len(at)),
            output=_table(self.output, seed, "fitted_output", len(at)),
            duration_ps=round(duration_s * 1e12),
        )


AZURE_CONVERSATION = FittedTrace(
    name="azure-conversation",
    rate_rps=5.53,
    gap_cv=1.09,
    rate_cv=0.22,
    rate_correlation=0.966,
    mean_on_windows=None,
    mean_off_windows=None,
    prompt=(2, 29, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 4083, 4098, 4142, 6179, 14050),
    output=(7, 16, 41, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 540, 601, 954, 1000),
)
AZURE_CODE = FittedTrace(
    name="azure-code",
    rate_rps=5.84,
    gap_cv=3.8,
    rate_cv=0.645,
    rate_correlation=0.345,
    mean_on_windows=3.75,
    mean_off_windows=4.95,
    prompt=(3, 17, 75, 147, 386, 770, 1075, 1469, 1909, 2433, 3192, 5188, 7303, 7436, 7436, 7437, 7437),
    output=(6, 6, 6, 7, 8, 9, 11, 13, 16, 20, 29, 55, 90, 171, 251, 825, 1899),
)
FITTED = {fitted.name: fitted for fitted in (AZURE_CONVERSATION, AZURE_CODE)}
"""Fitted traces by name."""


def fitted_trace(name: str, seed: int, duration_s: float = 3600.0) -> Trace:
    """Return a trace of the fitted generator of that name; raises InvalidInputError for an unknown one."""
    if name not in FITTED:
        raise InvalidInputError("trace", f"must be one of {', '.join(FITTED)}", got=name)
    return FITTED[name].trace(seed, duration_s)


def fitted_azure_conversation(seed: int, duration_s: float = 3600.0) -> Trace:
    """Return chat traffic like the recorded hour: near-Poisson, 5.5 requests/s, wandering by a quarter."""
    return AZURE_CONVERSATION.trace(seed, duration_s)


def fitted_azure_code(seed: int, duration_s: float = 3600.0) -> Trace:
    """Return code-completion traffic like the recorded hour: on and off, bursts of short gaps, short outputs."""
    return AZURE_CODE.trace(seed, duration_s)


def _table(
    quantiles: tuple[int, ...], seed: int, purpose: str, count: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    table = empirical_lengths(tuple(zip(QUANTILES, map(float, quantiles), strict=True)))
    return table.sample(first_u32(seed, purpose, count))
