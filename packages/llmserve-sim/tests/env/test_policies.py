"""The plain policies do what they say, from observations alone."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve_sim.env import ServingEnv
from llmserve_sim.metrics import Measurement
from llmserve_sim.observation import to_observation
from llmserve_sim.policies import POLICIES, RandomPolicy, StaticPolicy, ThresholdPolicy, constrain, make_policy
from llmserve_sim.schema import ServeAction, ServeObservation


def _seen(**numbers: Any) -> ServeObservation:
    return to_observation(Measurement(**numbers), None, task_id="static_workload", done=False)


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_runs_and_repeats_itself_after_a_reset(name: str) -> None:
    env, policy = ServingEnv(), make_policy(name)
    runs = []
    for _ in range(2):
        observation = env.reset(seed=4)
        policy.reset(env.task.id, 4)
        actions = []
        for _ in range(5):
            actions.append(policy.act(observation))
            observation = env.step(actions[-1])
        runs.append(actions)
    assert runs[0] == runs[1]


def test_random_draws_differ_from_seed_to_seed() -> None:
    policy = RandomPolicy()
    draws = []
    for seed in (1, 2):
        policy.reset("static_workload", seed)
        draws.append([policy.act(_seen()) for _ in range(4)])
    assert draws[0] != draws[1]


def test_the_default_static_policy_is_a_vllm_like_deployment() -> None:
    assert StaticPolicy().act(_seen()) == ServeAction(batch_cap=256, kv_budget_fraction=0.9)


def test_the_threshold_policy_grows_the_cap_with_the_queue_and_shrinks_it_when_decoding_is_slow() -> None:
    policy = ThresholdPolicy()
    caps = [policy.act(_seen(queue_depth=50)).batch_cap for _ in range(4)]
    assert caps == [256, 512, 512, 512]
    assert policy.act(_seen(queue_depth=50, p50_itl_ms=40.0)).batch_cap == 384


def test_the_threshold_policy_backs_off_after_evictions_and_takes_spare_memory_when_full() -> None:
    policy = ThresholdPolicy()
    assert policy.act(_seen(eviction_events=3)).kv_budget_fraction == 0.6
    assert policy.act(_seen(kv_cache_occupancy=0.95)).kv_budget_fraction == 0.7
    for _ in range(9):
        last = policy.act(_seen(eviction_events=1))
    assert last.kv_budget_fraction == 0.2


def test_the_threshold_policy_drafts_deeper_the_fewer_requests_run() -> None:
    policy = ThresholdPolicy()
    assert [policy.act(_seen(active_requests=n)).speculation_depth for n in (4, 30, 100)] == [4, 2, 0]


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_policy_plays_on_a_single_replica_once_it_is_told(name: str) -> None:
    env, policy = ServingEnv(deployment="rtx4090-llama3.1-8b"), make_policy(name)
    observation = env.reset(seed=4)
    policy.reset(env.task.id, 4)
    constrain(policy, can_split=env.can_split)
    for _ in range(40):
        observation = env.step(policy.act(observation))


def test_the_random_policy_draws_the_same_stream_on_both_deployments_but_for_the_split() -> None:
    whole, single = RandomPolicy(), RandomPolicy()
    for policy in (whole, single):
        policy.reset("static_workload", 1)
    constrain(single, can_split=False)
    pairs = [(whole.act(_seen()), single.act(_seen())) for _ in range(20)]
    assert any(action.prefill_decode_split for action, _ in pairs)
    assert all(action.model_copy(update={"prefill_decode_split": False}) == other for action, other in pairs)
