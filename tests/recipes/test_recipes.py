"""Every recipe runs as a program with a tiny budget, and says what it reached."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(recipe: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, str(ROOT / "recipes" / recipe), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: nox -s recipes")


def test_stable_baselines3_trains_saves_and_is_scored(tmp_path: Path) -> None:
    needs("stable_baselines3", "torch")
    budget = ("--steps", "960", "--envs", "4", "--episodes", "2")
    said = run("sb3_ppo.py", *budget, "--output", "policy.zip", folder=tmp_path)
    assert "2 test seeds: mean reward per window" in said
    assert (tmp_path / "policy.zip").stat().st_size > 0


def test_the_single_file_recipe_trains_logs_and_is_scored(tmp_path: Path) -> None:
    needs("torch", "tensorboard")
    budget = ("--total-timesteps", "960", "--num-envs", "4", "--episodes", "2")
    said = run("cleanrl_ppo.py", *budget, "--output", "out", folder=tmp_path)
    assert "2 test seeds: mean reward per window" in said
    assert (tmp_path / "out" / "agent.pt").stat().st_size > 0
    assert list((tmp_path / "out").glob("events.out.tfevents.*"))
