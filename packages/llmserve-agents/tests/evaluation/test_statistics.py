"""Intervals and comparisons: right on known distributions, paired, stratified, and the same every time."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from llmserve_agents.evaluation.statistics import Bootstrap, iqm, mean, probability_of_improvement, win_rate
from llmserve_sim.errors import InvalidInputError

HAS_SCIPY = importlib.util.find_spec("scipy") is not None
needs_scipy = pytest.mark.skipif(not HAS_SCIPY, reason="scipy, the reference, is not installed")


def normal(size: int, *, at: float = 0.0, sd: float = 1.0, seed: int = 1) -> Any:
    """Draws of a normal distribution."""
    return np.random.default_rng(seed).normal(at, sd, size)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many_episodes() -> None:
    values = normal(2000, at=3.0, sd=2.0)
    found = Bootstrap([2000], resamples=4000).interval([values], mean)
    error = values.std(ddof=1) / np.sqrt(2000)
    assert found.value == values.mean()
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_95_per_cent_intervals_hold_the_truth_about_95_times_in_100() -> None:
    bootstrap = Bootstrap([50], resamples=1000)
    held = 0
    for seed in range(300):
        found = bootstrap.interval([normal(50, at=1.0, seed=seed)], mean)
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 300 <= 0.98


@needs_scipy
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_intervals_agree_with_scipys_bootstrap(statistic: Any) -> None:
    from scipy import stats

    values = np.random.default_rng(4).gamma(2.0, 1.0, 60)
    ours = Bootstrap([60], resamples=20_000).interval([values], statistic)
    theirs = stats.bootstrap(
        (values,),
        lambda x, axis: statistic(np.moveaxis(x, axis, -1)),
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)


@needs_scipy
def test_the_interquartile_mean_is_scipys_trimmed_mean() -> None:
    from scipy import stats

    for size in (1, 2, 3, 4, 7, 100, 101):
        values = normal(size, seed=size)
        assert float(iqm(values)) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-12)


@needs_scipy
def test_the_probability_of_improvement_is_mann_and_whitneys_statistic() -> None:
    from scipy import stats

    ours, theirs = np.round(normal(40, at=0.3), 1), np.round(normal(30, seed=2), 1)  # rounded: with ties
    expected = stats.mannwhitneyu(ours, theirs).statistic / (40 * 30)
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected, abs=1e-12)


def test_the_interquartile_mean_ignores_the_outer_quarters() -> None:
    assert float(iqm(np.array([-1e9, 1.0, 2.0, 1e9]))) == 1.5


def test_two_normals_one_apart_improve_with_probability_phi_of_one_over_root_two() -> None:
    ours, theirs = normal(3000, at=1.0), normal(3000, seed=2)
    assert probability_of_improvement(ours, theirs) == pytest.approx(0.7602, abs=0.02)


def test_ties_count_half() -> None:
    same = np.array([1.0, 2.0, 3.0])
    assert win_rate(same, same) == 0.5
    assert probability_of_improvement(same, same) == 0.5
    assert win_rate(np.array([1.0, 0.0, 5.0, 5.0]), np.array([0.0, 1.0, 4.0, 5.0])) == pytest.approx(2.5 / 4)


def test_pairing_takes_out_what_agents_have_in_common() -> None:
    traffic = normal(100, sd=10.0)
    ours, theirs = traffic + 0.5 + normal(100, sd=0.1, seed=2), traffic
    bootstrap = Bootstrap([100], resamples=2000)
    paired = bootstrap.interval([ours - theirs], mean)
    assert 0.45 < paired.low < paired.high < 0.55
    alone = bootstrap.interval([ours], mean)
    assert alone.high - alone.low > 20 * (paired.high - paired.low)


def test_strata_are_resampled_apart() -> None:
    """Two tasks far apart: resampled together, their difference would be in the interval of the mean."""
    easy, hard = normal(50, at=100.0, sd=0.1), normal(50, at=0.0, sd=0.1, seed=2)
    apart = Bootstrap([50, 50], resamples=1000).interval([easy, hard], mean)
    assert apart.value == pytest.approx(50.0, abs=0.1)
    assert apart.high - apart.low < 0.1
    together = Bootstrap([100], resamples=1000).interval([np.concatenate([easy, hard])], mean)
    assert together.high - together.low > 10.0


def test_the_interval_of_the_improvement_is_that_of_the_plain_resamples() -> None:
    ours, theirs = normal(30, at=0.4), normal(30, seed=2)
    bootstrap = Bootstrap([30], resamples=500)
    found = bootstrap.improvement([ours], [theirs])
    plain = [probability_of_improvement(ours[draw], theirs[draw]) for draw in bootstrap._draws[0]]
    low, high = np.quantile(plain, [0.025, 0.975])
    assert found.value == probability_of_improvement(ours, theirs)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_the_same_data_gives_the_same_interval_to_the_last_bit() -> None:
    values = normal(64)
    first, again = (Bootstrap([64], resamples=1000).interval([values], iqm) for _ in range(2))
    assert first == again


def test_many_resamples_are_taken_in_blocks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(40)
    whole = Bootstrap([40], resamples=1000).interval([values], mean)
    monkeypatch.setattr("llmserve_agents.evaluation.statistics._BLOCK", 400)
    assert Bootstrap([40], resamples=1000).interval([values], mean) == whole


def test_one_episode_has_an_interval_of_no_width() -> None:
    assert Bootstrap([1]).interval([np.array([0.7])], mean) == (0.7, 0.7, 0.7)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"sizes": []}, "sizes"),
        ({"sizes": [3, 0]}, "sizes"),
        ({"sizes": [3], "resamples": 99}, "resamples"),
        ({"sizes": [3], "confidence": 1.0}, "confidence"),
        ({"sizes": [3], "confidence": float("nan")}, "confidence"),
    ],
)
def test_bad_input_is_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        Bootstrap(**arguments)
    assert refused.value.field == field


def test_strata_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="strata"):
        Bootstrap([3]).interval([np.zeros(4)], mean)
