"""Shipping trained policies: every seed in its place, the best one in front, and no mixture of trainings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import ship_weights
from llmserve_agents.errors import WeightsMismatchError


def ship(runs: list[Path], weights: Path) -> list[str]:
    """Ship, where a card's word is taken for what is measured."""

    def measured(run: Path, seeds: Sequence[int]) -> float:
        assert seeds == range(1_000_024, 1_000_224)
        return float(ship_weights.card_of(run)["validation_mean_reward"])

    return ship_weights.ship(runs, weights, measured)


def run(folder: Path, seed: int, value: float, **changes: Any) -> Path:
    """A run's folder, as llmserve train leaves it."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "gamma": changes.pop("gamma", 0.97)}
    card = {
        "task_id": "bursty_workload", "task_digest": "d", "features_hash": "f", "simulator_version": "1", "steps": 10,
        "seed": seed, "validation_mean_reward": value, "validation_seeds": [1_000_000, 1_000_024], "config": config, **changes,
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "policy.safetensors").write_bytes(bytes([seed]))
    (folder / "learning.json").write_text("{}")
    return folder


def test_every_seed_is_shipped_and_the_best_on_fresh_validation_seeds_stands_in_front(tmp_path: Path) -> None:
    runs = [run(tmp_path / "runs" / str(seed), seed, value) for seed, value in ((0, 0.5), (1, 0.7), (2, 0.6))]
    [line] = ship(runs, tmp_path / "weights")
    assert line == "bursty_workload: seed 1 of 3 (0.5000, 0.7000, 0.6000 on validation seeds 1000024..1000223)"
    home = tmp_path / "weights" / "bursty_workload"
    assert (home / "policy.safetensors").read_bytes() == bytes([1])
    assert json.loads((home / "card.json").read_text())["seed"] == 1
    assert sorted(path.name for path in (home / "seeds").iterdir()) == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["card.json", "policy.safetensors", "learning.json"])
def test_a_run_that_was_not_finished_is_refused_and_nothing_is_copied(tmp_path: Path, name: str) -> None:
    runs = [run(tmp_path / "a", 0, 0.5), run(tmp_path / "b", 1, 0.5)]
    (runs[1] / name).unlink()
    with pytest.raises(ValueError, match=f"finished run, and has no {name}"):
        ship(runs, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_a_task_of_ones_own_is_not_shipped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of static_workload"):
        ship([run(tmp_path / "a", 0, 0.5, task_id="my_task")], tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_one_more_seed_is_compared_with_those_that_are_there(tmp_path: Path) -> None:
    ship([run(tmp_path / "a", 0, 0.5)], tmp_path / "weights")
    [line] = ship([run(tmp_path / "b", 1, 0.4)], tmp_path / "weights")
    assert line == "bursty_workload: seed 0 of 2 (0.5000, 0.4000 on validation seeds 1000024..1000223)"


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"gamma": 0.9}, "config.gamma"), ({"task_digest": "e"}, "task_digest"), ({"steps": 9}, "steps")],
)
def test_runs_that_more_than_their_seeds_tell_apart_are_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    runs = [run(tmp_path / "a", 0, 0.5), run(tmp_path / "b", 1, 0.5, **changes)]
    with pytest.raises(ValueError, match=named):
        ship(runs, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    ship(runs[:1], tmp_path / "weights")
    with pytest.raises(ValueError, match=named):
        ship(runs[1:], tmp_path / "weights")
    assert [path.name for path in (tmp_path / "weights" / "bursty_workload" / "seeds").iterdir()] == ["0"]


def test_a_card_with_an_older_name_of_a_setting_is_the_same_configuration(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, seed, 0.5) for seed, name in enumerate(("twins", "group_size"))]
    for folder in runs:
        card = json.loads((folder / "card.json").read_text())
        card["config"][folder.name] = 4
        (folder / "card.json").write_text(json.dumps(card))
    [line] = ship(runs, tmp_path / "weights")
    assert line.startswith("bursty_workload: seed 0 of 2")


def test_what_is_measured_is_the_policy_on_the_task_of_its_card() -> None:
    shipped = ship_weights.WEIGHTS / "bursty_workload"
    seeds = range(1_000_024, 1_000_028)
    assert ship_weights.mean_reward(shipped, seeds) == pytest.approx(
        sum(ship_weights.mean_reward(shipped, [seed]) for seed in seeds) / 4
    )
    assert 0.5 < ship_weights.mean_reward(shipped, seeds) < 0.8


def test_a_policy_that_cannot_be_measured_is_refused_and_nothing_is_copied(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatchError, match="schema_hash"):
        ship_weights.ship([run(tmp_path / "a", 0, 0.5)], tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_a_run_that_was_validated_on_nearly_all_validation_seeds_leaves_none_to_choose_by(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have 200 validation seeds from 1000900 on, and ends at 1000999"):
        ship([run(tmp_path / "a", 0, 0.5, validation_seeds=[1_000_000, 1_000_900])], tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
