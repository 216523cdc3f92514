"""What a window costs, and when nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from llmserve_agents.llm.prices import PRICES
from llmserve_server.backends.real.answers import Answer, Failure
from llmserve_server.backends.real.config import RealConfig
from llmserve_server.backends.real.load_generator import RequestResult
from llmserve_server.backends.real.pricing import pricing_of
from llmserve_server.backends.real.sampling import SampledRequest

REQUEST = SampledRequest(id=0, due_s=0.0, prompt_tokens=500, completion_tokens=100, priority=1, tenant=0)


def result(answer: Answer) -> RequestResult:
    return RequestResult(REQUEST, answer, sent_s=0.0)


def test_listed_models_cost_what_the_table_says(config: Callable[..., RealConfig]) -> None:
    """Prompt, cached prompt and completion tokens each have their price; the source and its date are named."""
    pricing = pricing_of(replace(config(model="gpt-4.1-mini"), base_url=None))
    assert pricing is not None
    assert "2026-06-21" in pricing.source
    counted = Answer(times=[1.0], prompt_tokens=1_000_000, cached_tokens=500_000, completion_tokens=1_000_000)
    assert pricing.cost_usd([result(counted)], 5.0) == pytest.approx(0.2 + 0.05 + 1.6)


def test_a_dated_snapshot_costs_what_its_model_costs(config: Callable[..., RealConfig]) -> None:
    """OpenAI's names end in a date where a snapshot is pinned."""
    pinned = pricing_of(replace(config(model="gpt-4.1-mini-2025-04-14"), base_url=None))
    assert pinned is not None
    assert pinned.tokens is PRICES["gpt-4.1-mini"]


def test_an_unknown_model_has_no_price(config: Callable[..., RealConfig]) -> None:
    """None, and not zero; nor does a listed name have one where something else than OpenAI answers to it."""
    assert pricing_of(replace(config(model="gpt-9"), base_url=None)) is None
    assert pricing_of(config(model="gpt-4.1-mini")) is None


def test_settings_override_the_table(config: Callable[..., RealConfig]) -> None:
    """Per million tokens, or per hour for a server of one's own."""
    own = pricing_of(config(usd_per_1m_prompt_tokens=10.0, usd_per_1m_completion_tokens=20.0))
    assert own is not None
    assert own.cost_usd([result(Answer(times=[1.0], prompt_tokens=100, completion_tokens=10))], 5.0) == pytest.approx(
        0.0012
    )
    hourly = pricing_of(config(usd_per_hour=3.6))
    assert hourly is not None
    assert hourly.cost_usd([], 5.0) == pytest.approx(0.005)


def test_what_was_not_counted_is_estimated_and_what_never_began_is_free(config: Callable[..., RealConfig]) -> None:
    """A cut-off answer is paid for up to there; a refused request is not paid for."""
    pricing = pricing_of(config(usd_per_1m_prompt_tokens=1.0, usd_per_1m_completion_tokens=1.0))
    assert pricing is not None
    cut = Answer(times=[1.0, 2.0], failure=Failure.TRUNCATED)
    refused = Answer(failure=Failure.RATE_LIMITED)
    assert pricing.cost_usd([result(cut), result(refused)], 5.0) == pytest.approx(502e-6)
