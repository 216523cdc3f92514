"""The parts of a task that describe its traffic: patterns in time, lengths, tenants. Pydantic only.

Each table is one generator's parameters (`workload/`), optional unless the task needs it.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "Alternation",
    "Burst",
    "Diurnal",
    "LengthModel",
    "MegaPrompts",
    "OnOff",
    "PrioritySurge",
    "RateNoise",
    "Share",
    "Spikes",
    "TenantClass",
    "problem",
]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A dimensionless share or probability."""
MAX_TOKENS = 1_048_576
"""Longest prompt or output that a table of lengths covers."""


def problem(field: str, bound: str) -> PydanticCustomError:
    """Return the error of a relation between fields that does not hold; `field` is the one to look at first."""
    return PydanticCustomError("relation", "{field}: {bound}", {"field": field, "bound": bound})


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class LengthModel(_Table):
    """Log-normal token counts, cut at the bounds, with their mean after cutting as the parameter."""

    mean_tokens: float = Field(ge=1.0, le=MAX_TOKENS, description="Mean, tokens.")
    sigma: float = Field(ge=0.0, le=3.0, description="Standard deviation of the logarithm, before cutting.")
    min_tokens: int = Field(ge=1, le=MAX_TOKENS, description="Shortest, tokens.")
    max_tokens: int = Field(ge=1, le=MAX_TOKENS, description="Longest, tokens.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min_tokens <= self.mean_tokens <= self.max_tokens:
            raise problem("mean_tokens", "must lie between min_tokens and max_tokens")
        # Near a bound no log-normal of that width has that mean: the model could not keep its promise.
        if self.sigma > 0 and not 1.02 * self.min_tokens <= self.mean_tokens <= 0.9 * self.max_tokens:
            raise problem("mean_tokens", "must be at least 1.02 x min_tokens and at most 0.9 x max_tokens")
        return self


class _Recurring(_Table):
    """`length_windows` in every `period_windows`, at a random phase drawn once, each shifted by up to ±jitter."""

    period_windows: int = Field(ge=1, le=10_000, description="Windows from one occurrence to the next.")
    length_windows: int = Field(ge=1, le=10_000, description="Windows that one occurrence lasts.")
    jitter_windows: int = Field(default=0, ge=0, le=1000, description="Largest shift of one occurrence, windows.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.length_windows + 2 * self.jitter_windows > self.period_windows:
            raise problem("length_windows", "with 2 x jitter_windows must be at most period_windows")
        return self


class Burst(_Recurring):
    """Windows of higher load that recur."""

    rate_rps: float = Field(ge=0.0, le=10_000.0, description="Arrival rate in a burst window, requests/s.")


class PrioritySurge(_Recurring):
    """Windows in which priority traffic takes a larger share; they recur independently of bursts."""

    share: Share = Field(description="Priority share in a surge window.")


class Alternation(_Recurring):
    """Windows with other lengths: with long prompts and short outputs, or the reverse, against the rest."""

    prompt: LengthModel = Field(description="Prompt lengths in these windows.")
    output: LengthModel = Field(description="Output lengths in these windows.")


class Spikes(_Table):
    """Single windows of higher load, independent of one another and of bursts."""

    probability: Share = Field(description="Probability that a window is a spike.")
    rate_rps: float = Field(ge=0.0, le=10_000.0, description="Arrival rate in a spike window, requests/s.")


class OnOff(_Table):
    """Two-state Markov modulation: `rate_rps` of the traffic table while on, `off_rate_rps` while off."""

    mean_on_windows: float = Field(ge=1.0, le=10_000.0, description="Mean length of an on period (geometric), windows.")
    mean_off_windows: float = Field(ge=1.0, le=10_000.0, description="Mean length of an off period, windows.")
    off_rate_rps: float = Field(default=0.0, ge=0.0, le=10_000.0, description="Arrival rate while off, requests/s.")


class RateNoise(_Table):
    """Unit-mean log-normal AR(1) factor on the rate: a slowly wandering load (a Cox process)."""

    cv: float = Field(ge=0.0, le=2.0, description="Coefficient of variation of the factor.")
    correlation: float = Field(ge=0.0, le=0.999, description="Correlation of its logarithm from window to window.")


class Diurnal(_Table):
    """Unit-mean sinusoidal factor on the rate; the trough is `trough_window`, known to everyone as the hour is."""

    peak_to_trough: float = Field(ge=1.0, le=20.0, description="Largest over smallest rate (ServeGen: 1.45-4.9).")
    period_windows: int = Field(ge=2, le=1_000_000, description="Windows in a day.")
    trough_window: int = Field(default=0, ge=0, le=1_000_000, description="Window of the smallest rate.")


class MegaPrompts(_Table):
    """A share of prompts that are uniform between two large lengths."""

    share: Share = Field(description="Share of requests.")
    share_burst: Share = Field(description="The same in burst and spike windows.")
    min_tokens: int = Field(ge=1, le=MAX_TOKENS, description="Shortest, tokens.")
    max_tokens: int = Field(ge=1, le=MAX_TOKENS, description="Longest, tokens.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_tokens < self.min_tokens:
            raise problem("max_tokens", "must be at least min_tokens")
        return self


class TenantClass(_Table):
    """One class of tenants: how well its text is predicted by a draft, and what quality is worth to it."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$", description="Name of the class.")
    share: Share = Field(description="Share of requests.")
    share_burst: Share = Field(description="The same in burst and spike windows.")
    acceptance_offset: float = Field(ge=-1.0, le=1.0, description="Added to the mean draft acceptance.")
    quality_stake: float = Field(ge=0.0, le=30.0, description="Value lost per unit of quality loss in calm windows.")
    quality_stake_burst: float = Field(ge=0.0, le=30.0, description="The same in burst and spike windows.")
