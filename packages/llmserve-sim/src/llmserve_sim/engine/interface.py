"""The inputs and outputs of an engine, as plain integer records.

Both schedulers, the plain one in `engine/reference/` and the fast one in `engine/kernel/`, take and return these types
and must give identical results. Nothing here depends on tasks, rewards or hardware: the costs of an iteration come as
integer tables (`TierTables`), the decisions of an agent as a `WindowPlan`.

Units, everywhere in the engine:

- time: integer picoseconds (`_ps`), 0 at the start of the episode;
- tokens: integers, or *fixed-point tokens* of 1/256 token (`_fp`) for the rates of speculative decoding and for sums of
  context, so that closed forms stay exact;
- KV memory: blocks of 16 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.bounds import Between, Checked, Column
from llmserve_sim.errors import InvalidInputError

Ints = NDArray[np.int64]

__all__ = [
    "BLOCK_TOKENS",
    "DEPTHS",
    "FP",
    "PRIORITY",
    "PS_PER_S",
    "REPLICAS_MAX",
    "SEQS_MAX",
    "STANDARD",
    "TENANTS",
    "TOTALS",
    "Engine",
    "FleetSpec",
    "LatencySink",
    "RequestRecord",
    "Slo",
    "TierTables",
    "Traffic",
    "WindowPlan",
    "WindowStats",
]

PS_PER_S = 10**12
"""Picoseconds in a second."""
BLOCK_TOKENS = 16
"""Tokens in one KV block (vLLM's default `block_size`)."""
FP = 256
"""Fixed-point steps in one token."""
TENANTS = 4
"""Tenant classes. Each has its own acceptance rate, so each is one lock-step group of a replica."""
DEPTHS = 9
"""Speculation depths 0..8."""
REPLICAS_MAX = 8
"""Most replicas in a fleet."""
SEQS_MAX = 512
"""Largest `batch_cap` (vLLM's `max_num_seqs`)."""
PRIORITY, STANDARD = 0, 1
"""The two request classes, as vLLM orders them: a lower number is served first."""
MAX_LEN = 1 << 20
"""Longest prompt plus output, tokens."""
MAX_ITERATION_PS = 1 << 56
"""Longest iteration (20 hours): times stay far inside int64."""
MAX_STALL_PS = 64 * PS_PER_S
"""Most that one change of every knob may stall: 100,000 windows of it, which is a task's most, stay inside int64."""
_PRODUCT = 1 << 62
"""Bound of every product that the engine forms in int64."""

Cost = Annotated[int, Between(0, MAX_ITERATION_PS, "ps")]
Coefficient = Annotated[int, Between(0, MAX_ITERATION_PS, "ps/1024")]
Moment = Annotated[int, Between(0, _PRODUCT, "ps")]
Stall = Annotated[int, Between(0, MAX_STALL_PS, "ps")]
Tokens = Annotated[Ints, Column(Between(1, 2 * MAX_LEN, "tokens"))]
CostColumn = Annotated[Ints, Column(Between(0, MAX_ITERATION_PS, "ps"))]


@dataclass(frozen=True, eq=False)
class Traffic(Checked):
    """The requests of an episode, sorted by arrival; a request's id is its index. Arrays of one length, int64.

    `output` is the true output length in tokens (at least 1). A scheduler may read it only to see
    that a request is finished.
    """

    arrival_ps: Annotated[Ints, Column(Between(0, _PRODUCT, "ps"), sorted=True)]
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
class TierTables(Checked):
    """Integer cost model of one replica at one weight format; built by `llmserve_sim.performance.tables`.

    The time of an iteration with n decoding sequences at depth k, context sum X (fixed-point tokens), prefill chunks
    of q new after c cached tokens, f of which complete their prompt, is

        gemm[n(k+1) + Σq] + head[n(k+1) + f] + cpu_seq·(n + chunks) + [k > 0 and n > 0](k·draft_step + n·spec_seq)
        + (no chunks:         dec_t0 + D
           no sequences:      pf_t0 + P
           both:              pf_t0 + P + max(n·mix_seq + (mix_ctx·X >> 10), mix_amp·X >> 10, D))

    with D = n·dec_h[j] + dec_s[j]·(X − n·dec_x[j]) on the last piece j whose left edge n·dec_x[j] is at most X, and
    P = max(pf_coef·Σu >> 10, pf_crit·max(c + q) >> 10), u = ⌈q/pf_tile⌉·(2c + q + pf_off).
    """

    budget: Annotated[int, Between(1, 1 << 20, "tokens")]
    """Most tokens in one iteration (vLLM's `max_num_batched_tokens`)."""
    gemm: CostColumn
    """[budget + 1] ps, by token count: all costs that depend only on it, and the constant CPU time; [0] is unused."""
    head: CostColumn
    """[budget + 1] ps of the output head, by number of sampled rows."""
    cpu_seq: Cost
    """ps per sequence in the batch."""
    dec_t0: Cost
    """ps, start-up of decode attention over all layers."""
    dec_x: Annotated[Ints, Column(Between(0, 1 << 50, "1/256 token"), sorted=True)]
    """[J] left edges of the pieces, fixed-point tokens of mean context; dec_x[0] = 0."""
    dec_h: CostColumn
    """[J] ps per sequence at the left edge."""
    dec_s: CostColumn
    """[J] ps per fixed-point token within the piece."""
    pf_t0: Cost
    """ps, start-up of prefill attention over all layers."""
    pf_tile: Annotated[int, Between(1, 65_536, "tokens")]
    """Query tokens per tile (1 for the FLOP form)."""
    pf_off: Annotated[int, Between(0, 1 << 24, "tokens")]
    """Tokens added to 2c + q."""
    pf_coef: Coefficient
    """ps/1024 per unit."""
    pf_crit: Coefficient
    """ps/1024 per token of the longest single context (0 if no critical path is modelled)."""
    mix_seq: Cost
    """ps per decoding sequence in a mixed iteration."""
    mix_ctx: Coefficient
    """ps/1024 per fixed-point token of decode context in a mixed iteration."""
    mix_amp: Coefficient
    """ps/1024 per fixed-point token: the floor of the above."""
    draft_step: Cost
    """ps per drafted position."""
    spec_seq: Cost
    """ps per decoding sequence when speculating."""

    def _relations(self) -> None:
        for name in ("gemm", "head"):
            if len(getattr(self, name)) != self.budget + 1:
                self._refuse(name, f"must have budget + 1 = {self.budget + 1} entries")
        if self.gemm[1:].min() < 1:
            self._refuse("gemm", "must be at least 1 ps from one token on, so that time passes")
        if len(self.dec_x) < 1 or self.dec_x[0] != 0 or np.any(self.dec_x[1:] == self.dec_x[:-1]):
            self._refuse("dec_x", "must increase from 0")
        for name in ("dec_h", "dec_s"):
            if len(getattr(self, name)) != len(self.dec_x):
                self._refuse(name, f"must be as long as dec_x, which has {len(self.dec_x)} entries")

    def longest_iteration_ps(self, max_len: int) -> int:
        """An upper bound of an iteration's time, with every product that the engine forms on the way to it below 2^62.

        Raises:
            InvalidInputError: a product is not.
        """
        sequences, context = SEQS_MAX, SEQS_MAX * (max_len + 2 * DEPTHS) * FP
        units = (self.budget // self.pf_tile + SEQS_MAX) * (2 * max_len + self.pf_off)
        decode = sequences * int(self.dec_h.max()) + context * int(self.dec_s.max())
        scaled = {
            "pf_coef": units * self.pf_coef,
            "pf_crit": max_len * self.pf_crit,
            "mix_ctx": context * self.mix_ctx,
            "mix_amp": context * self.mix_amp,
            "dec_s": decode,
        }
        for name, product in scaled.items():
            if product > _PRODUCT:
                self._refuse(name, f"must be less for contexts of {max_len} tokens: the engine counts to 2^62")
        attention = decode + self.dec_t0 + self.pf_t0 + sequences * self.mix_seq + sum(scaled.values()) // 1024
        host = (sequences + self.budget) * self.cpu_seq + DEPTHS * self.draft_step + sequences * self.spec_seq
        return int(self.gemm.max()) + int(self.head.max()) + attention + host


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
    max_unfinished: Annotated[int, Between(1, 1 << 20, "requests")]
    """An arrival that finds this many unfinished requests in the fleet is rejected."""
    patience_ps: Annotated[int, Between(0, 1_000_000 * PS_PER_S, "ps")]
    """A request that still waits for its first token after this long is abandoned; 0: never."""
    async_scheduling: bool = False
    """An iteration is scheduled when the one before it begins, as vLLM's flag of that name has it: a request that has come
    since, and the place and blocks of one that has ended since, wait for the next."""

    def _relations(self) -> None:
        stall = max(self.swap_ps) + self.split_ps + self.resize_ps + self.evict_ps
        if stall > MAX_STALL_PS:
            self._refuse("swap_ps", f"must leave the stalls of one window within {MAX_STALL_PS} ps in all, not {stall}")
        if self.max_unfinished * self.max_len * self.link_ps_per_token > _PRODUCT:
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
        if plan.pool_blocks < self.min_pool_blocks:
            raise InvalidInputError("pool_blocks", f"must be at least {self.min_pool_blocks}", got=plan.pool_blocks)


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
    """"finished", "abandoned" or "rejected"."""
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
