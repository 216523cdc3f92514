"""The heuristic's rules, each as a sentence, and the rules together."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise
from typing import Any

import pytest

from llmserve_agents.heuristic import (
    HeuristicPolicy,
    Thresholds,
    batch_cap,
    kv_budget,
    speculation_depth,
    weight_tier,
)
from llmserve_agents.heuristic_scan import CANDIDATES, mean_rewards, scan
from llmserve_agents.policy import AGENTS, make_agent
from llmserve_sim.env import ServingEnv
from llmserve_sim.metrics import Measurement
from llmserve_sim.observation import to_observation
from llmserve_sim.schema import ServeAction, ServeObservation
from llmserve_sim.tasks import list_tasks

LIMITS = Thresholds()


def seen(**numbers: Any) -> ServeObservation:
    """A window in which nothing is wrong, but for `numbers`."""
    calm = {"step_index": 5, "p50_itl_ms": 10.0, "slo_compliance_rate": 1.0}
    return to_observation(Measurement(**(calm | numbers)), None, task_id="static_workload", done=False)


def test_orca_the_cap_grows_with_the_queue_while_decoding_is_quick() -> None:
    assert batch_cap(48, seen(queue_depth=50), LIMITS) == 72


def test_orca_the_cap_stays_when_a_queue_meets_decoding_that_could_not_bear_more() -> None:
    edge = (LIMITS.itl_quick_ms + LIMITS.itl_slow_ms) / 2
    assert batch_cap(64, seen(queue_depth=50, p50_itl_ms=edge), LIMITS) == 64


def test_orca_the_cap_shrinks_when_tokens_come_too_slowly() -> None:
    assert batch_cap(64, seen(p50_itl_ms=40.0), LIMITS) == 48
    assert batch_cap(64, seen(p50_itl_ms=40.0, queue_depth=50), LIMITS) == 48


def test_orca_the_cap_shrinks_when_objectives_slip_and_no_queue_is_to_blame() -> None:
    assert batch_cap(64, seen(slo_compliance_rate=0.5), LIMITS) == 48
    assert batch_cap(64, seen(slo_compliance_rate=0.5, queue_depth=50), LIMITS) == 96


def test_orca_the_cap_returns_to_rest_from_both_sides() -> None:
    cap = 200
    for _ in range(20):
        cap = batch_cap(cap, seen(), LIMITS)
    assert cap == LIMITS.cap_start
    cap = LIMITS.cap_low
    for _ in range(20):
        cap = batch_cap(cap, seen(), LIMITS)
    assert cap == LIMITS.cap_start


def test_orca_the_cap_keeps_within_the_schema_and_above_its_floor() -> None:
    assert batch_cap(500, seen(queue_depth=50), LIMITS) == 512
    assert batch_cap(LIMITS.cap_low, seen(p50_itl_ms=99.0), LIMITS) == LIMITS.cap_low


def test_vllm_a_preemption_backs_the_batch_off_and_an_eviction_by_the_neighbour_does_not() -> None:
    assert batch_cap(64, seen(eviction_events=3), LIMITS) == 48
    assert batch_cap(48, seen(eviction_events=3, forced_evictions=3), LIMITS) == 48


def test_vllm_the_pool_takes_the_memory_that_weights_and_neighbour_leave_below_the_cap() -> None:
    # 80 GB usable: 10 reserved, 70 free; 0.9 x 80 - 10 - 27 leaves 35 GB, half of what is free.
    window = seen(cotenant_gb=27.0, kv_pool_gb=14.0, kv_cache_occupancy=0.1, gpu_memory_used_gb=11.4)
    assert kv_budget(0.2, window, 70.0, replace(LIMITS, spare_gb=0.0)) == 0.5


def test_vllm_the_pool_gives_memory_back_as_the_neighbour_grows() -> None:
    budgets = [
        kv_budget(
            1.0, seen(cotenant_gb=c, kv_pool_gb=30.0, kv_cache_occupancy=0.1, gpu_memory_used_gb=13.0), 70.0, LIMITS
        )
        for c in (20.0, 40.0, 60.0)
    ]
    assert budgets == sorted(budgets, reverse=True)
    assert len(set(budgets)) == 3


def test_vllm_the_pool_is_not_lowered_below_a_reserve_over_the_blocks_in_use() -> None:
    window = seen(cotenant_gb=70.0, kv_pool_gb=20.0, kv_cache_occupancy=0.5, gpu_memory_used_gb=20.0)
    assert kv_budget(1.0, window, 70.0, LIMITS) == round(LIMITS.kv_reserve * 10.0 / 70.0, 3)


def test_vllm_a_small_change_is_not_worth_a_resize() -> None:
    window = seen(cotenant_gb=27.0, kv_pool_gb=14.0, kv_cache_occupancy=0.1, gpu_memory_used_gb=11.4)
    near = 0.5 - LIMITS.kv_step / 2
    assert kv_budget(near, window, 70.0, LIMITS) == near


@pytest.mark.parametrize("neighbour", [0.0, 200.0])
def test_vllm_the_budget_keeps_within_the_schema(neighbour: float) -> None:
    window = seen(cotenant_gb=neighbour, kv_pool_gb=10.0, kv_cache_occupancy=0.01, gpu_memory_used_gb=10.1)
    assert 0.1 <= kv_budget(0.5, window, 40.0, LIMITS) <= 1.0


def test_vllm_without_a_report_of_memory_the_budget_backs_off_after_evictions_and_grows_when_full() -> None:
    blind = ServeObservation.model_validate(seen().model_dump() | {"metadata": {}})
    assert kv_budget(0.5, blind.model_copy(update={"eviction_events": 2}), 0.0, LIMITS) == 0.4
    assert kv_budget(0.5, blind.model_copy(update={"kv_cache_occupancy": 0.95}), 0.0, LIMITS) == 0.6
    assert kv_budget(0.5, blind, 0.0, LIMITS) == 0.5
    assert kv_budget(0.1, blind.model_copy(update={"eviction_events": 2}), 0.0, LIMITS) == 0.1


def test_decima_light_demand_is_served_in_full_precision_and_the_way_back_has_a_gap() -> None:
    calm, gap = LIMITS.demand_calm_tps, LIMITS.demand_hysteresis
    assert weight_tier("INT8", calm * 0.9, LIMITS) == "FP16"
    assert weight_tier("FP16", calm * (1 + gap) / 2, LIMITS) == "FP16"
    assert weight_tier("INT8", calm * (1 + gap) / 2, LIMITS) == "INT8"
    assert weight_tier("FP16", calm * gap * 1.1, LIMITS) == "INT8"


def test_decima_drafts_are_as_deep_as_their_acceptance_rewards() -> None:
    depths = [speculation_depth(seen(spec_acceptance_rate=a), 0, LIMITS) for a in (0.2, 0.6, 0.95)]
    assert depths == [0, LIMITS.depth_shallow, LIMITS.depth_deep]


def test_decima_drafts_may_be_deeper_while_few_requests_run() -> None:
    limits = replace(LIMITS, few_requests=16)
    few = speculation_depth(seen(spec_acceptance_rate=0.6, active_requests=4), 0, limits)
    assert few == speculation_depth(seen(spec_acceptance_rate=0.6, active_requests=40), 0, limits) + 1


def test_decima_after_some_windows_without_a_draft_one_window_measures_the_acceptance() -> None:
    policy = HeuristicPolicy()
    depths = [policy.act(seen(spec_acceptance_rate=0.2, step_index=i + 1)).speculation_depth for i in range(25)]
    drafted = [i for i, depth in enumerate(depths) if depth]
    gaps = {b - a for a, b in pairwise(drafted)}
    assert gaps == {LIMITS.probe_windows + 1}
    assert {depths[i] for i in drafted} == {LIMITS.depth_probe}


def test_a_burst_is_over_before_the_tier_would_change() -> None:
    """A swap costs seconds, so the demand is smoothed: three windows of calm in busy traffic change nothing."""
    policy = HeuristicPolicy()
    busy = {"request_arrival_rate": 20.0, "mean_prompt_length": 500.0, "throughput_tps": 4000.0}
    for i in range(40):
        policy.act(seen(step_index=i + 1, **busy))
    assert {policy.act(seen(step_index=41 + i)).quantization_tier for i in range(3)} == {"INT8"}
    for i in range(200):
        last = policy.act(seen(step_index=50 + i))
    assert last.quantization_tier == "FP16"


def test_the_first_action_rests_on_nothing_but_the_thresholds() -> None:
    first = HeuristicPolicy().act(seen(step_index=0, queue_depth=100, p50_itl_ms=99.0))
    assert first == ServeAction(
        batch_cap=LIMITS.cap_start,
        kv_budget_fraction=LIMITS.kv_start,
        speculation_depth=LIMITS.depth_shallow,
        quantization_tier="INT8",
        priority_routing=True,
    )


def test_thresholds_are_frozen_and_every_scanned_one_exists() -> None:
    with pytest.raises(FrozenInstanceError):
        LIMITS.cap_start = 1  # type: ignore[misc]
    assert set(CANDIDATES) <= {item.name for item in fields(Thresholds)}


def test_a_reset_policy_repeats_itself() -> None:
    env, policy = ServingEnv("bursty_workload"), HeuristicPolicy()
    runs = []
    for _ in range(2):
        observation = env.reset(seed=3)
        policy.reset("bursty_workload", 3)
        actions = []
        while not observation.done:
            actions.append(policy.act(observation))
            observation = env.step(actions[-1])
        runs.append(actions)
    assert runs[0] == runs[1]


def test_it_drives_every_task_of_the_catalogue() -> None:
    env, policy = ServingEnv(), HeuristicPolicy()
    for task in list_tasks():
        observation = env.reset(5, task.id)
        policy.reset(task.id, 5)
        for _ in range(30):
            observation = env.step(policy.act(observation))
        assert observation.step_index == 30


def test_it_beats_random_static_and_threshold_on_all_three_tasks() -> None:
    """On validation seeds: the thresholds were chosen on training seeds, and claims are made on test seeds."""
    tasks = {task.id: task for task in list_tasks(extended=False)}
    seeds = {name: range(task.seeds.validation.start, task.seeds.validation.start + 2) for name, task in tasks.items()}
    means = {name: mean_rewards(make_agent(name), list(tasks), seeds) for name in AGENTS}
    for task in tasks:
        others = max(means[name][task] for name in AGENTS if name != "heuristic")
        assert means["heuristic"][task] > others


def test_the_scan_keeps_what_is_best_on_its_seeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve_agents.heuristic_scan.CANDIDATES", {"cap_start": (4, 48)})
    found = scan(["static_workload"], {"static_workload": [1]}, passes=1)
    assert found.cap_start == 48
    assert "cap_start = 4" not in capsys.readouterr().out
