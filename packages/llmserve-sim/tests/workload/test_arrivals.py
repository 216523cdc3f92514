"""Arrival times follow the rate that they were given and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_sim.workload.arrivals import MASS, arrival_times, gap_table, window_mass

WINDOW_PS = 5 * 10**12


@pytest.mark.parametrize("cv", [0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
def test_gaps_have_unit_mean_and_the_cv_asked_for(cv: float) -> None:
    table = gap_table(cv)
    assert abs(table.mean / MASS - 1) < 1e-4
    assert abs(table.cv / cv - 1) < 2e-3


def test_gaps_of_cv_one_are_exponential() -> None:
    table = gap_table(1.0)
    for p in (0.1, 0.5, 0.9, 0.99):
        assert abs(table.quantile(p) / MASS / -np.log(1 - p) - 1) < 0.01


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.floats(0, 300), min_size=1, max_size=30),
    st.floats(0.2, 4.0).map(lambda x: round(x, 1)),
    st.sampled_from([10**11, WINDOW_PS, 3600 * 10**12]),
)
@settings(max_examples=60, deadline=None)
def test_times_are_sorted_inside_their_windows_and_counted(
    seed: int, rate: list[float], cv: float, window_ps: int
) -> None:
    rate = [r * WINDOW_PS / window_ps for r in rate]
    at, counts = arrival_times(seed, window_mass(rate, window_ps), window_ps, cv)
    assert (np.diff(at) >= 0).all()
    assert len(at) == counts.sum()
    assert np.bincount(at // window_ps, minlength=len(rate)).tolist() == counts.tolist()
    assert all(n == 0 for n, r in zip(counts, rate, strict=True) if r == 0)


def test_counts_follow_the_rate_and_poisson_counts_vary_as_much_as_their_mean() -> None:
    rate = np.tile([5.0, 40.0], 4000)
    _, counts = arrival_times(1, window_mass(rate, WINDOW_PS), WINDOW_PS, 1.0)
    for begin, expected in ((0, 25.0), (1, 200.0)):
        own = counts[begin::2]
        assert abs(own.mean() / expected - 1) < 0.01
        assert abs(own.var() / own.mean() - 1) < 0.1


@pytest.mark.parametrize("cv", [0.5, 3.0])
def test_the_dispersion_of_counts_tends_to_the_square_of_the_gaps_cv(cv: float) -> None:
    _, counts = arrival_times(1, window_mass(np.full(4000, 100.0), WINDOW_PS), WINDOW_PS, cv)
    assert abs(counts.var() / counts.mean() / cv**2 - 1) < 0.15


def test_times_are_uniform_within_a_window_of_constant_rate() -> None:
    at, _ = arrival_times(2, window_mass(np.full(2000, 20.0), WINDOW_PS), WINDOW_PS, 1.0)
    share = np.histogram(at % WINDOW_PS, 20, range=(0, WINDOW_PS))[0] / len(at)
    assert np.abs(share - 0.05).max() < 0.002


def test_a_later_window_does_not_move_an_earlier_one() -> None:
    rate = np.full(50, 20.0)
    at, _ = arrival_times(3, window_mass(rate, WINDOW_PS), WINDOW_PS, 1.0)
    rate[30:] = 100.0
    other, _ = arrival_times(3, window_mass(rate, WINDOW_PS), WINDOW_PS, 1.0)
    cut = 30 * WINDOW_PS
    assert at[at < cut].tolist() == other[other < cut].tolist()


def test_no_rate_means_no_requests() -> None:
    at, counts = arrival_times(0, window_mass(np.zeros(5), WINDOW_PS), WINDOW_PS, 1.0)
    assert len(at) == 0
    assert counts.tolist() == [0] * 5
