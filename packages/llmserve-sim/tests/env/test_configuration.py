"""An action becomes the engine plan that the memory model, the co-tenant and the configuration before it call for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim.arithmetic import ARRAYS, SCALAR
from llmserve_sim.bench.case import task_case
from llmserve_sim.configuration import Configurator, EpisodeConditions, Setting, tokens_per_step
from llmserve_sim.engine import KernelEngine, WindowPlan
from llmserve_sim.engine.interface import PS_PER_S
from llmserve_sim.engine.kernel.layout import R_READY, REPLICAS
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import get_deployment
from llmserve_sim.performance import speculation
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, list_tasks, load_task
from llmserve_sim.workload.scenario import generate

TASK = load_task("static_workload")


def _apply(*actions: dict[str, Any]) -> list[Setting]:
    configurator = Configurator.build(TASK, None)
    conditions = EpisodeConditions.of(generate(TASK, 3))
    settings: list[Setting] = []
    for window, fields in enumerate(actions):
        before = settings[-1] if settings else None
        settings.append(configurator.apply(ServeAction(**fields), before, conditions, window))
    return settings


@given(st.lists(st.tuples(*[st.floats(0.05, 0.95)] * 4), min_size=1, max_size=4))
def test_tokens_per_step_are_those_of_the_scalar_model(acceptance: list[tuple[float, ...]]) -> None:
    fixed = tokens_per_step(np.array(acceptance))
    assert [tuple(map(tuple, row)) for row in fixed.tolist()] == [
        speculation.tokens_per_step(row) for row in acceptance
    ]


def test_the_first_configuration_is_loaded_without_a_stall_or_a_resize() -> None:
    (first,) = _apply({"quantization_tier": "INT4", "kv_budget_fraction": 0.3})
    assert (first.plan.resized, first.stall_ps) == (False, 0)


def test_only_the_agents_own_wish_resizes_the_pool_and_the_neighbour_takes_its_share() -> None:
    same = {"kv_budget_fraction": 1.0}
    settings = _apply(*[same] * 12, {"kv_budget_fraction": 0.5})
    assert [s.plan.resized for s in settings] == [False] * 12 + [True]
    pools = {s.plan.pool_blocks for s in settings[:12]}
    assert len(pools) > 1, "the co-tenant's wave moves the pool"
    assert all(s.plan.pool_blocks <= s.wanted_blocks for s in settings)


@pytest.mark.parametrize("task", list_tasks(), ids=lambda task: task.id)
def test_plans_made_without_checks_would_pass_them(task: Task) -> None:
    """Types, bounds and fields: such a plan equals the checked one."""
    case = task_case(task, task.seeds.validation.start)
    for plan in case.plans[::7]:
        checked = WindowPlan(**vars(plan))
        assert (checked, list(vars(checked))) == (plan, list(vars(plan)))
        assert all(kept is given for kept, given in zip(vars(checked).values(), vars(plan).values(), strict=True))


def test_a_swap_of_tiers_covers_the_resize_that_comes_with_it() -> None:
    _, swapped = _apply({}, {"quantization_tier": "INT8"})
    assert not swapped.plan.resized
    assert swapped.wanted_blocks > 0


def test_turning_speculation_on_reserves_memory_for_the_draft() -> None:
    off, on = _apply({}, {"speculation_depth": 3})
    assert on.plan.resized
    assert on.wanted_blocks < off.wanted_blocks
    assert on.facts.reserved_gb > off.facts.reserved_gb


def test_what_is_left_of_a_swap_shrinks_by_a_window_at_a_time() -> None:
    configurator = Configurator.build(TASK.model_copy(update={"window_s": 1.0}), None)
    conditions = EpisodeConditions.of(generate(configurator.task, 3))
    setting = configurator.apply(ServeAction(), None, conditions, 0)
    left = []
    for window in range(1, 7):
        setting = configurator.apply(ServeAction(quantization_tier="INT8"), setting, conditions, window)
        left.append(setting.stall_ps)
    swap = configurator.fleet.swap_ps[1]
    assert left == [max(0, swap - seconds * PS_PER_S) for seconds in range(1, 7)]
    assert setting.facts.stall_s == 0.0


def test_stalls_add_up_as_they_do_in_the_engine() -> None:
    env = ServingEnv(TASK.model_copy(update={"window_s": 1.0}), engine="python")
    env.start(3)
    for tier in ("FP16", "INT8", "INT4"):
        setting = env._prepare(ServeAction(quantization_tier=tier))
        env._run(setting)
    first, second = env._configurator.fleet.swap_ps[1:]
    assert setting.stall_ps == first + second - 2 * PS_PER_S
    episode = env._episode
    assert episode is not None
    assert isinstance(episode.engine, KernelEngine)
    assert episode.engine._row[REPLICAS + R_READY] - setting.plan.end_ps == setting.stall_ps


@given(
    swapped=st.booleans(),
    moved=st.booleans(),
    pool_changed=st.booleans(),
    stall_ps=st.integers(0, 10**13),
    swap_ps=st.integers(10**12, 10**13),
)
def test_a_transition_is_the_same_for_one_and_for_many(**case: Any) -> None:
    configurator = Configurator.build(TASK, None)
    one = configurator.transition(SCALAR, window_ps=5 * PS_PER_S, **case)
    many = configurator.transition(ARRAYS, window_ps=5 * PS_PER_S, **{k: np.array([v, v]) for k, v in case.items()})
    assert [tuple(map(int, pair)) for pair in zip(*many, strict=True)] == [tuple(map(int, one))] * 2


def test_quality_falls_with_the_tier_by_the_tenants_stake() -> None:
    settings = [_apply({"quantization_tier": tier})[0] for tier in ("FP16", "INT8", "INT4")]
    assert settings[0].quality == (1.0, 1.0, 1.0, 1.0)
    assert settings[1].quality[0] == pytest.approx(1.0 - 5.0 * 0.01)
    assert settings[2].quality[0] == pytest.approx(1.0 - 5.0 * 0.03)


def test_stakes_that_make_an_answer_worth_less_than_nothing_are_refused() -> None:
    scenario = generate(TASK, 3)
    with pytest.raises(InvalidInputError, match="quality_stake"):
        EpisodeConditions.of(replace(scenario, quality_stake=scenario.quality_stake * 100))


def test_another_deployment_has_another_digest_and_the_tasks_own_preset_has_not() -> None:
    own = Configurator.build(TASK, None)
    assert Configurator.build(TASK, "a100-llama3.1-8b").digest == own.digest == TASK.digest
    assert Configurator.build(TASK, "rtx4090-llama3.1-8b").digest != own.digest
    custom = replace(get_deployment("a100-llama3.1-8b"), replicas=4)
    assert Configurator.build(TASK, custom).digest != own.digest


def test_a_pool_never_falls_below_what_the_largest_request_needs() -> None:
    for setting in _apply(*[{"kv_budget_fraction": 0.1}] * 30):
        assert setting.plan.pool_blocks >= Configurator.build(TASK, None).fleet.min_pool_blocks
        assert 0.0 <= setting.facts.memory_pressure <= 1.0
