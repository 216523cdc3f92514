"""What a window cost: from a dated table of list prices, from the owner's own prices, or not known at all.

The table holds OpenAI's list prices of the standard tier (https://developers.openai.com/api/docs/pricing), each with the
day on which published copies of that page agreed on it. It is consulted only where requests go to OpenAI itself. Prices
change: `LLMSERVE_REAL_USD_PER_1M_PROMPT_TOKENS` and `..._COMPLETION_TOKENS` override it, and `LLMSERVE_REAL_USD_PER_HOUR`
prices a server of one's own by time. A model without a price has no cost: it is reported as unmeasured, never as 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmserve_server.backends.real.config import RealConfig
    from llmserve_server.backends.real.dispatch import Fate

__all__ = ["OPENAI_PRICES", "Tariff", "TokenPrice", "tariff_of"]

_SOURCE: Final = "OpenAI list price, standard tier"
_SNAPSHOT: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """US dollars per million tokens, and the day on which that was the price."""

    prompt: float
    cached: float
    """Prompt tokens read from the provider's prefix cache."""
    completion: float
    as_of: str


OPENAI_PRICES: Final = {
    "gpt-4.1": TokenPrice(2.00, 0.50, 8.00, "2026-06-21"),
    "gpt-4.1-mini": TokenPrice(0.40, 0.10, 1.60, "2026-06-21"),
    "gpt-4.1-nano": TokenPrice(0.10, 0.025, 0.40, "2026-03-31"),
    "gpt-4o": TokenPrice(2.50, 1.25, 10.00, "2026-03-31"),
    "gpt-4o-mini": TokenPrice(0.15, 0.075, 0.60, "2026-03-31"),
    "gpt-5-mini": TokenPrice(0.25, 0.025, 2.00, "2026-03-31"),
}
"""By model; a dated snapshot of a model (``gpt-4.1-mini-2025-04-14``) costs what the model costs."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """How an endpoint is paid for."""

    source: str
    """Where the prices come from, with their date if they have one."""
    tokens: TokenPrice | None = None
    usd_per_hour: float | None = None

    def cost_usd(self, fates: Iterable[Fate], elapsed_s: float) -> float:
        """Return the cost of a window, US dollars.

        Where the endpoint did not count a request's tokens they are estimated. A request that got no text at all is
        taken as free; one that was cut off later is paid for up to there.
        """
        if self.tokens is None:
            return (self.usd_per_hour or 0.0) * elapsed_s / 3600.0
        price = self.tokens
        dollars = []
        for fate in fates:
            answer = fate.answer
            if not answer.tokens:
                continue
            prompt = fate.order.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens
            dollars += [
                (prompt - answer.cached_tokens) * price.prompt / 1e6,
                answer.cached_tokens * price.cached / 1e6,
                answer.tokens * price.completion / 1e6,
            ]
        return fsum(dollars)


def tariff_of(config: RealConfig) -> Tariff | None:
    """Return how the endpoint is paid for, or None where nobody has said."""
    prompt, completion = config.usd_per_1m_prompt_tokens, config.usd_per_1m_completion_tokens
    if prompt is not None and completion is not None:
        return Tariff("settings: per million tokens", TokenPrice(prompt, prompt, completion, ""))
    if config.usd_per_hour is not None:
        return Tariff("settings: per hour", usd_per_hour=config.usd_per_hour)
    listed = OPENAI_PRICES.get(_SNAPSHOT.sub("", config.model)) if config.is_openai else None
    return None if listed is None else Tariff(f"{_SOURCE}, {listed.as_of}", listed)
