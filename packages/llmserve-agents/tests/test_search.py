"""Searches in batches: values equal those of single environments, and a result is never worse than a start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmserve_agents.search import (
    STARTS,
    best_by_regime,
    best_static,
    evaluate_actions,
    evaluate_static,
    grid,
    simulate_plans,
)
from llmserve_sim.batch import ServingBatch
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import ACTION_GRID, GRID_SIZES, from_indices, to_indices
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, load_task

SPLIT, TIER = list(ACTION_GRID).index("prefill_decode_split"), list(ACTION_GRID).index("quantization_tier")


@pytest.fixture(scope="module")
def task() -> Task:
    """A task whose episodes are short."""
    return load_task(load_task("bursty_workload").model_copy(update={"windows": 8}))


def some(count: int, seed: int = 0) -> Any:
    rows = np.random.default_rng(seed).integers(0, GRID_SIZES, (count, len(GRID_SIZES)))
    rows[:, SPLIT] = 0
    return rows


def test_a_configurations_value_is_what_an_environment_earns_under_it(task: Task) -> None:
    configurations, seeds, env = some(4), [1, 2, 3], ServingEnv(task)
    values = evaluate_static(task, configurations, seeds)
    assert values.shape == (4, 3)
    for row, configuration in enumerate(configurations.tolist()):
        for column, seed in enumerate(seeds):
            env.start(seed)
            earned = [env.advance(from_indices(configuration)).reward for _ in range(task.windows)]
            assert values[row, column] == pytest.approx(np.mean(earned), abs=1e-12)


def test_actions_have_the_values_of_the_grids_points_that_they_are_and_may_lie_between_them(task: Task) -> None:
    configurations, seeds, env = some(3), [1, 2], ServingEnv(task)
    actions = [from_indices(row) for row in configurations.tolist()]
    assert (evaluate_actions(task, actions, seeds) == evaluate_static(task, configurations, seeds)).all()
    between = ServeAction(batch_cap=27, kv_budget_fraction=0.333)
    env.start(1)
    earned = [env.advance(between).reward for _ in range(task.windows)]
    assert evaluate_actions(task, [between], [1])[0, 0] == pytest.approx(np.mean(earned), abs=1e-12)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_how_many_are_simulated_side_by_side_changes_no_value(
    task: Task, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    configurations = some(5)
    whole = evaluate_static(task, configurations, [1, 2, 3])
    monkeypatch.setattr(grid, "MAX_BATCH_SIZE", rows)
    assert (evaluate_static(task, configurations, [1, 2, 3]) == whole).all()


def test_a_plan_is_played_to_its_end_or_to_the_episodes(task: Task) -> None:
    batch = ServingBatch(task, 2)
    batch.start([1, 2])
    plans = np.repeat(some(2)[:, None], 5, axis=1)
    assert simulate_plans(batch, plans).shape == (2, 5)
    assert simulate_plans(batch, plans).shape == (2, 3)
    assert batch.window == task.windows


@pytest.mark.parametrize("pairs", [True, False])
def test_the_best_fixed_configuration_is_none_below_any_start(task: Task, pairs: bool) -> None:
    seeds, starts, told = [1, 2, 3], STARTS[2:4], []
    action, value = best_static(task, seeds, starts=starts, pairs=pairs, log=told.append)
    begun = evaluate_static(task, np.array([to_indices(start) for start in starts]), seeds).mean(axis=1)
    assert value >= begun.max()
    assert value == evaluate_static(task, np.array([to_indices(action)]), seeds).mean()
    assert len(told) == len(starts) + 1
    assert pairs or best_static(task, seeds, starts=starts, pairs=pairs) == (action, value)


def test_a_start_that_is_only_bad_on_few_seeds_is_not_lost(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the seeds chooses where to search on; all of them have the last word."""
    good = ServeAction(batch_cap=64, kv_budget_fraction=0.4, quantization_tier="INT4", speculation_depth=1)
    bad = ServeAction(batch_cap=128, kv_budget_fraction=0.1)
    better = to_indices(good)

    def values(_: Task, configurations: Any, seeds: Any) -> Any:
        is_good = (configurations == np.array(better)).all(axis=1)[:, None]
        is_bad = (configurations == np.array(to_indices(bad))).all(axis=1)[:, None]
        early = np.array(seeds)[None] < 2
        return np.where(is_good, np.where(early, 0.1, 0.9), np.where(is_bad, 0.3, 0.2))

    monkeypatch.setattr(grid, "evaluate_static", values)
    action, value = best_static(task, list(range(8)), starts=(good, bad), pairs=False)
    assert (action, value) == (good, pytest.approx(0.7))


def test_no_single_knob_improves_on_what_was_found(task: Task) -> None:
    seeds = [1, 2]
    action, value = best_static(task, seeds, starts=STARTS[:1], pairs=False)
    here = np.array(to_indices(action))
    for knob, size in enumerate(GRID_SIZES):
        options = np.repeat(here[None], size, axis=0)
        options[:, knob] = np.arange(size)
        assert evaluate_static(task, options, seeds).mean(axis=1).max() <= value + 1e-6


def test_where_the_deployment_cannot_split_no_search_tries_to(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    advance = ServingBatch.advance
    monkeypatch.setattr(ServingBatch, "can_split", False)
    monkeypatch.setattr(ServingBatch, "advance", lambda self, a: tried.append(a[:, SPLIT].max()) or advance(self, a))
    best_static(task, [1, 2], starts=STARTS[:1])
    best_by_regime(task, [1], np.zeros((1, task.windows), dtype=np.int64), STARTS[0], rounds=1)
    assert max(tried) == 0


def regimes(task: Task, seeds: int, count: int = 3) -> Any:
    return np.tile(np.arange(task.windows) * count // task.windows, (seeds, 1))


def test_a_configuration_for_each_regime_is_worth_at_least_the_start_everywhere(task: Task) -> None:
    seeds, start = [1, 2], STARTS[0]
    begun = evaluate_static(task, np.array([to_indices(start)]), seeds)[0]
    table, values = best_by_regime(task, seeds, regimes(task, 2), start, groups=[(0, 2)], rounds=2)
    assert table.shape == (3, len(GRID_SIZES))
    assert values.mean() >= begun.mean()
    assert values.mean() > begun.mean() + 1e-3
    batch = ServingBatch(task, 2)
    batch.start(seeds)
    np.testing.assert_array_equal(simulate_plans(batch, table[regimes(task, 2)]).mean(axis=1), values)


def test_tied_knobs_have_one_value_in_all_regimes(task: Task) -> None:
    start = ServeAction(batch_cap=4, kv_budget_fraction=0.1, quantization_tier="FP16")
    tied = [0, TIER]
    table, _ = best_by_regime(task, [1, 2], regimes(task, 2), start, groups=[(0, 1)], tied=tied, rounds=2)
    assert [len(set(table[:, knob])) for knob in tied] == [1, 1]
    assert tuple(table[0, tied]) != tuple(np.array(to_indices(start))[tied])


def test_one_round_is_no_better_than_more(task: Task) -> None:
    values = [best_by_regime(task, [1], regimes(task, 1), STARTS[0], rounds=n)[1].mean() for n in (0, 1, 2)]
    assert values == sorted(values)


def test_a_start_between_the_grids_points_is_refused(task: Task) -> None:
    with pytest.raises(InvalidInputError, match="batch_cap: must be on the grid"):
        best_static(task, [1], starts=[ServeAction(batch_cap=65, kv_budget_fraction=0.4)])
