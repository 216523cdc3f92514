"""Each observed number means what the documentation says, and no window, however empty, yields NaN."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim.engine.interface import WindowStats
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.metrics import BASE, EXTENDED, Measurement, Meter, WindowFacts, encode, features, observation_names
from llmserve_sim.observation import to_measurement, to_observation, vector
from llmserve_sim.reward import RewardMeter
from llmserve_sim.schema import ServeObservation
from llmserve_sim.tasks.model import RewardWeights

MS = 10**9
WEIGHTS = RewardWeights(throughput=0.5, slo=0.4, memory=0.3, cost=0.05, cost_scale_usd_per_1k=0.001)
FACTS = WindowFacts(
    batch_cap=64,
    kv_budget_fraction=0.7,
    speculation_depth=4,
    tier=1,
    split=False,
    priority=True,
    reserved_gb=12.0,
    pool_gb=20.0,
    cotenant_gb=15.0,
    memory_pressure=0.1,
    stall_s=0.0,
)


def _meter() -> Meter:
    meter = Meter(window_s=5.0, episode_length=120, usd_per_s=0.001)
    meter.initial(15.0)
    return meter


def _empty() -> WindowStats:
    return WindowStats(pool_blocks=100)


def _busy() -> WindowStats:
    return replace(
        _empty(),
        arrivals=10,
        arrivals_priority=4,
        prompt_tokens=5120,
        due=[2, 8],
        met=[1, 7],
        good_tokens=[100, 200, 0, 0],
        delivered_tokens=1000,
        draft_fp=400,
        accepted_fp=300,
        preemptions=2,
        forced_evictions=3,
        abandoned=1,
        ttft_p50_ps=200 * MS,
        ttft_p99_ps=400 * MS,
        itl_p50_ps=10 * MS,
        queue_depth=5,
        queue=[1, 4],
        running=7,
        prefilling=2,
        used_blocks=25,
        cached_blocks=10,
        oldest_wait_ps=1500 * MS,
    )


def test_every_number_is_computed_as_documented() -> None:
    now = _meter().read(_busy(), FACTS)
    assert now == Measurement(
        queue_depth=5,
        active_requests=7,
        kv_cache_occupancy=0.25,
        mean_prompt_length=512.0,
        p50_ttft_ms=200.0,
        p99_ttft_ms=400.0,
        p50_itl_ms=10.0,
        throughput_tps=200.0,
        slo_compliance_rate=0.8,
        gpu_memory_used_gb=17.0,
        estimated_cost_per_1k=0.005,
        request_arrival_rate=2.0,
        spec_acceptance_rate=0.75,
        eviction_events=5,
        step_index=1,
        progress=1 / 120,
        queue_priority=1,
        queue_standard=4,
        oldest_wait_s=1.5,
        prefilling_requests=2,
        priority_arrival_rate=0.8,
        slo_compliance_priority=0.5,
        slo_compliance_standard=0.875,
        due_requests=10,
        abandoned_requests=1,
        rejected_requests=0,
        goodput_tps=60.0,
        forced_evictions=3,
        cotenant_gb=15.0,
        kv_pool_gb=20.0,
        prefix_cache_share=0.1,
        memory_pressure=0.1,
        stall_s=0.0,
        batch_cap=64,
        kv_budget_fraction=0.7,
        depth_share=0.5,
        tier_fp16=0,
        tier_int8=1,
        tier_int4=0,
        split=0,
        priority=1,
    )


def test_percentiles_and_ratios_of_an_empty_window_repeat_the_last() -> None:
    meter = _meter()
    busy = meter.read(_busy(), FACTS)
    for _ in range(3):
        empty = meter.read(_empty(), FACTS)
    repeated = ("mean_prompt_length", "p50_ttft_ms", "p99_ttft_ms", "p50_itl_ms", "estimated_cost_per_1k")
    for name in (*repeated, "spec_acceptance_rate"):
        assert getattr(empty, name) == getattr(busy, name)
    assert (empty.throughput_tps, empty.slo_compliance_rate, empty.step_index) == (0.0, 1.0, 4)


def test_before_any_window_the_repeated_numbers_are_zero() -> None:
    empty = _meter().read(_empty(), FACTS)
    assert (empty.p50_ttft_ms, empty.p99_ttft_ms, empty.p50_itl_ms) == (0.0, 0.0, 0.0)
    assert (empty.mean_prompt_length, empty.estimated_cost_per_1k, empty.spec_acceptance_rate) == (0.0, 0.0, 0.0)


def test_a_forked_meter_remembers_and_no_longer_shares() -> None:
    meter = _meter()
    meter.read(_busy(), FACTS)
    fork = meter.fork()
    assert fork.read(_empty(), FACTS) == meter.read(_empty(), FACTS)
    meter.read(_busy(), FACTS)
    assert fork.read(_empty(), FACTS).step_index == 3


@given(
    st.lists(
        st.builds(
            WindowStats,
            arrivals=st.integers(0, 10**6),
            prompt_tokens=st.integers(0, 10**9),
            delivered_tokens=st.integers(0, 10**9),
            draft_fp=st.integers(10**9, 10**12),
            accepted_fp=st.integers(0, 10**9),
            queue_depth=st.integers(0, 10**6),
            running=st.integers(0, 4096),
            used_blocks=st.integers(0, 1000),
            pool_blocks=st.integers(1000, 10**5),
            oldest_wait_ps=st.integers(0, 10**15),
        ),
        max_size=4,
    )
)
def test_vectors_are_finite_and_within_zero_and_one_whatever_happened(windows: list[WindowStats]) -> None:
    meter = _meter()
    measured = [meter.initial(15.0), *(meter.read(stats, FACTS) for stats in windows)]
    for now in measured:
        for kind in ("base", "extended"):
            values = encode(now, kind)
            assert len(values) == len(features(kind))
            assert all(math.isfinite(x) and 0.0 <= x <= 1.0 for x in values)


def test_the_extended_vector_begins_with_the_base_vector() -> None:
    now = _meter().read(_busy(), FACTS)
    assert EXTENDED[: len(BASE)] == BASE
    assert encode(now, "extended")[: len(BASE)] == encode(now, "base")
    assert observation_names("extended")[:3] == ("queue_depth", "active_requests", "kv_cache_occupancy")
    assert len(set(observation_names("extended"))) == len(EXTENDED)


def test_an_amount_at_its_scale_maps_to_one_half() -> None:
    now = replace(_meter().initial(15.0), queue_depth=64, p99_ttft_ms=4000.0)
    values = dict(zip(observation_names("base"), encode(now, "base"), strict=True))
    assert (values["queue_depth"], values["p99_ttft_ms"], values["slo_compliance_rate"]) == (0.5, 0.5, 1.0)


def test_an_unknown_kind_of_vector_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="observation: must be one of base, extended"):
        features("full")  # type: ignore[arg-type]


def test_an_observation_passes_its_own_schema_and_carries_the_whole_measurement() -> None:
    stats = _busy()
    now = _meter().read(stats, FACTS)
    terms = RewardMeter(WEIGHTS, 3.0, 0.005).read(stats, 0.1, (1.0, 1.0, 1.0, 1.0))
    observation = to_observation(now, terms, task_id="static_workload", done=False)
    again = ServeObservation.model_validate_json(observation.model_dump_json())
    assert again == observation
    assert asdict(to_measurement(again)) == asdict(now)
    assert vector(again, "extended") == encode(now, "extended")
    assert observation.reward == pytest.approx(sum(observation.metadata["reward_terms"].values()))


@pytest.mark.parametrize(
    ("metadata", "field"),
    [({}, "metadata.window"), ({"window": {}}, "metadata.window.progress"), ({"window": 3}, "metadata.window")],
)
def test_an_observation_without_the_extended_features_is_refused_by_name(
    metadata: dict[str, object], field: str
) -> None:
    observation = to_observation(Measurement(), None, task_id="t", done=False).model_copy(update={"metadata": metadata})
    with pytest.raises(InvalidInputError) as refused:
        vector(observation)
    assert refused.value.field == field


def test_the_base_features_say_what_the_schema_says() -> None:
    for row in BASE[:-1]:
        spec = ServeObservation.model_json_schema()["properties"][row.name]
        assert (row.unit, row.meaning) == (spec["unit"], spec["description"])
