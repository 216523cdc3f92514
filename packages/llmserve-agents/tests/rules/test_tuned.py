"""The tuned heuristic: it acts by the thresholds of its file and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmserve_agents.errors import MissingWeightsError, WeightsMismatchError
from llmserve_agents.evaluation.roster import weights_of
from llmserve_agents.policy import make_agent
from llmserve_agents.rules.heuristic import HeuristicPolicy
from llmserve_agents.rules.thresholds import Thresholds, centered_thresholds
from llmserve_agents.rules.tuned import FILE, TunedHeuristicPolicy, read_thresholds, write_thresholds
from llmserve_agents.weights import identity
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task

TASK = load_task("bursty_workload")
LIMITS = centered_thresholds(
    ServeAction(batch_cap=96, kv_budget_fraction=0.4, quantization_tier="INT8", priority_routing=True)
)
CARD = {**identity(TASK), "seed": 3, "steps": 1000, "command": "llmserve tune"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_thresholds(tmp_path / TASK.id, LIMITS, CARD)
    return tmp_path


def test_what_is_written_is_read_again(folder: Path) -> None:
    assert read_thresholds(folder / TASK.id / FILE) == (LIMITS, CARD)


def test_it_acts_as_the_heuristic_does_under_its_thresholds(folder: Path) -> None:
    env, agent, rules = ServingEnv(TASK), TunedHeuristicPolicy(folder / TASK.id), HeuristicPolicy(LIMITS)
    agent.reset(TASK.id, 5)
    observation = env.reset(seed=5)
    for _ in range(30):
        action = agent.act(observation)
        assert action == rules.act(observation)
        observation = env.step(action)
    used = weights_of(agent)
    assert used is not None
    assert (used.seed, used.steps, used.command) == (3, 1000, "llmserve tune")


def test_by_its_name_it_finds_the_thresholds_of_each_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSERVE_WEIGHTS", str(folder))
    agent = make_agent("tuned-heuristic")
    agent.reset(TASK.id, 5)
    assert agent.act(ServingEnv(TASK).reset(seed=5)).batch_cap == 96
    with pytest.raises(MissingWeightsError, match="static_workload"):
        agent.reset("static_workload", 5)


def test_without_a_reset_or_a_file_it_never_acts(tmp_path: Path) -> None:
    agent = TunedHeuristicPolicy(tmp_path)
    with pytest.raises(MissingWeightsError, match="no thresholds are loaded"):
        agent.act(ServingEnv(TASK).reset(seed=5))
    with pytest.raises(MissingWeightsError, match=FILE):
        agent.reset(TASK.id, 5)
    assert agent.weights_path is None


@pytest.mark.parametrize("name", ["task_digest", "schema_hash", "simulator_version"])
def test_thresholds_made_for_something_else_are_refused(tmp_path: Path, name: str) -> None:
    write_thresholds(tmp_path, LIMITS, CARD | {name: "another"})
    with pytest.raises(WeightsMismatchError, match=name):
        TunedHeuristicPolicy(tmp_path).reset(TASK.id, 5)


def test_thresholds_of_another_task_are_refused(folder: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="task_id"):
        TunedHeuristicPolicy(folder / TASK.id).reset("static_workload", 5)


@pytest.mark.parametrize(
    "content", ["{", "[]", json.dumps({"thresholds": [], "card": {}}), json.dumps({"thresholds": {}, "card": CARD})]
)
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InvalidInputError, match=FILE):
        TunedHeuristicPolicy(tmp_path).reset(TASK.id, 5)


def test_a_number_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"grow": 9.0}
    from dataclasses import replace

    write_thresholds(tmp_path, replace(Thresholds(), **changed), CARD)
    with pytest.raises(InvalidInputError, match=r"heuristic.json.grow: must be in 1..4 factor"):
        TunedHeuristicPolicy(tmp_path).reset(TASK.id, 5)
