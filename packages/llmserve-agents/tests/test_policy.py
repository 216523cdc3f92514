"""Agents by name: what there is, what it imports, and how what is missing is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmserve_agents.policy import (
    AGENTS,
    MODEL_BASED_AGENTS,
    BestStaticPolicy,
    ModelBasedPolicy,
    make_agent,
    run_episode,
)
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.references import load_references
from llmserve_sim.schema import ReferenceScores, ServeAction
from llmserve_sim.tasks import load_task

TASK = "static_workload"
HELD = ServeAction(batch_cap=96, kv_budget_fraction=0.4, quantization_tier="INT8")


def references(action: ServeAction) -> ReferenceScores:
    return ReferenceScores(
        random=0.0,
        best_static=0.5,
        clairvoyant=0.7,
        provisional=True,
        simulator_version="0",
        task_digest="0" * 64,
        seeds=[1],
        budget="none",
        command="none",
        best_static_action=action,
    )


def test_every_name_of_the_documentation_is_there() -> None:
    assert list(AGENTS) == ["random", "static", "threshold", "best-static", "heuristic", "tuned-heuristic", "ppo"]
    assert list(MODEL_BASED_AGENTS) == ["planner"]


def test_importing_the_names_imports_no_heavy_library() -> None:
    code = "import sys, llmserve_agents.policy; print(sorted({'torch', 'scipy', 'cmaes', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_agents_with_weights_are_made_from_a_folder_as_well(tmp_path: Path) -> None:
    for name in ("tuned-heuristic", "ppo"):
        make = AGENTS[name]
        assert type(make.from_folder(tmp_path)) is type(make_agent(name))  # type: ignore[attr-defined]


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidInputError, match="agent: must be one of random"):
        make_agent("oracle")


def test_a_planner_is_refused_where_there_is_no_environment_to_fork() -> None:
    with pytest.raises(InvalidInputError, match="planner simulates ahead"):
        make_agent("planner")
    assert isinstance(MODEL_BASED_AGENTS["planner"](), ModelBasedPolicy)


def test_best_static_holds_the_configuration_of_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmserve_agents.policy.load_references", lambda *_: references(HELD))
    policy, env = BestStaticPolicy(), ServingEnv(TASK)
    policy.reset(TASK, 1)
    observation = env.reset(seed=1)
    for _ in range(3):
        assert policy.act(observation) == HELD
        observation = env.step(HELD)


def test_best_static_holds_it_without_the_split_where_the_deployment_cannot_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = HELD.model_copy(update={"prefill_decode_split": True})
    monkeypatch.setattr("llmserve_agents.policy.load_references", lambda *_: references(split))
    policy, env = BestStaticPolicy(), ServingEnv(TASK, deployment="rtx4090-llama3.1-8b")
    run_episode(env, policy, seed=1)
    assert {step.action.prefill_decode_split for step in env.episode_log().steps} == {False}
    policy.reset(TASK, 1)
    assert policy.act(env.reset(seed=1)) == split


def test_best_static_asks_for_the_references_of_the_task_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(task_id: str, digest: str) -> ReferenceScores | None:
        asked.append((task_id, digest))
        return load_references(task_id, "0" * 64)

    monkeypatch.setattr("llmserve_agents.policy.load_references", read)
    with pytest.raises(InvalidInputError, match=f"best-static needs references of {TASK} as it is now"):
        make_agent("best-static").reset(TASK, 1)
    assert asked == [(TASK, load_task(TASK).digest)]


def test_best_static_refuses_a_task_that_is_no_name_of_the_catalogue() -> None:
    with pytest.raises(UnknownTaskError):
        make_agent("best-static").reset("../static_workload", 1)


def test_best_static_acts_only_after_a_reset() -> None:
    with pytest.raises(InvalidInputError, match="must be reset"):
        BestStaticPolicy().act(ServingEnv(TASK).reset(seed=1))


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_agent_plays_a_deployment_with_a_single_replica(name: str) -> None:
    task = load_task("adversarial_multitenant").model_copy(update={"windows": 30})
    env = ServingEnv(task, deployment="rtx4090-llama3.1-8b")
    run_episode(env, make_agent(name), task.seeds.validation.start)
    assert env.state().done
