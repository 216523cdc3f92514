"""Costs are list prices times counted tokens, or null."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from llmserve_agents.llm.prices import PRICES, Price, cost_usd, price_of, read_prices
from llmserve_sim.errors import InvalidInputError


def test_cached_tokens_cost_less_and_completions_more() -> None:
    price = Price(prompt_usd_per_million=1.0, cached_prompt_usd_per_million=0.25, completion_usd_per_million=4.0)
    assert cost_usd(price, prompt_tokens=1000, cached_prompt_tokens=400, completion_tokens=50) == pytest.approx(900e-6)


def test_a_dated_snapshot_costs_what_its_model_does_and_an_unknown_model_has_no_price() -> None:
    assert price_of("gpt-4.1-mini-2025-04-14") == PRICES["gpt-4.1-mini"]
    assert price_of("gpt-4.1-minimal") is None
    assert price_of("my-own-8b") is None


def test_a_file_goes_over_the_table(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    own = {"prompt_usd_per_million": 0, "cached_prompt_usd_per_million": 0, "completion_usd_per_million": 0}
    path.write_text(json.dumps({"my-own-8b": own}))
    prices = read_prices(path)
    assert price_of("my-own-8b", prices) == Price(**own)
    assert prices["gpt-4.1"] == PRICES["gpt-4.1"]


@pytest.mark.parametrize(
    ("content", "field"), [("{", "prices"), ('{"m": {"prompt_usd_per_million": -1}}', "prices.m"), ("[]", "prices")]
)
def test_a_wrong_file_is_refused_by_field(tmp_path: Path, content: str, field: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match=field):
        read_prices(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="prices"):
        read_prices(tmp_path / "none.json")


def test_every_listed_price_is_dated_and_sensible() -> None:
    """Cached below fresh, fresh below output, an ISO date."""
    for price in PRICES.values():
        assert 0.0 < price.cached_prompt_usd_per_million < price.prompt_usd_per_million
        assert price.prompt_usd_per_million < price.completion_usd_per_million
        assert date.fromisoformat(price.as_of or "").isoformat() == price.as_of
