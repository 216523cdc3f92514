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
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
STATUSES = ("finished", "abandoned", "rejected")
"""How a request ends; schedulers and `LatencySink` count a status as its place here."""


@dataclass(frozen=True, eq=False)
class Traffic:
    """The requests of an episode, sorted by arrival; a request's id is its index. Arrays of one length, int64.

    `output` is the true output length in tokens (at least 1). A scheduler may read it only to see
    that a request is finished.
    """

    arrival_ps: Ints
    prompt: Ints
    output: Ints
    priority: Ints
    tenant: Ints

    def __len__(self) -> int:
        return len(self.arrival_ps)


@dataclass(frozen=True, eq=False)
class TierTables:
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

    budget: int
    """Most tokens in one iteration (vLLM's `max_num_batched_tokens`)."""
    gemm: Ints
    """[budget + 1] ps, by token count: all costs that depend only on it, and the constant CPU time; [0] is unused."""
    head: Ints
    """[budget + 1] ps of the output head, by number of sampled rows."""
    cpu_seq: int
    """ps per sequence in the batch."""
    dec_t0: int
    """ps, start-up of decode attention over all layers."""
    dec_x: Ints
    """[J] left edges of the pieces, fixed-point tokens of mean context; dec_x[0] = 0."""
    dec_h: Ints
    """[J] ps per sequence at the left edge."""
    dec_s: Ints
    """[J] ps per fixed-point token within the piece."""
    pf_t0: int
    """ps, start-up of prefill attention over all layers."""
    pf_tile: int
    """Query tokens per tile (1 for the FLOP form)."""
    pf_off: int
    """Tokens added to 2c + q."""
    pf_coef: int
    """ps/1024 per unit."""
    pf_crit: int
    """ps/1024 per token of the longest single context (0 if no critical path is modelled)."""
    mix_seq: int
    """ps per decoding sequence in a mixed iteration."""
    mix_ctx: int
    """ps/1024 per fixed-point token of decode context in a mixed iteration."""
    mix_amp: int
    """ps/1024 per fixed-point token: the floor of the above."""
    draft_step: int
    """ps per drafted position."""
    spec_seq: int
    """ps per decoding sequence when speculating."""


@dataclass(frozen=True)
class SchedulerRules:
    """What differs between the schedulers of vLLM's versions; `nox -s vllm` compares each set with vLLM's own code.

    All sets share vLLM's loop: running requests in order of admission, a prompt's blocks taken chunk by chunk, K more
    slots looked ahead for a drafter of depth K, and of requests that arrived together the first admitted as victim.
    """

    whole_prompt: bool
    """A prompt is admitted only if all its blocks are free (vLLM's `scheduler_reserve_full_isl`, not in 0.12)."""
    admission_lookahead: bool
    """The slots looked ahead are also needed at admission (0.33); before, from the next step on."""
    resumes_after_self_preemption: bool
    """With priorities, a request that preempts itself leaves the step to those behind it (0.33); before, it ends it."""
    asynchronous: bool
    """A step is scheduled when the one before it starts, as if that one had ended with every draft accepted (vLLM's
    `async_scheduling`, the default from 0.14 on): an arrival waits for two steps to end, not for one."""
    length_known: bool = False
    """Requests end by their `max_tokens`, as in benchmarks that ignore the end-of-sequence token: an asynchronous
    scheduler then leaves a request out of the step after its last token. False: it learns of the end too late for that."""


@dataclass(frozen=True, eq=False)
class FleetSpec:
    """A fleet of identical replicas and the fixed rules of its scheduler."""

    replicas: int
    """1 to 8; prefill and decode can be split only with at least 2."""
    tiers: tuple[TierTables, TierTables, TierTables]
    """Costs at FP16, INT8, INT4."""
    swap_ps: tuple[int, int, int]
    """Stall of loading each tier's weights."""
    split_ps: int
    """Stall of a change of roles."""
    resize_ps: int
    """Stall of a KV pool resized by the agent."""
    evict_ps: int
    """Stall of an eviction forced by the co-tenant."""
    handover_ps: int
    """Fixed latency of a prefill-to-decode hand-over."""
    link_ps_per_token: int
    """Transfer time of one token's KV over a prefill replica's link."""
    max_len: int
    """Longest prompt plus output, tokens. A prompt that leaves no room for one output token is rejected."""
    max_unfinished: int
    """An arrival that finds this many unfinished requests in the fleet is rejected."""
    patience_ps: int
    """A request that still waits for its first token after this long is abandoned; 0: never."""
    rules: SchedulerRules | None = None
    """Of a vLLM version. None: the simulator's first scheduler, which decodes first and takes a prompt's blocks at once
    and only the expected tokens' blocks of a step. Only the reference knows the others."""

    @property
    def min_pool_blocks(self) -> int:
        """Fewest blocks of a pool: the largest request then always fits, with the tokens that speculation adds."""
        return (self.max_len + BLOCK_TOKENS) // BLOCK_TOKENS + 2


@dataclass(frozen=True)
class Slo:
    """Service-level objectives; pairs are indexed by class (0 priority, 1 standard)."""

    ttft_ps: tuple[int, int]
    ttft_ps_per_prompt_token: int
    tpot_ps: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """The configuration of one window. The kernel reads the fields in this order."""

    end_ps: int
    """The window ends here; it starts where the previous one ended."""
    batch_cap: int
    """Most running requests per replica (vLLM's `max_num_seqs`)."""
    depth: int
    """Draft tokens per speculative step, 0 to 8."""
    tier: int
    """0 FP16, 1 INT8, 2 INT4."""
    split: bool
    """Half the replicas prefill, half decode."""
    priority: bool
    """Priority requests are admitted first and preempted last."""
    pool_blocks: int
    """KV blocks per replica that the co-tenant leaves; at least `FleetSpec.min_pool_blocks`."""
    resized: bool
    """Whether the agent's action, not the co-tenant, changed the pool."""
    hit_q10: int = 0
    """Largest share of a prompt that the prefix cache can hit, in 1/1024."""
    hit_half_blocks: int = 1
    """Number of cached blocks at which half of that share is hit."""
    tokens_per_step: tuple[tuple[int, ...], ...]
    """[TENANTS][DEPTHS] fixed-point tokens per step; [t][0] = 256."""


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
