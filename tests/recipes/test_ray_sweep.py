"""A sweep on a local Ray cluster of two processes keeps each run's policy and card, the same as one process makes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ray", "threadpoolctl", "torch")),
    reason="llmserve-agents is not here with its extras ray and train: nox -s ray",
)
BUDGET = ("--task", "static_workload", "--steps", "960")


def sweep(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "recipes" / "ray_sweep.py"), *BUDGET, *arguments, "--output", str(output)]
    return subprocess.run(
        command,
        cwd=output.parent,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def content(folder: Path, name: str) -> bytes:
    return (folder / "static_workload" / name).read_bytes()


def test_two_processes_of_a_cluster_train_what_one_process_trains_and_nothing_twice(tmp_path: Path) -> None:
    swept = sweep(tmp_path / "ray", "--seeds", "2", "--workers", "2")
    assert swept.returncode == 0, swept.stderr[-3000:]
    assert "2 runs, of which 2 are to be trained, 2 at a time" in swept.stdout
    assert "over 2 seeds" in swept.stdout
    runs = [json.loads(content(tmp_path / "ray", f"seed{seed}/sweep.json")) for seed in (0, 1)]
    assert len({found["process"] for found in runs}) == 2
    cards = [json.loads(content(tmp_path / "ray", f"seed{seed}/card.json")) for seed in (0, 1)]
    assert [card["seed"] for card in cards] == [0, 1]
    assert [card["validation_mean_reward"] for card in cards] == [found["policy"] for found in runs]

    again = sweep(tmp_path / "ray", "--seeds", "2", "--workers", "2")
    assert "2 runs, of which 0 are to be trained" in again.stdout
    assert again.stdout.split("time\n")[1] == swept.stdout.split("2 of 2 done\n")[1]

    alone = sweep(tmp_path / "serial", "--seeds", "1", "--executor", "serial")
    assert alone.returncode == 0, alone.stderr[-3000:]
    for name in ("seed0/policy.safetensors", "seed0/card.json"):
        assert content(tmp_path / "serial", name) == content(tmp_path / "ray", name)


def test_a_run_that_asked_for_less_training_is_made_anew(tmp_path: Path) -> None:
    first = sweep(tmp_path / "out", "--seeds", "1", "--executor", "serial")
    assert first.returncode == 0, first.stderr[-3000:]
    second = sweep(tmp_path / "out", "--seeds", "1", "--executor", "serial", "--steps", "1920")
    assert "1 runs, of which 1 are to be trained" in second.stdout
    assert json.loads(content(tmp_path / "out", "seed0/card.json"))["config"]["steps"] == 1920


def test_a_wrong_option_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for option, said in (("--steps", "steps: must be in 1.."), ("--seeds", "--seeds: must be at least 1")):
        refused = sweep(tmp_path / "out", option, "0")
        assert refused.returncode == 2
        assert said in refused.stderr
    assert not (tmp_path / "out").exists()
