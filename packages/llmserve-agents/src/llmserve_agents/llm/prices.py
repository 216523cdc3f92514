"""What an answer costs: list prices per million tokens, with their date and source; any of them can be overridden.

A model that is not in the table has no price, and its cost is null: never an estimate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from llmserve_sim.errors import InvalidInputError

__all__ = ["PRICES", "PRICES_AS_OF", "PRICES_SOURCE", "Price", "cost_usd", "price_of", "read_prices"]


class Price(BaseModel):
    """USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt_usd_per_million: float = Field(ge=0.0, description="Prompt tokens that were not cached.")
    cached_prompt_usd_per_million: float = Field(ge=0.0, description="Prompt tokens that the endpoint had cached.")
    completion_usd_per_million: float = Field(ge=0.0, description="Completion tokens.")


def _price(prompt: float, cached: float, completion: float) -> Price:
    return Price(
        prompt_usd_per_million=prompt,
        cached_prompt_usd_per_million=cached,
        completion_usd_per_million=completion,
    )


PRICES_AS_OF: Final = "2026-11"
"""Month of the price list below."""
PRICES_SOURCE: Final = "OpenAI's list prices, standard tier (https://platform.openai.com/docs/pricing)"
PRICES: Final[Mapping[str, Price]] = {
    "gpt-4.1": _price(2.00, 0.50, 8.00),
    "gpt-4.1-mini": _price(0.40, 0.10, 1.60),
    "gpt-4.1-nano": _price(0.10, 0.025, 0.40),
    "gpt-4o": _price(2.50, 1.25, 10.00),
    "gpt-4o-mini": _price(0.15, 0.075, 0.60),
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
