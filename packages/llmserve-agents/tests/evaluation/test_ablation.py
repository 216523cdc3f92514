"""What knobs are worth: constants chosen on training seeds, values measured on test seeds, for any agent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmserve_agents.evaluation.ablation import FrozenKnob, ablate, agent_evaluator
from llmserve_agents.evaluation.ablation_report import AblationReport
from llmserve_agents.evaluation.roster import parse_agent
from llmserve_agents.executors import SerialExecutor
from llmserve_agents.learning.agent import PPOPolicy
from llmserve_agents.policy import RandomPolicy
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ACTION_FIELDS, ServeAction
from llmserve_sim.tasks import load_task

TASK = "bursty_workload"
WORTH = {96: 0.2, 128: 0.3}


def invented(_task_id: str, seeds: tuple[int, ...], knob: str | None, value: Any) -> Any:
    """An agent whose batch cap is worth a known amount, and whose other knobs are worth nothing."""
    seen = np.array([seed % 7 for seed in seeds]) / 100.0  # what all have in common
    if knob is None:
        return seen + 0.35
    return seen + (WORTH.get(value, 0.1) if knob == "batch_cap" else 0.35)


@pytest.fixture(scope="module")
def report() -> AblationReport:
    """The invented agent's knobs."""
    return ablate(invented, [TASK], 10, name="invented", search_seeds=3, executor=SerialExecutor(), resamples=200)


def test_the_best_constant_is_found_and_values_are_paired_differences(report: AblationReport) -> None:
    row = report.value(TASK, "batch_cap")
    assert (row.best, row.default) == (128, 32)
    assert row.level.value == pytest.approx(0.3 - 0.1)
    assert row.dynamic.value == pytest.approx(0.35 - 0.3)
    # What episodes have in common cancels: the difference is the same in each.
    assert row.dynamic.low == pytest.approx(row.dynamic.high)
    assert row.candidates["96"] < row.candidates["128"]


def test_a_knob_without_worth_has_none(report: AblationReport) -> None:
    row = report.value(TASK, "speculation_depth")
    assert row.level.value == row.dynamic.value == 0.0
    assert {value.knob for value in report.values} == set(ACTION_FIELDS)


def test_constants_are_chosen_on_training_seeds_and_measured_on_test_seeds(report: AblationReport) -> None:
    ranges = load_task(TASK).seeds
    assert all(seed in ranges.train for seed in report.search_seeds[TASK])
    assert all(seed in ranges.test for seed in report.seeds[TASK])
    assert (len(report.search_seeds[TASK]), len(report.seeds[TASK])) == (3, 10)


def test_a_report_survives_json(report: AblationReport) -> None:
    assert AblationReport.model_validate_json(report.model_dump_json()) == report


def test_a_function_needs_a_name() -> None:
    with pytest.raises(InvalidInputError) as refused:
        ablate(invented, [TASK])
    assert refused.value.field == "name"


def test_a_frozen_knob_keeps_its_value_and_leaves_the_others_to_the_agent() -> None:
    env = ServingEnv(TASK)
    frozen, free = FrozenKnob(RandomPolicy(), "batch_cap", 96), RandomPolicy()
    seen = env.reset(1)
    for agent in (frozen, free):
        agent.reset(TASK, 1)
    for _ in range(5):
        held, own = frozen.act(seen), free.act(seen)
        assert held == own.model_copy(update={"batch_cap": 96})


def test_an_agents_values_are_the_mean_rewards_of_its_episodes() -> None:
    values = agent_evaluator(parse_agent('static:{"batch_cap": 64}'))
    env = ServingEnv(TASK)
    env.reset(2_000_000)
    while not env.step(ServeAction(batch_cap=64, quantization_tier="INT8")).done:
        pass
    found = values(TASK, (2_000_000,), "quantization_tier", "INT8")
    assert found.tolist() == [env.state().total_reward / 120]


@pytest.mark.parametrize(("knob", "value"), [(None, None), ("batch_cap", 32), ("prefill_decode_split", True)])
def test_the_trained_policys_episodes_side_by_side_are_those_one_by_one(knob: str | None, value: Any) -> None:
    seeds = (2_000_000, 2_000_001)
    agent = PPOPolicy() if knob is None else FrozenKnob(PPOPolicy(), knob, value)
    env, alone = ServingEnv(TASK), []
    for seed in seeds:
        observation = env.reset(seed)
        agent.reset(TASK, seed)
        while not observation.done:
            observation = env.step(agent.act(observation))
        alone.append(env.state().total_reward / env.episode_length)
    assert agent_evaluator(parse_agent("ppo"))(TASK, seeds, knob, value) == pytest.approx(alone, abs=1e-12)


def test_an_agent_that_never_moves_loses_nothing_by_any_frozen_knob() -> None:
    """Its other knobs stay where they are, so the best constant of each is at least its own."""
    static = 'static:{"batch_cap": 64, "quantization_tier": "INT8", "kv_budget_fraction": 0.4}'
    found = ablate(static, [TASK], 1, search_seeds=1, executor=SerialExecutor(), resamples=100)
    for row in found.values:
        own = {"batch_cap": 64, "quantization_tier": "INT8", "kv_budget_fraction": 0.4}.get(row.knob, row.default)
        assert row.candidates[str(row.best)] >= row.candidates[str(own)]
        if row.best == own:
            assert row.dynamic.value == 0.0
    assert found.command is not None
    assert found.command.endswith("--episodes 1 --search-seeds 1")


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError) as refused:
        ablate("heuristic", [TASK], search_seeds=0)
    assert refused.value.field == "search_seeds"
