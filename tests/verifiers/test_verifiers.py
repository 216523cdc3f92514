"""verifiers runs its own rollouts on LLMServeEnv, with a model that follows a script: `nox -s verifiers`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers.v1", reason="verifiers is not installed: nox -s verifiers")

from tests.verifiers.scripted import Call, scripted

from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade
from llmserve_verifiers.scoring import outcome
from llmserve_verifiers.taskset import ServingTaskset, ServingTasksetConfig

CHOSEN = {"batch_cap": 64, "quantization_tier": "INT8"}
WHOLE: list[Call] = [("set_knobs", CHOSEN), ("advance", {"windows": 0}), *[("advance", {"windows": 20})] * 6]


def evaluate(folder: Path, calls: list[Call], rollouts: int = 1) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run verifiers' own command on one episode; return the rollouts' traces and what the model was asked."""
    options = {
        "--env.taskset.id": "llmserve-verifiers",
        "--env.taskset.task-id": "static_workload",
        "--env.agent.harness.id": "null",
        "--env.agent.runtime.type": "subprocess",
        "--client.api-key-var": "NO_SUCH_KEY",
        "--model": "scripted",
        "-n": "1",
        "-r": str(rollouts),
        "-o": str(folder),
    }
    with scripted(calls) as (url, asked):
        named = [part for option in (options | {"--client.base-url": url}).items() for part in option]
        command = [str(Path(sys.executable).with_name("vf-eval")), *named, "--no-push", "--no-rich"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    (found,) = folder.glob("*/traces.jsonl")
    episodes = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    return [trace for episode in episodes for trace in episode["traces"]], asked


def test_rollouts_of_a_group_play_a_whole_episode_and_get_the_graders_reward(tmp_path: Path) -> None:
    """The same actions in process earn the same; the group's rollouts had the same traffic."""
    traces, asked = evaluate(tmp_path, WHOLE, rollouts=2)
    task = next(iter(ServingTaskset(ServingTasksetConfig(id="llmserve-verifiers", task_id="static_workload"))))
    env = ServingEnv("static_workload")
    env.reset(task.data.seed)
    for _ in range(120):
        env.step(CHOSEN)
    expected = grade(env.episode_log())
    assert len(traces) == 2
    for trace in traces:
        assert trace["errors"] == []
        assert trace["task"]["data"]["seed"] == task.data.seed
        assert _value(trace["rewards"]["mean_reward"]) == pytest.approx(expected.mean_reward)
        assert _value(trace["metrics"]["score"]) == pytest.approx(expected.score)
        assert _value(trace["metrics"]["windows"]) == 120
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in asked[0]["tools"]}
    assert set(tools) == {"observe", "set_knobs", "advance", "forecast", "history"}
    assert tools["set_knobs"]["properties"]["batch_cap"]["maximum"] == 512
    assert "You operate a fleet" in str(asked[0]["messages"])
    told = [str(message["content"]) for message in asked[-1]["messages"] if message["role"] == "tool"]
    assert any("Refused: windows: must be an integer in 1..20" in text for text in told)


def test_a_rollout_that_stops_early_is_not_paid_for_it(tmp_path: Path) -> None:
    traces, _ = evaluate(tmp_path, [("advance", {"windows": 5})])
    report = grade(_played(5).episode_log())
    assert report.references is not None
    reward = (report.total_reward + 115 * report.references.random) / 120
    assert _value(traces[0]["rewards"]["mean_reward"]) == pytest.approx(reward)


def test_no_windows_earn_the_lowest_reward_and_seeds_are_of_the_split() -> None:
    assert outcome("static_workload", 3, []).reward <= 0
    config = ServingTasksetConfig(id="llmserve-verifiers", split="test", episodes=50)
    tasks = list(ServingTaskset(config))
    assert len({task.data.seed for task in tasks}) == 50
    assert all(2_000_000 <= task.data.seed < 2_001_000 for task in tasks)
    assert [task.data.seed for task in ServingTaskset(config)] == [task.data.seed for task in tasks]


def _played(windows: int) -> ServingEnv:
    task = next(iter(ServingTaskset(ServingTasksetConfig(id="llmserve-verifiers", task_id="static_workload"))))
    env = ServingEnv("static_workload")
    env.reset(task.data.seed)
    for _ in range(windows):
        env.step({})
    return env


def _value(recorded: Any) -> float:
    """Return a recorded signal; a reward comes with its weight."""
    return float(recorded["score"] if isinstance(recorded, dict) else recorded)
