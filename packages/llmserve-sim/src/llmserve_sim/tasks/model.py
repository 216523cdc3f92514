"""`Task`: every number that defines a task, with its bounds, unit and meaning. Pydantic only.

Field names carry their units. A task is validated once, where it enters: exact types, no unknown keys, no NaN or
infinity, and the relations between fields that the generators rely on. It knows nothing about simulation.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmserve_sim.tasks.traffic import (
    Alternation,
    Burst,
    Diurnal,
    LengthModel,
    MegaPrompts,
    OnOff,
    PrioritySurge,
    RateNoise,
    Share,
    Spikes,
    TenantClass,
    problem,
)

__all__ = [
    "MAX_EPISODE_REQUESTS",
    "MAX_TENANT_CLASSES",
    "MAX_UNFINISHED",
    "AcceptanceDrift",
    "CotenantWave",
    "Lengths",
    "PrefixCache",
    "Priority",
    "RewardWeights",
    "SeedRange",
    "SeedRanges",
    "SloClass",
    "Slos",
    "Split",
    "Task",
    "Traffic",
]

MAX_TENANT_CLASSES = 4
"""The engine keeps one shared token count per class."""
MAX_EPISODE_REQUESTS = 2_000_000
"""Most requests expected in an episode; beyond, the arrays alone take gigabytes."""
MAX_EPISODE_S = 2_592_000.0
"""Longest episode, s: 30 days, inside the 106 days that int64 picoseconds can count."""
MAX_UNFINISHED = 524_288
"""Most unfinished requests: the engine's slots of 168 bytes, found by 24-bit offsets, hold no more of them."""

_PS_PER_S = 10**12
_PROSE = {"name", "description", "difficulty"}


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Traffic(_Table):
    """When requests arrive: a rate per window, and how regular arrivals are within it."""

    rate_rps: float = Field(ge=0.0, le=10_000.0, description="Base arrival rate, requests/s.")
    gap_cv: float = Field(
        default=1.0,
        ge=0.2,
        le=4.0,
        description="Coefficient of variation of the gaps (Weibull; 1 is a Poisson process).",
    )
    burst: Burst | None = Field(default=None, description="Recurring bursts whose phase can be learned.")
    spikes: Spikes | None = Field(default=None, description="Single loaded windows at random.")
    on_off: OnOff | None = Field(default=None, description="Two-state Markov modulation (MMPP).")
    rate_noise: RateNoise | None = Field(default=None, description="Slow random modulation of the rate.")
    diurnal: Diurnal | None = Field(default=None, description="Daily swing of the rate.")


class Lengths(_Table):
    """Prompt and output lengths, drawn independently (uncorrelated in the Azure 2023 traces)."""

    prompt: LengthModel = Field(description="Prompt lengths.")
    output: LengthModel = Field(description="Output lengths.")
    mega: MegaPrompts | None = Field(default=None, description="A share of very long prompts.")
    alternation: Alternation | None = Field(default=None, description="Prefill-heavy and decode-heavy phases.")


class Priority(_Table):
    """The share of requests in the priority class and what they weigh in SLO compliance."""

    share: Share = Field(description="Share of requests with priority.")
    share_burst: Share = Field(description="The same in burst and spike windows.")
    weight: float = Field(
        ge=1.0, le=100.0, description="Weight of a priority request in SLO compliance; standard is 1."
    )
    surge: PrioritySurge | None = Field(default=None, description="Recurring windows with a larger priority share.")


class AcceptanceDrift(_Table):
    """Draft acceptance of the mean tenant class, per window: mean + sine + AR(1) noise - dip, clipped to .05-.95."""

    mean: Share = Field(description="Mean probability that a draft token is accepted.")
    swing: float = Field(ge=0.0, le=0.5, description="Amplitude of the sine.")
    period_windows: int = Field(ge=2, le=100_000, description="Period of the sine, windows; its phase is random.")
    noise_sd: float = Field(ge=0.0, le=0.5, description="Stationary standard deviation of the noise.")
    noise_correlation: float = Field(ge=0.0, le=0.999, description="Correlation of the noise from window to window.")
    burst_dip: float = Field(ge=0.0, le=0.5, description="What burst and spike windows take off.")


class CotenantWave(_Table):
    """Memory that another job on the same GPUs takes: a raised cosine of random phase plus noise."""

    low_gb: float = Field(ge=0.0, le=1000.0, description="Trough, GB (1e9 bytes) per GPU.")
    high_gb: float = Field(ge=0.0, le=1000.0, description="Crest, GB per GPU.")
    period_windows: int = Field(ge=2, le=100_000, description="Period, windows.")
    noise_gb: float = Field(default=0.0, ge=0.0, le=100.0, description="Standard deviation of independent noise, GB.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high_gb < self.low_gb:
            raise problem("high_gb", "must be at least low_gb")
        return self


class SloClass(_Table):
    """Targets of one class of requests."""

    ttft_s: float = Field(gt=0.0, le=3600.0, description="Time to first token, s, for an empty prompt.")
    tpot_ms: float = Field(gt=0.0, le=60_000.0, description="Mean time per output token after the first, ms.")


class Slos(_Table):
    """Service-level objectives: TTFT <= ttft_s + prompt / ttft_prompt_tokens_per_s, and TPOT."""

    standard: SloClass = Field(description="Standard requests.")
    priority: SloClass = Field(description="Priority requests.")
    ttft_prompt_tokens_per_s: float = Field(
        ge=1.0, le=1e9, description="Prompt tokens that earn one more second of TTFT."
    )


class PrefixCache(_Table):
    """Reuse of prompt prefixes held in spare KV blocks: hit share h·P/(P + P0) with P GB spare per GPU."""

    hit_share: float = Field(
        ge=0.0, le=1.0, description="h: share of a prompt that is hit with unlimited spare memory."
    )
    half_gb: float = Field(gt=0.0, le=1000.0, description="P0: spare GB at which half of that is hit.")


class RewardWeights(_Table):
    """Weights of the reward's terms (all positive; pressure and cost are subtracted).

    The two expected figures select the terms that count (`reward.py`); they are given together or not at all.
    """

    throughput: Share = Field(description="Quality-weighted tokens within SLO, over tokens offered.")
    slo: Share = Field(description="Priority-weighted SLO compliance.")
    memory: Share = Field(description="Pressure over the shared memory cap.")
    cost: Share = Field(description="Cost per token over `cost_scale_usd_per_1k`.")
    cost_scale_usd_per_1k: float = Field(
        gt=0.0, le=1000.0, description="GPU cost of 1000 output tokens at which the cost term is 1, US dollars."
    )
    requests_per_s: float | None = Field(
        default=None,
        gt=0.0,
        le=1e6,
        description="Expected arrivals, priority-weighted requests/s; with the next, the terms count requests and tokens.",
    )
    output_tokens_per_s: float | None = Field(
        default=None, gt=0.0, le=1e10, description="Expected output tokens that arrivals ask for, tokens/s."
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        for name, other in (("requests_per_s", "output_tokens_per_s"), ("output_tokens_per_s", "requests_per_s")):
            if getattr(self, name) is None and getattr(self, other) is not None:
                raise problem(name, f"must be given with {other}")
        return self

    @property
    def counted(self) -> bool:
        """Whether the terms count requests and tokens over expected ones, instead of shares per window."""
        return self.requests_per_s is not None


class SeedRange(_Table):
    """Episode seeds start <= seed < stop."""

    start: int = Field(ge=0, le=2**62, description="First seed.")
    stop: int = Field(ge=1, le=2**62, description="One past the last seed.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.stop <= self.start:
            raise problem("stop", "must exceed start")
        return self

    def __contains__(self, seed: object) -> bool:
        return isinstance(seed, int) and self.start <= seed < self.stop

    def __len__(self) -> int:
        return self.stop - self.start


Split = Literal["train", "validation", "test", "reference"]
"""What a range of seeds is for."""


class SeedRanges(_Table):
    """Disjoint seeds for learning, choosing, claiming, and for the score's references."""

    train: SeedRange = Field(description="Seeds to learn from.")
    validation: SeedRange = Field(description="Seeds to choose by.")
    test: SeedRange = Field(description="Seeds that claims are made on.")
    reference: SeedRange = Field(description="Seeds that the score's references are means over.")

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        ranges = sorted((r.start, r.stop, name) for name, r in self.items())
        for (_, stop, name), (start, _, other) in pairwise(ranges):
            if start < stop:
                raise problem(other, f"must not share seeds with {name}")
        return self

    def split_of(self, seed: int) -> Split | None:
        """Return the name of the range that `seed` is in, if any."""
        return next((name for name, r in self.items() if seed in r), None)

    def items(self) -> tuple[tuple[Split, SeedRange], ...]:
        """Return the ranges with their names, in the order of use."""
        return (
            ("train", self.train),
            ("validation", self.validation),
            ("test", self.test),
            ("reference", self.reference),
        )


class Task(_Table):
    """A task: a deployment, what happens to it, what is asked of it, and the seeds of its episodes."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="Stable identifier.")
    name: str = Field(min_length=1, max_length=80, description="Name for people.")
    description: str = Field(min_length=1, max_length=1000, description="What the task teaches.")
    difficulty: Literal["easy", "medium", "hard"] = Field(description="Rough difficulty.")
    extended: bool = Field(description="False for the three tasks that validators know.")
    deployment: str = Field(min_length=1, max_length=100, description="Name of the deployment that serves it.")
    windows: int = Field(ge=1, le=100_000, description="Windows (steps) in an episode.")
    window_s: float = Field(ge=0.1, le=3600.0, description="Simulated seconds per window.")
    patience_s: float = Field(
        ge=0.0, le=86_400.0, description="Wait for the first token until abandonment, s; 0: never."
    )
    max_len_tokens: int = Field(ge=32, le=1_048_576, description="Longest prompt plus output, tokens.")
    max_unfinished: int = Field(
        ge=1, le=MAX_UNFINISHED, description="Unfinished requests at which arrivals are rejected."
    )
    memory_cap_share: Share = Field(description="Share of usable GPU memory above which memory is under pressure.")
    traffic: Traffic = Field(description="Arrivals.")
    lengths: Lengths = Field(description="Lengths.")
    tenants: Annotated[tuple[TenantClass, ...], Field(strict=False, min_length=1, max_length=MAX_TENANT_CLASSES)] = (
        Field(description="Tenant classes; their shares add up to 1.")
    )
    priority: Priority = Field(description="Priority class.")
    acceptance: AcceptanceDrift = Field(description="Draft acceptance over time.")
    cotenant: CotenantWave | None = Field(default=None, description="The neighbour's memory demand; absent: none.")
    slo: Slos = Field(description="Service-level objectives.")
    prefix_cache: PrefixCache | None = Field(default=None, description="Prefix reuse; absent: none.")
    reward: RewardWeights = Field(description="Reward.")
    seeds: SeedRanges = Field(description="Episode seeds.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for label in ("share", "share_burst"):
            total = sum(getattr(t, label) for t in self.tenants)
            if abs(total - 1.0) > 1e-6:
                raise problem("tenants", f"{label} must add up to 1, is {total:g}")
        if len({t.id for t in self.tenants}) < len(self.tenants):
            raise problem("tenants", "ids must differ")
        if self.windows * self.window_s > MAX_EPISODE_S:
            raise problem("windows", f"windows x window_s must be at most {MAX_EPISODE_S:.0f} s")
        if self.peak_rate_rps * self.windows * self.window_s > MAX_EPISODE_REQUESTS:
            raise problem("traffic", f"at most {MAX_EPISODE_REQUESTS} requests an episode, rate x duration is more")
        if self.peak_rate_rps * self.window_s > 100_000:
            raise problem("traffic", "at most 100000 requests a window, rate x window_s is more")
        return self

    @property
    def peak_rate_rps(self) -> float:
        """Largest rate that the task's fields name, requests/s (before diurnal swing and noise)."""
        t = self.traffic
        return max(
            t.rate_rps,
            t.burst.rate_rps if t.burst else 0.0,
            t.spikes.rate_rps if t.spikes else 0.0,
            t.on_off.off_rate_rps if t.on_off else 0.0,
        )

    @property
    def window_ps(self) -> int:
        """Length of a window, integer picoseconds."""
        return round(self.window_s * _PS_PER_S)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that can change an episode or its reward: all but the prose."""
        content = self.model_dump(mode="json", exclude=_PROSE)
        # A task without these has the digest that it had before they existed.
        for name in ("requests_per_s", "output_tokens_per_s"):
            if content["reward"][name] is None:
                del content["reward"][name]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
