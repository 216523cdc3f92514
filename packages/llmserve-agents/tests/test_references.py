"""The program that computes what scores are measured against, at a size that takes seconds."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmserve_agents import references
from llmserve_agents.clairvoyant import Budget
from llmserve_agents.policy import HeuristicPolicy, RandomPolicy, StaticPolicy
from llmserve_agents.references import Effort, compute, main, run_agent
from llmserve_agents.search import RefineBudget, best_static, evaluate_actions, refine_static
from llmserve_agents.weights import WEIGHTS_VARIABLE
from llmserve_sim.__about__ import __version__
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ReferenceScores, ServeAction
from llmserve_sim.tasks import Task, load_task

TASK = "bursty_workload"
QUICK = Effort(
    static_seeds=2,
    refine_seeds=4,
    refine_episodes=300,
    reference_seeds=2,
    budget=Budget(passes=2, strides=(2,), holds=(2,), slow_holds=(6,), beyond=2),
)


@pytest.fixture(scope="module")
def short() -> Task:
    """A task whose episodes are short."""
    return load_task(load_task(TASK).model_copy(update={"windows": 12}))


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither trained nor tuned agents take part, whatever is shipped."""
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))


@pytest.fixture(scope="module")
def found(short: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReferenceScores, list[str]]:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, str(tmp_path_factory.mktemp("none")))
        patch.setattr(references, "best_static", _from_one_start)
        return compute(short, QUICK, log=told.append), told


def _from_one_start(task: Task, seeds: Any, **options: Any) -> Any:
    """As the search is, but from one start and knob by knob."""
    start = ServeAction(batch_cap=128, kv_budget_fraction=0.4, quantization_tier="INT8", priority_routing=True)
    return best_static(task, seeds, starts=[start], pairs=False, **options)


def test_chance_is_below_the_best_fixed_configuration_and_that_below_the_bound(found: Any) -> None:
    scores, _ = found
    assert scores.random < scores.best_static < scores.clairvoyant
    assert scores.heuristic <= scores.clairvoyant


def test_every_mean_is_that_of_its_policy_on_the_reference_seeds(found: Any, short: Task) -> None:
    scores, _ = found
    assert scores.seeds == [3_000_000, 3_000_001]
    policies = {
        "random": RandomPolicy(),
        "best_static": StaticPolicy(scores.best_static_action),
        "heuristic": HeuristicPolicy(),
    }
    for name, policy in policies.items():
        assert getattr(scores, name) == run_agent(short, scores.seeds, policy).values.mean()


def test_the_fixed_configuration_is_searched_on_training_seeds(found: Any, short: Task) -> None:
    on_grid, _ = _from_one_start(short, [0, 1])
    refined = refine_static(short, [0, 1, 2, 3], [on_grid], RefineBudget(300))
    assert found[0].best_static_action == refined.action
    assert refined.value >= evaluate_actions(short, [on_grid], [0, 1, 2, 3]).mean()


def test_what_was_computed_says_how_and_for_what(found: Any, short: Task) -> None:
    scores, told = found
    assert scores.simulator_version == __version__
    assert scores.task_digest == short.digest
    assert scores.provisional
    assert scores.ppo is None
    assert scores.command == (
        f"python -m llmserve_agents.references {TASK} --seeds 2 --passes 2 --static-seeds 2 "
        "--refine-seeds 4 --refine-episodes 300"
    )
    for words in ("2 training seeds", "2 passes", "best-static, heuristic did", "second half moved it by"):
        assert words in scores.budget
    for words in ("random 0.", "without ppo", "without tuned-heuristic", "clairvoyant with half the budget"):
        assert any(words in line for line in told)


def test_following_a_policy_gives_its_actions_and_what_they_earn(short: Task) -> None:
    done = run_agent(short, [5, 6], RandomPolicy())
    assert done.plans.shape == (2, 12, 6)
    env = ServingEnv(short)
    for seed, actions, value in zip([5, 6], done.actions, done.values, strict=True):
        env.start(seed)
        assert value == pytest.approx(np.mean([env.advance(action).reward for action in actions]), abs=1e-12)
    again = run_agent(short, [6], RandomPolicy())
    assert again.actions[0] == done.actions[1]


def test_the_shipped_policy_takes_part_where_there_is_one(short: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "best_static", lambda *_, **__: (ServeAction(), 0.0))
    monkeypatch.setattr(references, "make_agent", lambda _: HeuristicPolicy())
    none = Effort(
        static_seeds=1,
        refine_seeds=1,
        refine_episodes=10,
        reference_seeds=1,
        budget=Budget(passes=1, strides=(), holds=(1,)),
    )
    scores = compute(short, replace(none, paired=True), log=lambda _: None)
    assert scores.ppo == scores.heuristic
    assert scores.paired
    assert scores.command.endswith(" --paired")
    assert scores.clairvoyant >= max(scores.best_static, scores.heuristic)
    assert "tuned-heuristic, ppo did" in scores.budget


def test_the_program_writes_where_the_simulator_reads(
    found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, Effort]] = []

    def answer(task: Task, effort: Effort, **_: Any) -> ReferenceScores:
        asked.append((task.id, effort))
        scores: ReferenceScores = found[0]
        return scores

    read = importlib.import_module("llmserve_sim.references")
    monkeypatch.setattr(read, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(references, "compute", answer)
    assert main([TASK, "static_workload", "--seeds", "7", "--passes", "3"]) == 0
    assert [name for name, _ in asked] == [TASK, "static_workload"]
    assert asked[0][1] == Effort(reference_seeds=7, budget=Budget(passes=3))
    assert main([TASK, "--paired"]) == 0
    assert asked[-1][1] == Effort(paired=True)
    written = (tmp_path / f"{TASK}.json").read_text(encoding="utf-8")
    assert ReferenceScores.model_validate_json(written) == found[0]
    assert f"{TASK}.json: random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "task: must be of static_workload"),
        (["short.toml"], "got short.toml"),
        ([TASK, "--seeds", "0"], "must be at least 1"),
        ([TASK, "--passes", "0"], "must be at least 1"),
        ([TASK, "--refine-episodes", "9"], "at least twice --refine-seeds"),
        ([TASK, "--seeds", "many"], "--seeds"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_computed(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "compute", lambda *_, **__: pytest.fail("it computes"))
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert words in capsys.readouterr().err
