"""The cost of a window: from OpenAI's list prices, from the prices in the settings, or unknown.

The list prices are those of `llmserve_agents.llm.prices`, and apply only where requests go to OpenAI itself. The
settings `LLMSERVE_REAL_USD_PER_1M_PROMPT_TOKENS` and `..._COMPLETION_TOKENS` override them;
`LLMSERVE_REAL_USD_PER_HOUR` prices your own server by time. A model without a price has no cost: the cost is reported
as unmeasured, never as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING

from llmserve_agents.llm.prices import PRICES_SOURCE, Price, price_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmserve_server.backends.real.config import RealConfig
    from llmserve_server.backends.real.load_generator import RequestResult

__all__ = ["Pricing", "pricing_of"]


@dataclass(frozen=True, slots=True)
class Pricing:
    """The price of an endpoint's service: per token, or per hour."""

    source: str
    """Where the prices come from, with their date if they have one."""
    tokens: Price | None = None
    usd_per_hour: float | None = None

    def cost_usd(self, results: Iterable[RequestResult], elapsed_s: float) -> float:
        """Return the cost of a window, US dollars.

        Tokens that the endpoint did not count are estimated. A request without any text costs nothing; a request that
        was cut off costs what it got.
        """
        if self.tokens is None:
            return (self.usd_per_hour or 0.0) * elapsed_s / 3600.0
        price = self.tokens
        dollars = []
        for result in results:
            answer = result.answer
            if not answer.tokens:
                continue
            prompt = result.request.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens
            dollars += [
                (prompt - answer.cached_tokens) * price.prompt_usd_per_million / 1e6,
                answer.cached_tokens * price.cached_prompt_usd_per_million / 1e6,
                answer.tokens * price.completion_usd_per_million / 1e6,
            ]
        return fsum(dollars)


def pricing_of(config: RealConfig) -> Pricing | None:
    """Return the endpoint's pricing; None where neither the settings nor the list has a price."""
    prompt, completion = config.usd_per_1m_prompt_tokens, config.usd_per_1m_completion_tokens
    if prompt is not None and completion is not None:
        own = Price(
            prompt_usd_per_million=prompt,
            cached_prompt_usd_per_million=prompt,
            completion_usd_per_million=completion,
        )
        return Pricing("settings: per million tokens", own)
    if config.usd_per_hour is not None:
        return Pricing("settings: per hour", usd_per_hour=config.usd_per_hour)
    listed = price_of(config.model) if config.is_openai else None
    return None if listed is None else Pricing(f"{PRICES_SOURCE}, {listed.as_of}", listed)
