"""What tokens cost: the project's only table of OpenAI's list prices, each with the day on which it was read.

The baseline suites and the server's real mode use it. The cost of a model that is not
in the table is null. A file of the user's own prices overrides the table (`read_prices`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from llmserve_sim.errors import InvalidInputError

__all__ = ["PRICES", "PRICES_SOURCE", "PRICES_URL", "Price", "cost_usd", "price_of", "read_prices"]


class Price(BaseModel):
    """USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt_usd_per_million: float = Field(ge=0.0, description="Prompt tokens that were not cached.")
    cached_prompt_usd_per_million: float = Field(ge=0.0, description="Prompt tokens that the endpoint had cached.")
    completion_usd_per_million: float = Field(ge=0.0, description="Completion tokens.")
    as_of: str | None = Field(default=None, description="Day (ISO 8601) on which this was the price; null: not said.")


def _price(prompt: float, cached: float, completion: float, as_of: str) -> Price:
    return Price(
        prompt_usd_per_million=prompt,
        cached_prompt_usd_per_million=cached,
        completion_usd_per_million=completion,
        as_of=as_of,
    )


PRICES_SOURCE: Final = "OpenAI's list prices, standard tier"
PRICES_URL: Final = "https://developers.openai.com/api/docs/pricing"
"""Where they are published. `as_of` is the day on which published copies of that page agreed on the price."""
PRICES: Final[Mapping[str, Price]] = {
    "gpt-4.1": _price(2.00, 0.50, 8.00, "2026-06-21"),
    "gpt-4.1-mini": _price(0.40, 0.10, 1.60, "2026-06-21"),
    "gpt-4.1-nano": _price(0.10, 0.025, 0.40, "2026-03-31"),
    "gpt-4o": _price(2.50, 1.25, 10.00, "2026-03-31"),
    "gpt-4o-mini": _price(0.15, 0.075, 0.60, "2026-03-31"),
    "gpt-5-mini": _price(0.25, 0.025, 2.00, "2026-03-31"),
}
"""Prices by model. A dated snapshot (``gpt-4.1-mini-2025-04-14``) costs what its model does."""

_SNAPSHOT: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_TABLE: Final = TypeAdapter(dict[str, Price])


def price_of(model: str, prices: Mapping[str, Price] = PRICES) -> Price | None:
    """Return the price of a model, or None where the table does not know it."""
    return prices.get(model) or prices.get(_SNAPSHOT.sub("", model))


def cost_usd(price: Price, *, prompt_tokens: int, cached_prompt_tokens: int, completion_tokens: int) -> float:
    """Return what the tokens cost; `prompt_tokens` includes the cached ones."""
    fresh = prompt_tokens - cached_prompt_tokens
    return (
        fresh * price.prompt_usd_per_million
        + cached_prompt_tokens * price.cached_prompt_usd_per_million
        + completion_tokens * price.completion_usd_per_million
    ) / 1e6


def read_prices(path: Path) -> dict[str, Price]:
    """Return the table with the entries of a JSON file (model: a `Price`) put over it.

    Raises `InvalidInputError` for a file that cannot be read or an entry that is no price.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {**PRICES, **_TABLE.validate_python(content)}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInputError("prices", f"must be a readable JSON file ({error})", got=str(path)) from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(["prices", *map(str, problem["loc"])])
        raise InvalidInputError(field, problem["msg"], got=problem["input"]) from None
