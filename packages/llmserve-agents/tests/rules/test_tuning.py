"""Tuning: what it starts at, what it pays for, that it repeats itself; and what the command writes."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmserve_agents.cli import main
from llmserve_agents.errors import MissingExtraError
from llmserve_agents.rules.evaluate import evaluate_thresholds
from llmserve_agents.rules.thresholds import THRESHOLD_BOUNDS, Thresholds, centered_thresholds, constant_thresholds
from llmserve_agents.rules.tuned import TunedHeuristicPolicy
from llmserve_agents.rules.tuning import TuneConfig, TuneProgress, decode, encode, starting_action, tune, tuned_names
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.references import load_references
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task

TASK = load_task("adversarial_multitenant")
SHORT = load_task(TASK.model_copy(update={"windows": 20}))
"""The same with short episodes."""
START = ServeAction(
    batch_cap=64, kv_budget_fraction=0.3, speculation_depth=2, quantization_tier="INT8", priority_routing=True
)
SMALL = TuneConfig(steps=2_400, population=4, episodes=1, growth=2, finalists=4)


def test_some_thirty_thresholds_are_tuned_and_those_of_the_split_only_where_there_is_one() -> None:
    assert 20 <= len(tuned_names()) <= 35
    assert set(tuned_names()) - set(tuned_names(can_split=False)) == {"split_low", "split_high"}


@pytest.mark.parametrize("limits", [Thresholds(), constant_thresholds(START), centered_thresholds(START)])
def test_a_point_of_the_search_is_the_thresholds_that_it_was_made_of(limits: Thresholds) -> None:
    names = tuned_names()
    again = decode(encode(limits, names), names, limits)
    for name in THRESHOLD_BOUNDS:
        assert getattr(again, name) == pytest.approx(getattr(limits, name), rel=1e-4, abs=1e-6)


def test_any_point_is_folded_into_the_bounds() -> None:
    names = tuned_names()
    rng = np.random.default_rng(3)
    for _ in range(50):
        limits = decode(rng.normal(0.5, 2.0, size=len(names)), names, Thresholds())
        for name, bound in THRESHOLD_BOUNDS.items():
            assert bound.low <= getattr(limits, name) <= bound.high
            assert not bound.whole or float(getattr(limits, name)).is_integer()
    lowest = decode(np.zeros(len(names)), names, Thresholds())
    assert decode(np.full(len(names), -0.1), names, Thresholds()) == decode(
        np.full(len(names), 0.1), names, Thresholds()
    )
    assert all(getattr(lowest, name) == THRESHOLD_BOUNDS[name].low for name in names)


def test_a_search_repeats_itself_keeps_to_its_budget_and_tells_how_far_it_is() -> None:
    told: list[TuneProgress] = []
    first = tune(SHORT, SMALL, start=START, progress=told.append)
    assert first == tune(SHORT, SMALL, start=START)
    assert first.generations >= 3
    assert told[-1].done == first.windows <= SMALL.steps
    assert [at.done for at in told] == sorted(at.done for at in told)


def test_what_is_found_is_on_validation_seeds_never_worse_than_the_start() -> None:
    found = tune(SHORT, SMALL, start=START)
    assert found.validation["tuned"] >= max(found.validation["start"], found.validation["defaults"])
    first, count = found.validation_seeds
    assert first == TASK.seeds.validation.start
    seeds = range(first, first + count)
    values = evaluate_thresholds(SHORT, [found.thresholds, constant_thresholds(START), Thresholds()], seeds).mean(
        axis=1
    )
    assert list(found.validation.values()) == pytest.approx(values.tolist(), abs=1e-12)


def test_it_starts_at_the_references_and_searches_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve_agents.rules.tuning.load_references", lambda *_: None)
    asked: list[Any] = []

    def search(task: Any, seeds: Any, **_: Any) -> tuple[ServeAction, float]:
        asked.append((task.id, seeds[0], len(seeds)))
        return START, 0.0

    monkeypatch.setattr("llmserve_agents.rules.tuning.best_static", search)
    assert starting_action(TASK) == START
    assert asked == [(TASK.id, TASK.seeds.train.start, 16)]
    monkeypatch.undo()
    found = load_references(TASK.id, TASK.digest)
    if found is not None:
        assert starting_action(TASK) == found.best_static_action


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"steps": 100}, "steps"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"population": 1}, "population"),
        ({"population": 10**8}, "population"),
        ({"episodes": 0}, "episodes"),
        ({"sigma": 0.0}, "sigma"),
        ({"choice_share": 1.0}, "choice_share"),
    ],
)
def test_a_configuration_that_is_amiss_is_refused_by_name(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        tune(TASK, TuneConfig(**wrong), start=START)
    assert refused.value.field == field


def test_without_the_library_the_extra_is_named_before_anything_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    told: list[TuneProgress] = []
    with pytest.raises(MissingExtraError, match=r"llmserve-agents\[tune\]"):
        tune(SHORT, SMALL, progress=told.append)
    assert told == []


def test_the_command_writes_thresholds_that_the_agent_then_acts_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve_agents.rules.tuning.starting_action", lambda _: START)
    arguments = ["tune", "--task", TASK.id, "--steps", "12000", "--population", "4", "--episodes", "1"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    path = tmp_path / TASK.id / "heuristic.json"
    assert f"thresholds: {path}" in capsys.readouterr().out
    card = json.loads(path.read_text())["card"]
    assert card["task_digest"] == TASK.digest
    assert card["steps"] <= 12_000
    assert card["command"] == f"llmserve tune --task {TASK.id} --steps 12000 --seed 0 --population 4 --episodes 1"
    agent, env = TunedHeuristicPolicy.from_folder(path.parent), ServingEnv(TASK)
    agent.reset(TASK.id, 1)
    observation = env.reset(seed=1)
    assert agent.weights_path == path
    assert agent.card == card
    for _ in range(5):
        observation = env.step(agent.act(observation))


def test_the_command_names_the_option_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--task", "nothing"], "--task: must be one of"),
        (["--task", TASK.id, "--steps", "10"], "--steps: must be at least"),
    ):
        assert main(["tune", *arguments, "--output", str(tmp_path / "new")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_thresholds_are_replaced_only_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve_agents.rules.tuning.starting_action", lambda _: START)
    path = tmp_path / TASK.id / "heuristic.json"
    path.parent.mkdir()
    path.write_text("precious")
    wanted = ["tune", "--task", TASK.id, "--steps", "12000", "--population", "4", "--episodes", "1"]
    assert main([*wanted, "--output", str(tmp_path)]) == 2
    assert "--output: holds thresholds" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert main([*wanted, "--output", str(tmp_path), "--overwrite"]) == 0
    assert "thresholds" in json.loads(path.read_text())


def test_what_was_found_is_told_where_it_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llmserve_agents.rules.tuning.starting_action", lambda _: START)
    monkeypatch.setattr("llmserve_agents.cli.tune.write_thresholds", full)
    wanted = ["tune", "--task", TASK.id, "--steps", "12000", "--population", "4", "--episodes", "1"]
    assert main([*wanted, "--output", str(tmp_path)]) == 2
    shown, told = capsys.readouterr()
    assert "--output: cannot be written (No space left on device)" in told
    assert "cap_start" in json.loads(shown.splitlines()[-1])
