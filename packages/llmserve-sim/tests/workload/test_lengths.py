"""Length models keep their means, bounds and quantiles."""

from __future__ import annotations

from math import exp, log
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.workload.lengths import empirical_lengths, lognormal_table, uniform_lengths
from llmserve_sim.workload.random import U32, first_u32
from llmserve_sim.workload.tables import PIECES, QuantileTable, solve_increasing

N = 1 << 18


@pytest.mark.parametrize(
    ("mean", "sigma", "low", "high"),
    [
        (512.0, 0.6, 8, 4096),
        (220.0, 0.8, 4, 2048),
        (450.0, 0.99, 8, 4000),
        (27.9, 0.847, 6, 1899),
        (2048, 1.36, 3, 7437),
    ],
)
def test_a_lognormal_has_its_mean_after_cutting_and_stays_inside_its_bounds(
    mean: float, sigma: float, low: int, high: int
) -> None:
    table = lognormal_table(mean, sigma, low, high)
    drawn = table.sample(first_u32(1, "test", N))
    assert abs(table.mean / mean - 1) < 1e-4
    assert abs(drawn.mean() / mean - 1) < 0.01
    assert drawn.min() >= low
    assert drawn.max() <= high


def test_an_uncut_lognormal_has_the_textbook_quantiles() -> None:
    table = lognormal_table(500.0, 0.7, 1, 1_000_000)
    mu = log(500.0) - 0.7**2 / 2
    drawn = table.sample(first_u32(2, "test", N))
    for p in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        expected = exp(mu + 0.7 * NormalDist().inv_cdf(p))
        assert abs(table.quantile(p) / expected - 1) < 0.005
        assert abs(np.quantile(drawn, p) / expected - 1) < 0.02


@given(st.floats(20, 4000), st.floats(0, 1.5))
@settings(max_examples=25, deadline=None)
def test_tables_invert_their_own_quantile_function(mean: float, sigma: float) -> None:
    table = lognormal_table(mean, sigma, 1, 8000)
    values = np.arange(0, 9000, 37)
    draws = table.cdf_u32(values)
    assert (np.diff(draws) >= 0).all()
    assert (table.sample(draws) <= np.maximum(values, table.sample(np.zeros(1, dtype=np.int64)))).all()
    inside = (values > table.quantile(0.001)) & (values < table.quantile(0.999))
    above = np.minimum(draws + (1 << 22), U32 - 1)  # a thousandth further
    assert (table.sample(above)[inside] >= values[inside]).all()


def test_sampling_is_monotone_over_the_whole_range_of_draws() -> None:
    table = lognormal_table(300.0, 1.2, 2, 1_000_000)
    u = np.linspace(0, U32 - 1, 50_001).astype(np.int64)
    assert (np.diff(table.sample(u)) >= 0).all()


def test_a_lognormal_of_no_width_is_a_constant() -> None:
    assert set(lognormal_table(77.0, 0.0, 1, 100).sample(first_u32(0, "x", 100)).tolist()) == {77}


def test_an_empirical_model_goes_through_its_knots() -> None:
    table = empirical_lengths(((0.0, 2.0), (0.5, 100.0), (0.9, 400.0), (1.0, 1000.0)))
    drawn = table.sample(first_u32(3, "test", N))
    assert abs(np.quantile(drawn, 0.5) - 100) < 2
    assert abs(np.quantile(drawn, 0.9) - 400) < 8
    assert drawn.min() >= 2
    assert drawn.max() <= 1000


@pytest.mark.parametrize(
    "knots",
    [
        ((0.0, 2.0),),
        ((0.1, 2.0), (1.0, 3.0)),
        ((0.0, 2.0), (0.9, 3.0)),
        ((0.0, 2.0), (0.5, 1.0), (1.0, 3.0)),
        ((0.0, 2.0), (0.5, 3.0), (0.5, 3.0), (1.0, 3.0)),
        ((0.0, 0.0), (1.0, 3.0)),
        ((0.0, 1.0), (float("nan"), 2.0), (1.0, 3.0)),
        ((0.0, 1.0), (0.5, float("nan")), (1.0, 3.0)),
    ],
)
def test_knots_that_are_no_distribution_are_refused(knots: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(InvalidInputError, match="knots"):
        empirical_lengths(knots)


def test_mega_prompts_are_uniform() -> None:
    drawn = uniform_lengths(4000, 8000).sample(first_u32(4, "test", N))
    assert abs(drawn.mean() - 6000) < 10
    assert (drawn.min(), drawn.max()) == (4000, 8000)
    with pytest.raises(InvalidInputError, match="min_tokens"):
        uniform_lengths(10, 9)


def test_a_mean_outside_the_bounds_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="mean_tokens"):
        lognormal_table(5.0, 0.5, 10, 100)


def test_a_table_refuses_edges_that_are_no_quantile_function() -> None:
    for edges in ((0,) * PIECES, (1,) * PIECES + (0,), (-1,) + (0,) * PIECES, (0,) * PIECES + (1 << 31,)):
        with pytest.raises(ValueError, match="edges"):
            QuantileTable(edges)
    with pytest.raises(InvalidInputError, match="finite"):
        QuantileTable.from_values([float("nan")] * (PIECES + 1))


def test_the_solver_finds_roots_and_stops_at_the_ends() -> None:
    assert abs(solve_increasing(lambda x: x**3, 2.0, 0.0, 8.0) - 2 ** (1 / 3)) < 1e-8
    assert solve_increasing(lambda x: x, -1.0, 0.0, 8.0) == 0.0
    assert solve_increasing(lambda x: x, 9.0, 0.0, 8.0) == 8.0
    assert abs(solve_increasing(lambda x: max(1.0, x), 3.0, 0.0, 50.0) - 3.0) < 1e-8
