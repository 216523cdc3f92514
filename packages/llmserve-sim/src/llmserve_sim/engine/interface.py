"""The inputs and outputs of an engine, as plain integer records.

Both schedulers, the plain one in `engine/reference/` and the fast one in `engine/kernel/`, take and return these types
and must give identical results. Nothing here depends on tasks, rewards or hardware: the costs of an iteration come as
integer tables (`costs.py`), the decisions of an agent as a `WindowPlan`. Units and limits are in `units.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.bounds import Between, Checked, Column
from llmserve_sim.engine.costs import TierTables
from llmserve_sim.engine.rules import SchedulerRules
from llmserve_sim.engine.units import (
    BLOCK_TOKENS,
    DEPTHS,
    FP,
    MAX_ITERATION_PS,
    MAX_LEN,
    MAX_PRODUCT,
    MAX_STALL_PS,
    PRIORITY,
    PS_PER_S,
    REPLICAS_MAX,
    SEQS_MAX,
    STANDARD,
    TENANTS,
    UNFINISHED_MAX,
    Ints,
    Moment,
    Stall,
    Tokens,
)
from llmserve_sim.errors import InvalidInputError

__all__ = [
    "BLOCK_TOKENS",
    "DEPTHS",
    "FP",
    "PRIORITY",
    "PS_PER_S",
    "REPLICAS_MAX",
    "SEQS_MAX",
    "STANDARD",
    "STATUSES",
    "TENANTS",
    "TOTALS",
    "Engine",
    "FleetSpec",
    "LatencySink",
    "RequestRecord",
    "SchedulerRules",
    "Slo",
    "TierTables",
    "Traffic",
    "WindowPlan",
    "WindowStats",
]

STATUSES = ("finished", "abandoned", "rejected")
"""How a request ends; schedulers and `LatencySink` count a status as its place here."""


@dataclass(frozen=True, eq=False)
class Traffic(Checked):
    """The requests of an episode, sorted by arrival; a request's id is its index. Arrays of one length, int64.

    `output` is the true output length in tokens (at least 1). A scheduler may read it only to see
    that a request is finished.
    """

    arrival_ps: Annotated[Ints, Column(Between(0, MAX_PRODUCT, "ps"), sorted=True)]
    prompt: Tokens
    output: Tokens
    priority: Annotated[Ints, Column(Between(PRIORITY, STANDARD))]
    tenant: Annotated[Ints, Column(Between(0, TENANTS - 1))]

    def __len__(self) -> int:
        return len(self.arrival_ps)

    def _relations(self) -> None:
        for name in ("prompt", "output", "priority", "tenant"):
            if len(getattr(self, name)) != len(self):
                self._refuse(name, f"must be as long as arrival_ps, which has {len(self)} entries")


@dataclass(frozen=True, eq=False)
class FleetSpec(Checked):
    """A fleet of identical replicas and the fixed rules of its scheduler."""

    replicas: Annotated[int, Between(1, REPLICAS_MAX)]
    """1 to 8; prefill and decode can be split only with at least 2."""
    tiers: tuple[TierTables, TierTables, TierTables]
    """Costs at FP16, INT8, INT4."""
    swap_ps: tuple[Stall, Stall, Stall]
    """Stall of loading each tier's weights."""
    split_ps: Stall
    """Stall of a change of roles."""
    resize_ps: Stall
    """Stall of a KV pool resized by the agent."""
    evict_ps: Stall
    """Stall of an eviction forced by the co-tenant."""
    handover_ps: Annotated[int, Between(0, 1000 * PS_PER_S, "ps")]
    """Fixed latency of a prefill-to-decode hand-over."""
    link_ps_per_token: Annotated[int, Between(0, 1 << 40, "ps")]
    """Transfer time of one token's KV over a prefill replica's link."""
    max_len: Annotated[int, Between(2, MAX_LEN, "tokens")]
    """Longest prompt plus output, tokens. A prompt that leaves no room for one output token is rejected."""
    max_unfinished: Annotated[int, Between(1, UNFINISHED_MAX, "requests")]
    """An arrival that finds this many unfinished requests in the fleet is rejected."""
    patience_ps: Annotated[int, Between(0, 1_000_000 * PS_PER_S, "ps")]
    """A request that still waits for its first token after this long is abandoned; 0: never."""
    rules: SchedulerRules | None = None
    """Of a vLLM version. None: the simulator's first scheduler, which decodes first and takes a prompt's blocks at once
    and only the expected tokens' blocks of a step. Only the reference knows the others."""

    def _relations(self) -> None:
        stall = max(self.swap_ps) + self.split_ps + self.resize_ps + self.evict_ps
        if stall > MAX_STALL_PS:
            self._refuse("swap_ps", f"must leave the stalls of one window within {MAX_STALL_PS} ps in all, not {stall}")
        if self.max_unfinished * self.max_len * self.link_ps_per_token > MAX_PRODUCT:
            self._refuse("link_ps_per_token", "must let max_unfinished requests of max_len be sent within 2^62 ps")
        for tables in self.tiers:
            longest = tables.longest_iteration_ps(self.max_len)
            if longest > MAX_ITERATION_PS:
                self._refuse("tiers", f"must keep iterations within {MAX_ITERATION_PS} ps, not up to {longest}")

    @property
    def min_pool_blocks(self) -> int:
        """Fewest blocks of a pool: the largest request then always fits, with the tokens that speculation adds."""
        return (self.max_len + BLOCK_TOKENS) // BLOCK_TOKENS + 2

    def check_plan(self, plan: WindowPlan, now_ps: int) -> None:
        """Refuse a plan that this fleet cannot run from `now_ps` on.

        Raises:
            InvalidInputError: it names the field of `WindowPlan` and its bound.
        """
        if plan.end_ps <= now_ps:
            raise InvalidInputError("end_ps", f"must be after {now_ps}", got=plan.end_ps)
        if plan.split and self.replicas < 2:
            raise InvalidInputError("split", "needs at least two replicas", got=plan.split)


@dataclass(frozen=True)
class Slo(Checked):
    """Service-level objectives; pairs are indexed by class (0 priority, 1 standard)."""

    ttft_ps: tuple[Annotated[int, Between(0, 1 << 60, "ps")], int]
    ttft_ps_per_prompt_token: Annotated[int, Between(0, 1 << 40, "ps")]
    tpot_ps: tuple[Annotated[int, Between(0, 1 << 60, "ps")], int]


@dataclass(frozen=True, kw_only=True)
class WindowPlan(Checked):
    """The configuration of one window. The kernel reads the fields in this order."""

    end_ps: Moment
    """The window ends here; it starts where the previous one ended."""
    batch_cap: Annotated[int, Between(1, SEQS_MAX, "sequences")]
    """Most running requests per replica (vLLM's `max_num_seqs`)."""
    depth: Annotated[int, Between(0, DEPTHS - 1, "tokens")]
    """Draft tokens per speculative step, 0 to 8."""
    tier: Annotated[int, Between(0, 2)]
    """0 FP16, 1 INT8, 2 INT4."""
    split: bool
    """Half the replicas prefill, half decode."""
    priority: bool
    """Priority requests are admitted first and preempted last."""
    pool_blocks: Annotated[int, Between(1, 1 << 40, "blocks")]
    """KV blocks per replica that the co-tenant leaves; at least `FleetSpec.min_pool_blocks`."""
    resized: bool
    """Whether the agent's action, not the co-tenant, changed the pool."""
    hit_q10: Annotated[int, Between(0, 1024, "1/1024")] = 0
    """Largest share of a prompt that the prefix cache can hit, in 1/1024."""
    hit_half_blocks: Annotated[int, Between(1, 1 << 40, "blocks")] = 1
    """Number of cached blocks at which half of that share is hit."""
    tokens_per_step: tuple[tuple[Annotated[int, Between(FP, DEPTHS * FP, "1/256 token")], ...], ...]
    """[TENANTS][DEPTHS] fixed-point tokens per step; [t][0] = 256."""

    def _relations(self) -> None:
        rates = self.tokens_per_step
        if len(rates) != TENANTS or any(len(row) != DEPTHS or row[0] != FP for row in rates):
            self._refuse("tokens_per_step", f"must hold {TENANTS} rows of {DEPTHS} entries that begin with {FP}")

    @classmethod
    def unchecked(cls, **values: Any) -> Self:
        """Make a plan of values for every field that were checked where they came from; it takes a tenth of the time."""
        plan = object.__new__(cls)
        plan.__dict__.update((name, values[name]) for name in _PLAN_FIELDS)
        return plan


_PLAN_FIELDS = tuple(each.name for each in fields(WindowPlan))


@dataclass
class WindowStats:
    """The statistics of a window: integers, or lists of integers by class (0 priority, 1 standard) or by tenant.

    Percentiles are −1 in a window without samples. Only an engine that records fills in the histograms.

    The layout of an arena row, `read_stats`, the columns of a batch and the totals are derived from these fields: the
    default of a field gives its number of entries. A new field needs two more edits, one for each scheduler; see "How
    to add a counted figure" in CONTRIBUTING.md. Agents see a figure only if `metrics.py` adds it to the observation.
    """

    # since the start of the episode
    total_arrived: int = 0
    total_finished: int = 0
    total_abandoned: int = 0
    total_rejected: int = 0
    # in the window
    arrivals: int = 0
    arrivals_priority: int = 0
    prompt_tokens: int = 0
    offered_tokens: int = 0
    """Output tokens that the arrivals ask for."""
    offered_tenant: list[int] = field(default_factory=lambda: [0] * TENANTS)
    first_tokens: int = 0
    finished: int = 0
    abandoned: int = 0
    rejected: int = 0
    preemptions: int = 0
    forced_evictions: int = 0
    """Preemptions because the co-tenant took the blocks; `preemptions` does not count them."""
    handovers: int = 0
    due: list[int] = field(default_factory=lambda: [0, 0])
    """Requests that finished, were abandoned or were rejected."""
    met: list[int] = field(default_factory=lambda: [0, 0])
    """Of those, requests that met their objectives."""
    good_tokens: list[int] = field(default_factory=lambda: [0] * TENANTS)
    """Output tokens of the requests that met their objectives."""
    delivered_tokens: int = 0
    draft_fp: int = 0
    """Drafted tokens, fixed-point."""
    accepted_fp: int = 0
    """Drafted tokens that were accepted, fixed-point."""
    iterations: int = 0
    busy_ps: int = 0
    ttft_sum_ps: int = 0
    ttft_count: int = 0
    ttft_p50_ps: int = -1
    ttft_p99_ps: int = -1
    itl_p50_ps: int = -1
    itl_p99_ps: int = -1
    ttft_hist: list[int] = field(default_factory=list)
    itl_hist: list[int] = field(default_factory=list)
    # levels at the window's end
    queue_depth: int = 0
    """Requests that wait or are being handed over."""
    queue: list[int] = field(default_factory=lambda: [0, 0])
    running: int = 0
    prefilling: int = 0
    used_blocks: int = 0
    pool_blocks: int = 0
    cached_blocks: int = 0
    oldest_wait_ps: int = 0
    """Age of the oldest waiting request without a first token."""


TOTALS = tuple(name for name in vars(WindowStats()) if name.startswith("total_"))
"""The first fields of `WindowStats`: they accumulate over the episode, all others are reset in every window."""


@dataclass(frozen=True, order=True)
class RequestRecord:
    """One request's history. Times in ps; −1 for what never happened."""

    id: int
    status: str
    """One of `STATUSES`."""
    scheduled_ps: int
    first_ps: int
    last_ps: int
    """Time of the last token; for an abandoned or rejected request the time at which it ended."""
    preemptions: int
    replica: int
    """The replica on which it ended; −1 if it was rejected."""


@dataclass(frozen=True, eq=False)
class Progress:
    """The progress of the k requests that have arrived, by id: all that an operator knows of their outputs."""

    ended: NDArray[np.bool_]
    """bool[k]: finished, abandoned or rejected."""
    produced: Ints
    """int64[k] tokens that the output of an unfinished request is known to exceed."""


class LatencySink(Protocol):
    """Takes the latencies of windows; `engine.latencies.LatencySums` is one."""

    def add(self, histograms: Ints | list[int], ttft_ps: int, ended: Ints | list[int], arrival_ps: Ints) -> None:
        """Add one window, see `LatencySums.add`."""
        ...


class Engine(Protocol):
    """A serving fleet in simulated time."""

    def step(self, plan: WindowPlan) -> WindowStats:
        """Apply `plan` and run to its end."""
        ...

    def fork(self, traffic: Traffic | None = None) -> Self:
        """Return an independent engine in the same state, with the same future or the one in `traffic`.

        `traffic` must repeat the requests that have arrived. Only the outputs of unfinished requests and later requests
        may differ.

        Raises:
            InvalidInputError: `traffic` contradicts what has been observed.
        """
        ...

    def progress(self) -> Progress:
        """Return the progress of the requests that have arrived."""
        ...

    def count_latencies(self, into: LatencySink) -> None:
        """Add the last window's latencies; the engine must have been made to keep them."""
        ...

    def records(self) -> list[RequestRecord]:
        """Take the histories of the requests that ended in the last window, sorted by id (none unless recording)."""
        ...
