"""The heuristic's rules, each as a sentence, and the rules together."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, fields, replace
from itertools import pairwise
from typing import Any

import pytest

from llmserve_agents.policy import make_agent
from llmserve_agents.rules.evaluate import evaluate_thresholds
from llmserve_agents.rules.heuristic import (
    HeuristicPolicy,
    Rules,
    Thresholds,
    batch_cap,
    kv_budget,
    light_demand,
    measurement_of,
    prefill_decode_split,
    priority_routing,
    speculation_depth,
    tight_memory,
    weight_tier,
)
from llmserve_agents.rules.scan import CANDIDATES, scan
from llmserve_agents.rules.thresholds import (
    THRESHOLD_BOUNDS,
    centered_thresholds,
    constant_thresholds,
    stack_thresholds,
    validate_thresholds,
)
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.metrics import Measurement
from llmserve_sim.observation import to_observation
from llmserve_sim.schema import ServeAction, ServeObservation
from llmserve_sim.tasks import Task, list_tasks, load_task

LIMITS = Thresholds()


def seen(**numbers: Any) -> Measurement:
    """A window in which nothing is wrong, but for `numbers`."""
    calm = {"step_index": 5, "p50_itl_ms": 10.0, "slo_compliance_rate": 1.0}
    return Measurement(**(calm | numbers))


def observed(**numbers: Any) -> ServeObservation:
    """The same as an agent sees it."""
    return to_observation(seen(**numbers), None, task_id="static_workload", done=False)


def mean_reward(policy: Any, task: Task, seeds: range) -> float:
    """What a policy earns per window, one episode after the other."""
    env, total = ServingEnv(task), 0.0
    for seed in seeds:
        observation = env.reset(seed)
        policy.reset(task.id, seed)
        while not observation.done:
            observation = env.step(policy.act(observation))
        total += env.state().total_reward / env.episode_length
    return total / len(seeds)


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
    cap = 200.0
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
    wide = replace(LIMITS, kv_low=0.3, kv_high=0.6)
    windows = (
        seen(cotenant_gb=held, kv_pool_gb=30.0, kv_cache_occupancy=0.1, gpu_memory_used_gb=13.0)
        for held in (20.0, 30.0, 60.0)
    )
    budgets = [float(kv_budget(1.0, window, 70.0, wide)) for window in windows]
    assert budgets == sorted(budgets, reverse=True)
    assert len(set(budgets)) == 3


def test_vllm_the_pool_is_not_lowered_below_a_reserve_over_the_blocks_in_use() -> None:
    window = seen(cotenant_gb=70.0, kv_pool_gb=20.0, kv_cache_occupancy=0.5, gpu_memory_used_gb=20.0)
    assert kv_budget(1.0, window, 70.0, replace(LIMITS, kv_low=0.1, kv_reserve=3.0)) == round(30.0 / 70.0, 3)


def test_vllm_the_pool_keeps_within_its_two_limits_unless_the_blocks_in_use_need_more() -> None:
    limits = replace(LIMITS, kv_low=0.3, kv_high=0.5, kv_step=0.05, kv_reserve=2.0)
    plenty = seen(cotenant_gb=0.0, kv_pool_gb=14.0, kv_cache_occupancy=0.1, gpu_memory_used_gb=11.4)
    nothing = seen(cotenant_gb=70.0, kv_pool_gb=14.0, kv_cache_occupancy=0.1, gpu_memory_used_gb=11.4)
    full = seen(cotenant_gb=70.0, kv_pool_gb=28.0, kv_cache_occupancy=1.0, gpu_memory_used_gb=38.0)
    assert [float(kv_budget(0.2, window, 70.0, limits)) for window in (plenty, nothing, full)] == [0.5, 0.3, 0.8]


def test_vllm_a_small_change_is_not_worth_a_resize() -> None:
    window = seen(cotenant_gb=27.0, kv_pool_gb=14.0, kv_cache_occupancy=0.1, gpu_memory_used_gb=11.4)
    near = 0.5 - LIMITS.kv_step / 2
    assert kv_budget(near, window, 70.0, LIMITS) == near


@pytest.mark.parametrize("neighbour", [0.0, 200.0])
def test_vllm_the_budget_keeps_within_the_schema(neighbour: float) -> None:
    window = seen(cotenant_gb=neighbour, kv_pool_gb=10.0, kv_cache_occupancy=0.01, gpu_memory_used_gb=10.1)
    assert 0.1 <= kv_budget(0.5, window, 40.0, LIMITS) <= 1.0


def test_vllm_without_a_report_of_memory_the_budget_backs_off_after_evictions_and_grows_when_full() -> None:
    def blind(kv: float, **numbers: Any) -> float:
        window = measurement_of(observed(**numbers).model_copy(update={"metadata": {}}))
        return float(kv_budget(kv, window, 0.0, LIMITS)[0])

    assert blind(0.5, eviction_events=2) == 0.4
    assert blind(0.5, kv_cache_occupancy=0.95) == 0.6
    assert blind(0.5) == 0.5
    assert blind(0.1, eviction_events=2) == 0.1


def test_decima_demand_is_light_below_its_threshold_and_the_way_back_has_a_gap() -> None:
    calm, gap = LIMITS.demand_calm_tps, LIMITS.demand_hysteresis
    between = calm * (1 + gap) / 2
    assert light_demand(False, calm * 0.9, LIMITS)
    assert light_demand(True, between, LIMITS)
    assert not light_demand(False, between, LIMITS)
    assert not light_demand(True, calm * gap * 1.1, LIMITS)


def test_decima_memory_is_tight_above_its_threshold_and_the_way_back_has_a_gap() -> None:
    limits = replace(LIMITS, neighbour_high_gb=50.0, neighbour_gap_gb=10.0)
    assert tight_memory(False, 51.0, limits)
    assert tight_memory(True, 45.0, limits)
    assert not tight_memory(False, 45.0, limits)
    assert not tight_memory(True, 39.0, limits)
    assert not tight_memory(False, float("nan"), limits)


def test_decima_tight_memory_chooses_the_tier_before_the_demand_does() -> None:
    limits = replace(LIMITS, tier_calm=0, tier_busy=1, tier_tight=2)
    tiers = [int(weight_tier(light, tight, limits)) for tight in (False, True) for light in (False, True)]
    assert tiers == [1, 0, 2, 2]


def test_decima_drafts_are_as_deep_as_their_acceptance_rewards() -> None:
    limits = replace(LIMITS, depth_shallow=2, depth_deep=4, acceptance_deep=0.8)
    depths = [int(speculation_depth(seen(spec_acceptance_rate=a), 0, limits)) for a in (0.2, 0.6, 0.95)]
    assert depths == [0, 2, 4]


def test_decima_drafts_may_be_deeper_while_few_requests_run_and_end_where_many_do() -> None:
    limits = replace(LIMITS, depth_shallow=2, acceptance_deep=1.01, few_requests=16, many_requests=64)
    depths = [int(speculation_depth(seen(spec_acceptance_rate=0.6, active_requests=n), 0, limits)) for n in (4, 40, 65)]
    assert depths == [3, 2, 0]


def test_decima_after_some_windows_without_a_draft_one_window_measures_the_acceptance() -> None:
    policy = HeuristicPolicy(replace(LIMITS, probe_windows=5, depth_probe=1))
    depths = [policy.act(observed(spec_acceptance_rate=0.2, step_index=i + 1)).speculation_depth for i in range(25)]
    drafted = [i for i, depth in enumerate(depths) if depth]
    assert {b - a for a, b in pairwise(drafted)} == {6}
    assert {depths[i] for i in drafted} == {1}


def test_decima_priority_goes_first_until_most_arrivals_have_it() -> None:
    limits = replace(LIMITS, priority_share_high=0.5)
    assert [bool(priority_routing(share, limits)) for share in (0.0, 0.5, 0.6)] == [True, True, False]
    assert not priority_routing(0.0, replace(LIMITS, priority_share_high=-0.1))


def test_decima_the_fleet_is_split_within_a_range_of_the_share_of_prompts() -> None:
    limits = replace(LIMITS, split_low=0.5, split_high=0.8)
    assert [bool(prefill_decode_split(share, limits)) for share in (0.4, 0.5, 0.8, 0.9)] == [False, True, True, False]


def test_a_burst_is_over_before_the_tier_would_change() -> None:
    """A swap costs seconds, so the demand is smoothed: three windows of calm in busy traffic change nothing."""
    policy = HeuristicPolicy(replace(LIMITS, tier_calm=0, tier_busy=1, demand_calm_tps=500.0, demand_smoothing=0.05))
    busy = {"request_arrival_rate": 20.0, "mean_prompt_length": 500.0, "throughput_tps": 4000.0}
    for i in range(40):
        policy.act(observed(step_index=i + 1, **busy))
    assert {policy.act(observed(step_index=41 + i)).quantization_tier for i in range(3)} == {"INT8"}
    for i in range(200):
        last = policy.act(observed(step_index=50 + i))
    assert last.quantization_tier == "FP16"


def test_the_first_action_rests_on_nothing_but_the_thresholds() -> None:
    first = HeuristicPolicy().act(observed(step_index=0, queue_depth=100, p50_itl_ms=99.0))
    assert first == ServeAction(
        batch_cap=int(LIMITS.cap_start),
        kv_budget_fraction=LIMITS.kv_start,
        speculation_depth=int(LIMITS.depth_shallow),
        quantization_tier="INT8",
        priority_routing=True,
    )


def test_thresholds_are_frozen_lie_within_their_bounds_and_every_scanned_one_exists() -> None:
    with pytest.raises(FrozenInstanceError):
        LIMITS.cap_start = 1  # type: ignore[misc]
    assert set(CANDIDATES) <= {item.name for item in fields(Thresholds)} == set(THRESHOLD_BOUNDS)
    assert validate_thresholds(asdict(LIMITS)) == LIMITS
    for name, values in CANDIDATES.items():
        for value in values:
            validate_thresholds(asdict(replace(LIMITS, **{name: value})))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"grow": 0.5}, "thresholds.grow"),
        ({"grow": True}, "thresholds.grow"),
        ({"grow": float("nan")}, "thresholds.grow"),
        ({"grow": "2"}, "thresholds.grow"),
        ({"invented": 1}, "thresholds"),
    ],
)
def test_thresholds_that_are_amiss_are_refused_by_name(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        validate_thresholds(asdict(LIMITS) | change)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "held",
    [
        ServeAction(batch_cap=64, kv_budget_fraction=0.325, speculation_depth=2, quantization_tier="INT8"),
        ServeAction(batch_cap=4, kv_budget_fraction=0.1, quantization_tier="INT4", priority_routing=True),
        ServeAction(batch_cap=512, speculation_depth=8, prefill_decode_split=True, priority_routing=True),
    ],
)
def test_rules_that_are_told_to_stand_still_hold_one_configuration(held: ServeAction) -> None:
    env, policy = ServingEnv("bursty_workload"), HeuristicPolicy(constant_thresholds(held))
    observation = env.reset(seed=4)
    for _ in range(40):
        action = policy.act(observation)
        assert action == held
        observation = env.step(action)
    assert validate_thresholds(asdict(constant_thresholds(held))) == constant_thresholds(held)
    assert HeuristicPolicy(centered_thresholds(held)).act(env.reset(seed=4)) == held


def test_many_episodes_at_once_earn_what_each_earns_alone() -> None:
    task = load_task("bursty_workload")
    seeds = range(11, 14)
    held = ServeAction(batch_cap=64, kv_budget_fraction=0.4, quantization_tier="INT8", priority_routing=True)
    many = [LIMITS, centered_thresholds(held), replace(LIMITS, tier_tight=2, neighbour_high_gb=40.0, split_low=0.5)]
    told: list[int] = []
    together = evaluate_thresholds(task, many, seeds, progress=told.append)
    assert sum(told) == together.size * task.windows
    for row, limits in zip(together, many, strict=True):
        assert row.mean() == pytest.approx(mean_reward(HeuristicPolicy(limits), task, seeds), abs=1e-12)


def test_rules_of_many_policies_keep_apart() -> None:
    limits = [replace(LIMITS, cap_start=cap) for cap in (32, 128)]
    assert [action.batch_cap for action in Rules(stack_thresholds(limits), 2).actions()] == [32, 128]


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
    for task in list_tasks(extended=False):
        seeds = range(task.seeds.validation.start, task.seeds.validation.start + 2)
        means = {
            name: mean_reward(make_agent(name), task, seeds) for name in ("random", "static", "threshold", "heuristic")
        }
        assert max(means, key=lambda name: means[name]) == "heuristic"


def test_the_scan_keeps_what_is_best_on_its_seeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve_agents.rules.scan.CANDIDATES", {"cap_start": (4, LIMITS.cap_start)})
    found = scan([load_task("static_workload")], {"static_workload": [1]}, passes=1)
    assert found.cap_start == LIMITS.cap_start
    assert "cap_start = 4" not in capsys.readouterr().out
