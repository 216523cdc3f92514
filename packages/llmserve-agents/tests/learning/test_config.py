"""The hyper-parameters: each has a help text and bounds, and configurations of older versions are still understood."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from llmserve_agents.learning.config import PPOConfig, option_of, with_current_names

WEIGHTS = Path(__file__).resolve().parents[4] / "weights"
CARDS = sorted((*WEIGHTS.glob("*/card.json"), *WEIGHTS.glob("*/seeds/*/card.json")))


def test_every_hyper_parameter_has_help_and_every_number_has_bounds() -> None:
    for field in fields(PPOConfig):
        assert field.metadata["help"].endswith(".")
        assert (field.metadata["bounds"] is None) is (field.type in {"str", "str | None"})


def test_defaults_are_within_their_bounds() -> None:
    assert PPOConfig().task == "bursty_workload"


def test_an_option_is_the_fields_name_with_dashes() -> None:
    assert option_of("gae_lambda") == "--gae-lambda"


def test_the_old_name_of_the_group_size_is_understood() -> None:
    assert with_current_names({"twins": 4, "seed": 1}) == {"group_size": 4, "seed": 1}
    assert with_current_names({"group_size": 4, "seed": 1}) == {"group_size": 4, "seed": 1}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: str(path.parent.relative_to(WEIGHTS)))
def test_the_configuration_of_every_shipped_card_is_understood(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))["config"]
    assert PPOConfig(**with_current_names(config)).group_size == config["twins"]
