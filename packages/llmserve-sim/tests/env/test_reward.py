"""The reward is the sum of its named terms, stays in [-1, 1], and dumping or delaying work does not pay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim.engine.interface import WindowStats
from llmserve_sim.reward import RewardMeter
from llmserve_sim.tasks.model import RewardWeights

WEIGHTS = RewardWeights(throughput=0.5, slo=0.4, memory=0.3, cost=0.05, cost_scale_usd_per_1k=0.001)
FULL = (1.0, 1.0, 1.0, 1.0)


def _meter() -> RewardMeter:
    return RewardMeter(WEIGHTS, priority_weight=3.0, usd_per_window=0.005)


def _stats(offered: int = 1000, good: int = 1000, **more: object) -> WindowStats:
    values = {"due": [1, 1], "met": [1, 1], "delivered_tokens": 10_000, **more}
    return WindowStats(offered_tokens=offered, good_tokens=[good, 0, 0, 0], **values)  # type: ignore[arg-type]


def test_a_perfect_window_earns_throughput_and_slo_less_cost() -> None:
    terms = _meter().read(_stats(), 0.0, FULL)
    assert terms.weighted() == {"throughput": 0.5, "slo": 0.4, "memory": 0.0, "cost": -0.025}
    assert terms.total == pytest.approx(sum(terms.weighted().values()))


def test_an_empty_window_counts_as_compliant_and_as_all_that_was_offered() -> None:
    terms = _meter().read(_stats(0, 0, due=[0, 0], met=[0, 0], delivered_tokens=0), 0.0, FULL)
    assert (terms.throughput_share, terms.slo_share, terms.cost_share, terms.quality) == (1.0, 1.0, 1.0, 1.0)


def test_tokens_are_weighed_by_the_quality_of_their_tenants() -> None:
    stats = _stats()
    stats.good_tokens = [400, 400, 0, 0]
    terms = _meter().read(stats, 0.0, (1.0, 0.5, 1.0, 1.0))
    assert terms.throughput_share == pytest.approx(0.6)
    assert terms.quality == pytest.approx(0.75)


def test_the_denominator_is_the_mean_offered_over_three_windows() -> None:
    meter = _meter()
    for offered in (9000, 300, 600):
        meter.read(_stats(offered, 0), 0.0, FULL)
    terms = meter.read(_stats(900, 300), 0.0, FULL)
    assert terms.throughput_share == pytest.approx(300 / 600)


def test_delivering_two_windows_worth_at_once_earns_less_than_delivering_evenly() -> None:
    even, lumpy = _meter(), _meter()
    evenly = sum(even.read(_stats(1000, 1000), 0.0, FULL).throughput for _ in range(10))
    in_lumps = sum(lumpy.read(_stats(1000, 2000 * (i % 2)), 0.0, FULL).throughput for i in range(10))
    assert in_lumps == pytest.approx(evenly / 2)


def test_a_priority_request_counts_three_times() -> None:
    terms = _meter().read(_stats(due=[1, 3], met=[0, 3]), 0.0, FULL)
    assert terms.slo_share == pytest.approx(0.5)


def test_dumping_failures_into_one_window_saves_at_most_the_other_windows_slo_term() -> None:
    """Ten windows with a tenth of failures each, against all failures in one: throughput is the same."""
    even, dumped = _meter(), _meter()
    a = sum(even.read(_stats(1000, 900, due=[0, 10], met=[0, 9]), 0.0, FULL).throughput for _ in range(10))
    b = sum(dumped.read(_stats(1000, 1000 if i else 0), 0.0, FULL).throughput for i in range(10))
    assert a == pytest.approx(b)


def test_cost_is_relative_to_the_reference_and_at_most_one() -> None:
    assert _meter().read(_stats(delivered_tokens=5_000), 0.0, FULL).cost_share == pytest.approx(1.0)
    assert _meter().read(_stats(delivered_tokens=20_000), 0.0, FULL).cost_share == pytest.approx(0.25)
    assert _meter().read(_stats(delivered_tokens=10), 0.0, FULL).cost_share == 1.0


def test_a_forked_meter_goes_on_alone() -> None:
    meter = _meter()
    meter.read(_stats(5000), 0.0, FULL)
    fork = meter.fork()
    assert fork.read(_stats(), 0.0, FULL) == meter.read(_stats(), 0.0, FULL)
    meter.read(_stats(10**6), 0.0, FULL)
    assert fork.read(_stats(), 0.0, FULL) != meter.read(_stats(), 0.0, FULL)


@given(
    offered=st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    good=st.integers(0, 10**7),
    due=st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
    share=st.floats(0, 1),
    delivered=st.integers(0, 10**7),
    pressure=st.floats(0, 1),
    quality=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_the_reward_stays_within_minus_one_and_one(
    *,
    offered: list[int],
    good: int,
    due: tuple[int, int],
    share: float,
    delivered: int,
    pressure: float,
    quality: tuple[float, ...],
) -> None:
    meter = _meter()
    met = [int(due[0] * share), int(due[1] * share)]
    for tokens in offered:
        stats = _stats(tokens, good, due=list(due), met=met, delivered_tokens=delivered)
        terms = meter.read(stats, pressure, quality)
        assert -1.0 <= terms.total <= 1.0
        assert all(0.0 <= value <= 1.0 for value in terms.shares().values())
