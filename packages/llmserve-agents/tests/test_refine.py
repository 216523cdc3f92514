"""The search between the grid's points finds what is there, within its budget, and is never worse than a start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import log
from typing import Any

import numpy as np
import pytest

from llmserve_agents.search import RefineBudget, Refined, evaluate_actions, refine, refine_static
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import QUANTIZATION_TIERS, ServeAction
from llmserve_sim.tasks import Task, load_task

BEST = ServeAction(
    batch_cap=23,
    kv_budget_fraction=0.457,
    speculation_depth=3,
    quantization_tier="INT8",
    priority_routing=True,
)
FAR = ServeAction(batch_cap=512, kv_budget_fraction=1.0)
SEEDS = list(range(32))


def surface(actions: Sequence[ServeAction], seeds: Sequence[int]) -> Any:
    """A ridge along which cap and KV fraction trade, one good tier per depth, and noise that all actions share."""
    rows = []
    for action in actions:
        cap = log(action.batch_cap / BEST.batch_cap)
        fraction = action.kv_budget_fraction - BEST.kv_budget_fraction
        tier = QUANTIZATION_TIERS.index(action.quantization_tier) - 1
        value = 0.7 - 0.05 * (cap + 2.0 * fraction) ** 2 - 0.02 * cap**2 - 0.1 * fraction**2
        value -= 0.01 * (action.speculation_depth - 3 - tier) ** 2 + 0.03 * abs(tier)
        rows.append(value - 0.02 * action.prefill_decode_split - 0.02 * (not action.priority_routing))
    noise = np.array([np.random.default_rng(seed).normal(0.0, 0.05) for seed in seeds])
    return np.array(rows)[:, None] + noise[None]


def test_the_optimum_of_a_surface_off_the_grid_is_found_from_afar() -> None:
    told: list[str] = []
    found = refine(surface, SEEDS, [FAR], RefineBudget(20_000), log=told.append)
    assert surface([BEST], SEEDS).mean() - found.value < 1e-4
    assert abs(found.action.batch_cap - BEST.batch_cap) <= 1
    assert found.action.kv_budget_fraction == pytest.approx(BEST.kv_budget_fraction, abs=0.01)
    assert found.action.model_copy(update={"batch_cap": 23, "kv_budget_fraction": 0.457}) == BEST
    assert [line.split(":")[0] for line in told[1:5]] == [f"climb {n} of 4 on 8 seeds" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("episodes", [100, 500, 2_000])
def test_the_budget_is_kept_and_no_start_is_better(episodes: int) -> None:
    played = 0

    def counted(actions: Sequence[ServeAction], seeds: Sequence[int]) -> Any:
        nonlocal played
        played += len(actions) * len(seeds)
        return surface(actions, seeds)

    starts = [FAR, ServeAction(batch_cap=16, kv_budget_fraction=0.4, speculation_depth=2)]
    found = refine(counted, SEEDS, starts, RefineBudget(episodes))
    assert found.episodes == played
    assert played < episodes + 32 * 24 + 4 * 32  # a last batch of neighbours, and the ends on all seeds
    assert found.value == surface([found.action], SEEDS).mean()
    assert found.value >= surface(starts, SEEDS).mean(axis=1).max()


def test_the_seed_decides_and_nothing_else() -> None:
    few = RefineBudget(600)
    assert refine(surface, SEEDS, [FAR], few) == refine(surface, SEEDS, [FAR], few)
    others = {refine(surface, SEEDS, [FAR], RefineBudget(600, seed=seed)).action for seed in range(3)}
    assert len(others) > 1


def test_where_the_deployment_cannot_split_no_configuration_does() -> None:
    tried: list[ServeAction] = []

    def kept(actions: Sequence[ServeAction], seeds: Sequence[int]) -> Any:
        tried.extend(actions)
        return surface(actions, seeds)

    refine(kept, SEEDS, [FAR], RefineBudget(2_000), can_split=False)
    assert not any(action.prefill_decode_split for action in tried)


@pytest.mark.parametrize(
    ("starts", "seeds", "budget", "field"),
    [
        ([], SEEDS, RefineBudget(), "starts"),
        ([FAR], [], RefineBudget(), "seeds"),
        ([FAR], SEEDS, RefineBudget(episodes=10), "episodes"),
        ([FAR], SEEDS, RefineBudget(restarts=0), "restarts"),
    ],
)
def test_what_cannot_be_searched_is_named(starts: Any, seeds: Any, budget: RefineBudget, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        refine(surface, seeds, starts, budget)
    assert refused.value.field == field


@cache
def short() -> Task:
    """A built-in task with episodes of one burst."""
    return load_task(load_task("bursty_workload").model_copy(update={"id": "short", "windows": 12}))


@cache
def refined(episodes: int) -> Refined:
    return refine_static(
        short(), SEEDS[:16], [ServeAction(batch_cap=64, kv_budget_fraction=0.4)], RefineBudget(episodes)
    )


def test_twice_the_budget_moves_the_value_of_a_task_by_less_than_half_a_per_cent() -> None:
    assert abs(refined(8_000).value / refined(4_000).value - 1.0) < 0.005


def test_a_refined_value_is_what_the_task_pays() -> None:
    found = refined(4_000)
    assert found.value == evaluate_actions(short(), [found.action], SEEDS[:16]).mean()
