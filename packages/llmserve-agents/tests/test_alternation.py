"""The probe of alternations: every pair and period once, played as it says, and reported on seeds of its own."""

from __future__ import annotations

import numpy as np
import pytest

from llmserve_agents.search import alternation, evaluate_actions
from llmserve_agents.search.alternation import PERIODS, Alternation, alternations, evaluate_alternations, main, probe
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, load_task

FIXED = ServeAction(batch_cap=60, kv_budget_fraction=0.4, quantization_tier="INT8", speculation_depth=2)


@pytest.fixture(scope="module")
def task() -> Task:
    """A task whose episodes are short."""
    return load_task(load_task("bursty_workload").model_copy(update={"windows": 6}))


def test_every_knob_alternates_between_all_pairs_of_its_values_at_all_periods() -> None:
    found = alternations(FIXED, can_split=True)
    orders = sum(2 if period % 2 else 1 for period in PERIODS)
    pairs = {"batch_cap": 55, "kv_budget_fraction": 78, "speculation_depth": 36, "quantization_tier": 3}
    pairs |= {"prefill_decode_split": 1, "priority_routing": 1}
    assert {knob: sum(one.knob == knob for one in found) for knob in pairs} == {k: n * orders for k, n in pairs.items()}
    assert len(set(found)) == len(found)
    assert {one.period for one in found} == set(range(2, 13))
    assert not any(one.knob == "prefill_decode_split" for one in alternations(FIXED, can_split=False))


def test_an_odd_period_has_one_window_more_of_its_first_value() -> None:
    other = FIXED.model_copy(update={"batch_cap": 4})
    caps = [Alternation("batch_cap", FIXED, other, 3).at(window).batch_cap for window in range(6)]
    assert caps == [60, 60, 4, 60, 60, 4]


def test_a_value_is_what_an_environment_earns_under_the_alternation(task: Task) -> None:
    some = alternations(FIXED, can_split=True)[::97]
    values, env = evaluate_alternations(task, some, [1, 2]), ServingEnv(task)
    for row, one in zip(values, some, strict=True):
        env.start(2)
        earned = [env.advance(one.at(window)).reward for window in range(task.windows)]
        assert row[1] == pytest.approx(np.mean(earned), abs=1e-12)


def test_gains_are_paired_differences_on_validation_seeds_with_every_knob_among_them(task: Task) -> None:
    told: list[str] = []
    gains = probe(task, FIXED, budget=30_000, seeds=4, log=told.append)
    assert {gain.alternation.knob for gain in gains} == set(ServeAction.model_fields)
    assert [gain.mean for gain in gains] == sorted((gain.mean for gain in gains), reverse=True)
    seeds = list(range(1_000_000, 1_000_004))
    base = evaluate_actions(task, [FIXED], seeds)[0]
    difference = evaluate_alternations(task, [gains[0].alternation], seeds)[0] - base
    assert gains[0].mean == pytest.approx(difference.mean(), abs=1e-12)
    assert gains[0].half_width == pytest.approx(1.96 * difference.std(ddof=1) / 2.0)
    assert len(told) > 1
    assert gains == probe(task, FIXED, budget=30_000, seeds=4)


def test_the_budget_bounds_what_is_simulated(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    played = 0
    evaluate = evaluate_alternations

    def counted(task: Task, candidates: list[Alternation], seeds: list[int]) -> object:
        nonlocal played
        played += len(candidates) * len(seeds) * task.windows
        return evaluate(task, candidates, seeds)

    monkeypatch.setattr(alternation, "evaluate_alternations", counted)
    for budget in (20_000, 40_000):
        played = 0
        probe(task, FIXED, budget=budget, seeds=2)
        assert played <= budget


def test_a_budget_or_a_number_of_seeds_that_cannot_be_is_named(task: Task) -> None:
    with pytest.raises(InvalidInputError, match="budget: must be at least"):
        probe(task, FIXED, budget=10)
    with pytest.raises(InvalidInputError, match=r"seeds: must be an integer in 2\.\.1000"):
        probe(task, FIXED, seeds=1)


def test_the_program_fails_where_alternating_pays_more_than_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gain = alternation.Gain(alternations(FIXED, can_split=True)[0], 0.01, 0.002, 64)
    monkeypatch.setattr(alternation, "probe", lambda *_, **__: [gain])
    assert main(["bursty_workload"]) == 1
    assert capsys.readouterr().out == "+0.0100 [+0.0080, +0.0120]  batch_cap 4/8, period 2\n"
    assert main(["bursty_workload", "--bar", "0.02", "--action", FIXED.model_dump_json()]) == 0
