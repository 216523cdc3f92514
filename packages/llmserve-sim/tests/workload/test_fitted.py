"""The fitted generators have the recorded traces' statistics, and the recorded traces are read whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.fitted import fitted_azure_code, fitted_azure_conversation, fitted_trace
from llmserve_sim.workload.traces import Trace, read_trace

DATA = Path(os.environ.get("LLMSERVE_DATA") or Path(__file__).resolve().parents[5] / "shared" / "data")
recorded = pytest.mark.skipif(not DATA.is_dir(), reason="recorded traffic is not here: set LLMSERVE_DATA")


def dispersion(trace: Trace, seconds: int) -> float:
    counts = np.bincount(trace.arrival_ps // (seconds * 10**12))
    return float(counts.var() / counts.mean())


def test_fitted_conversation_is_near_poisson_and_wanders() -> None:
    hours = [fitted_azure_conversation(seed) for seed in range(10)]
    assert abs(np.mean([len(h) / h.duration_s for h in hours]) - 5.53) < 0.3
    assert 1.2 < np.median([dispersion(h, 1) for h in hours]) < 1.6
    assert 2.5 < np.median([dispersion(h, 10) for h in hours]) < 5.0
    prompt = np.concatenate([h.prompt for h in hours])
    assert abs(np.median(prompt) / 1020 - 1) < 0.02
    assert (prompt.min(), prompt.max()) >= (2, 5000)


def test_fitted_code_is_on_and_off() -> None:
    hours = [fitted_azure_code(seed) for seed in range(10)]
    empty = [np.mean(np.bincount(h.arrival_ps // 10**13, minlength=360) == 0) for h in hours]
    assert abs(np.mean(empty) - 0.56) < 0.08
    assert np.median([dispersion(h, 10) for h in hours]) > 40
    assert abs(np.median(np.concatenate([h.output for h in hours])) - 13) <= 1


@recorded
@pytest.mark.parametrize(
    ("file", "fitted", "requests"),
    [("azure_conv_2023.csv", fitted_azure_conversation, 19_366), ("azure_code_2023.csv", fitted_azure_code, 8_819)],
)
def test_the_recorded_hour_agrees_with_its_fit(file: str, fitted: object, requests: int) -> None:
    trace = read_trace(DATA / file)
    assert len(trace) == requests
    assert callable(fitted)
    hours = [fitted(seed, trace.duration_s) for seed in range(20)]
    assert abs(np.mean([len(h) for h in hours]) / len(trace) - 1) < 0.12
    for name in ("prompt", "output"):
        drawn = np.concatenate([getattr(h, name) for h in hours])
        measured = getattr(trace, name)
        assert abs(drawn.mean() / measured.mean() - 1) < 0.06
        for p in (0.5, 0.9, 0.99):
            assert abs(np.quantile(drawn, p) / np.quantile(measured, p) - 1) < 0.06


def test_a_fitted_trace_is_a_function_of_its_seed() -> None:
    a, b, c = (fitted_trace("azure-conversation", seed, 60.0) for seed in (1, 1, 2))
    assert a.arrival_ps.tolist() == b.arrival_ps.tolist()
    assert a.prompt.tolist() == b.prompt.tolist()
    assert a.arrival_ps.tolist() != c.arrival_ps.tolist()
    assert a.duration_ps == 60 * 10**12


def test_bad_requests_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="azure-conversation, azure-code"):
        fitted_trace("azure", 0)
    for bad in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(InvalidInputError) as caught:
            fitted_azure_code(0, bad)
        assert caught.value.field == "duration_s"
