"""The clairvoyant search: it never loses what it began with, leaves alone what is frozen, and counts every author."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmserve_agents import clairvoyant as module
from llmserve_agents.clairvoyant import Budget, clairvoyant, evaluate_plans, improve, nearest_indices
from llmserve_sim.batch import ServingBatch
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES, from_indices, to_indices
from llmserve_sim.policies import RandomPolicy
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, load_task

QUICK = Budget(passes=2, strides=(1, 3), holds=(1, 3), slow_holds=(4,), beyond=2)
SEEDS = [3_000_001, 3_000_002, 3_000_003]
SPLIT = list(ACTION_GRID).index("prefill_decode_split")
HELD = ServeAction(batch_cap=64, kv_budget_fraction=0.4, quantization_tier="INT8", priority_routing=True)


@pytest.fixture(scope="module")
def task() -> Task:
    """A task whose episodes are short."""
    return load_task(load_task("adversarial_multitenant").model_copy(update={"windows": 10}))


def held(action: ServeAction = HELD, windows: int = 10, seeds: int = 3) -> Any:
    return np.tile(np.array(to_indices(action), dtype=np.int64), (seeds, windows, 1))


def test_a_plans_value_is_what_an_environment_earns_with_it(task: Task) -> None:
    rng, env = np.random.default_rng(0), ServingEnv(task)
    plans = rng.integers(0, GRID_SIZES, (3, task.windows, len(GRID_SIZES)))
    plans[..., SPLIT] *= env.can_split
    values = evaluate_plans(task, SEEDS, plans)
    for seed, plan, value in zip(SEEDS, plans.tolist(), values, strict=True):
        env.start(seed)
        assert value == pytest.approx(np.mean([env.advance(from_indices(row)).reward for row in plan]), abs=1e-12)


def test_improving_never_falls_below_the_start_in_any_episode(task: Task) -> None:
    start = held()
    begun = evaluate_plans(task, SEEDS, start)
    plans, values = improve(task, SEEDS, start, QUICK)
    assert (values >= begun).all()
    assert values.mean() > begun.mean() + 1e-3
    np.testing.assert_array_equal(evaluate_plans(task, SEEDS, plans), values)
    assert (start == held()).all()


def test_more_passes_find_no_less_and_the_search_repeats_itself(task: Task) -> None:
    found = [
        improve(task, SEEDS, held(), Budget(passes=n, strides=(1,), holds=(2,), slow_holds=(4,))) for n in (0, 1, 3, 3)
    ]
    values = [value.mean() for _, value in found]
    assert values[0] <= values[1] <= values[2] == values[3]
    assert (found[2][0] == found[3][0]).all()
    assert (found[0][0] == held()).all()


@pytest.mark.parametrize("rows", [1, 30, 60])
def test_how_many_are_searched_side_by_side_changes_nothing(
    task: Task, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(passes=1, strides=(1,), holds=(2,), slow_holds=())
    plans, values = improve(task, SEEDS, held(), budget)
    monkeypatch.setattr(module, "MAX_BATCH_SIZE", rows)
    other, again = improve(task, SEEDS, held(), budget)
    assert (plans == other).all()
    assert (values == again).all()


@pytest.mark.parametrize("frozen", [(0,), (1, 3, 5), (2, SPLIT)])
def test_frozen_knobs_stay_as_they_are(task: Task, frozen: tuple[int, ...]) -> None:
    start = held()
    start[:, :5] = to_indices(HELD.model_copy(update={"speculation_depth": 2}))
    plans, _ = improve(task, SEEDS, start, QUICK, frozen=frozen)
    assert (plans[..., list(frozen)] == start[..., list(frozen)]).all()
    assert (plans != start).any()


def test_with_everything_frozen_or_no_strides_the_plans_are_those_given(task: Task) -> None:
    for budget, frozen in ((QUICK, range(6)), (Budget(strides=()), ()), (Budget(holds=(), slow_holds=()), ())):
        plans, values = improve(task, SEEDS, held(), budget, frozen=frozen)
        assert (plans == held()).all()
        np.testing.assert_array_equal(values, evaluate_plans(task, SEEDS, held()))


def test_long_strides_leave_small_knobs_alone(task: Task) -> None:
    plans, _ = improve(task, SEEDS, held(), Budget(passes=1, strides=(4,), holds=(1,), slow_holds=(4,)))
    assert (plans[..., 3:] == held()[..., 3:]).all()


def test_every_other_value_of_a_small_knob_is_tried_once() -> None:
    for options in module._moves(Budget(), (), can_split=True).values():
        knob, step = options.T
        for small in (index for index, size in enumerate(GRID_SIZES) if size <= 3 and index in knob):
            reached = (step[knob == small] % GRID_SIZES[small]).tolist()
            assert sorted(reached) == list(range(1, GRID_SIZES[small]))


def test_where_the_deployment_cannot_split_no_plan_does(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServingBatch, "can_split", False)
    plans, _ = improve(task, SEEDS[:1], held(seeds=1), QUICK)
    assert not plans[..., SPLIT].any()


def test_progress_is_told_window_by_window(task: Task) -> None:
    told: list[tuple[int, int, float]] = []
    budget = Budget(passes=1, strides=(1,), holds=(1,), slow_holds=())
    improve(task, SEEDS, held(), budget, progress=lambda *some: told.append(some))
    assert [(number, window) for number, window, _ in told] == [(0, window) for window in range(task.windows)]


def author(task: Task, policy: Any) -> tuple[Any, Any]:
    """What a policy did on the seeds, and earned."""
    env, plans, values = ServingEnv(task), [], []
    for seed in SEEDS:
        observation, actions = env.reset(seed), []
        policy.reset(task.id, seed)
        while not observation.done:
            actions.append(policy.act(observation))
            observation = env.step(actions[-1])
        plans.append(nearest_indices(actions))
        values.append(env.state().total_reward / task.windows)
    return np.stack(plans), np.array(values)


def test_the_bound_is_below_no_author_in_any_episode(task: Task) -> None:
    authors = [author(task, RandomPolicy()), (held(), evaluate_plans(task, SEEDS, held()))]
    found = clairvoyant(task, SEEDS, authors, Budget(passes=1, strides=(1,), holds=(1,), slow_holds=()))
    for _, earned in authors:
        assert (found.values >= earned - 1e-12).all()
    assert found.plans.shape == (3, task.windows, 6)


def test_an_author_between_the_grids_points_counts_with_what_it_earned(task: Task) -> None:
    none = Budget(passes=0)
    found = clairvoyant(task, SEEDS, [(held(), np.array([9.0, 0.0, 0.0]))], none)
    assert found.values[0] == 9.0
    np.testing.assert_array_equal(found.values[1:], evaluate_plans(task, SEEDS, held())[1:])


def test_each_episode_begins_at_the_best_of_its_starts(task: Task) -> None:
    other = held(HELD.model_copy(update={"quantization_tier": "INT4", "batch_cap": 256}))
    starts = [(plans, evaluate_plans(task, SEEDS, plans)) for plans in (held(), other)]
    found = clairvoyant(task, SEEDS, starts, Budget(passes=0))
    np.testing.assert_array_equal(found.values, np.maximum(starts[0][1], starts[1][1]))
    np.testing.assert_array_equal(evaluate_plans(task, SEEDS, found.plans), found.values)


def test_a_search_from_nothing_is_refused(task: Task) -> None:
    with pytest.raises(InvalidInputError, match="starts: must be at least one plan"):
        clairvoyant(task, SEEDS, [])


def test_an_action_is_put_on_the_nearest_point_of_the_grid() -> None:
    rng = np.random.default_rng(0)
    actions = [
        ServeAction(
            batch_cap=int(rng.integers(1, 513)),
            kv_budget_fraction=float(rng.uniform(0.1, 1.0)),
            speculation_depth=int(rng.integers(0, 9)),
            quantization_tier=("FP16", "INT8", "INT4")[i % 3],
            prefill_decode_split=bool(i % 2),
            priority_routing=bool(i % 5),
        )
        for i in range(60)
    ]
    for action, row in zip(actions, nearest_indices(actions).tolist(), strict=True):
        point = from_indices(row)
        for name in ("batch_cap", "kv_budget_fraction"):
            distance = abs(getattr(point, name) - getattr(action, name))
            assert all(distance <= abs(choice - getattr(action, name)) for choice in ACTION_GRID[name])
        for name in ("speculation_depth", "quantization_tier", "prefill_decode_split", "priority_routing"):
            assert getattr(point, name) == getattr(action, name)


def test_points_of_the_grid_stay_where_they_are() -> None:
    rows = np.random.default_rng(0).integers(0, GRID_SIZES, (30, len(GRID_SIZES)))
    assert (nearest_indices([from_indices(row) for row in rows.tolist()]) == rows).all()
