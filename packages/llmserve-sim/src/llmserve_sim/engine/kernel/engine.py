"""`KernelEngine`: the kernel with the interface of `Engine`, and the arena row it works in."""

from __future__ import annotations

import threading
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from llmserve_sim.engine.future import check_future
from llmserve_sim.engine.histogram import BINS
from llmserve_sim.engine.interface import (
    STATUSES,
    TENANTS,
    FleetSpec,
    LatencySink,
    Progress,
    RequestRecord,
    Slo,
    TierTables,
    Traffic,
    WindowPlan,
    WindowStats,
)
from llmserve_sim.engine.kernel import compiled
from llmserve_sim.engine.kernel import fleet as fleet_kernel
from llmserve_sim.engine.kernel.future import progress_of, retarget
from llmserve_sim.engine.kernel.layout import (
    CLASS_SHIFT,
    ENDS,
    G_HEAP,
    G_PHASE,
    GROUP_SIZE,
    H_ARRIVALS,
    H_EVICT,
    H_FREE,
    H_HANDOVER,
    H_LINK,
    H_MAX_LEN,
    H_MAX_UNFINISHED,
    H_NOW,
    H_PATIENCE,
    H_RECORDING,
    H_RECORDS,
    H_REPLICAS_END,
    H_RESIZE,
    H_SCRATCH,
    H_SPLIT,
    H_SWAP,
    H_TPOT,
    H_TTFT,
    H_TTFT_TOKEN,
    HEAP,
    HIST_ITL,
    HIST_TTFT,
    MEMBERS,
    MEMBERS_SIZE,
    NEVER,
    PHASES,
    R_ACTIVE,
    R_FRESH,
    R_GIVE_UP,
    R_GROUPS,
    R_GROUPS_END,
    R_HANDOVERS,
    R_INDEX,
    R_JOINERS,
    R_PREFILLS,
    R_RESUMED,
    R_UNTIL,
    RECORD_SIZE,
    REPLICA_SIZE,
    REPLICAS,
    S_CHAIN,
    S_NEXT,
    SLOT_SIZE,
    STAT_COLUMNS,
    STATS,
    STATS_SIZE,
    TB_SIZE,
    TENANT_SHIFT,
    TOKEN_BITS,
    TRAFFIC_WIDTH,
    W_TTFT_SUM_PS,
    row_size,
)
from llmserve_sim.engine.kernel.linked import queue_clear
from llmserve_sim.engine.latencies import HISTOGRAMS_SIZE
from llmserve_sim.errors import EpisodeStateError, InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Native = Ints | list[int]

NO_EDGE = 1 << 52
"""A context (fixed-point tokens per sequence) that no sequence reaches; `SEQS_MAX` times it does not overflow int64."""

__all__ = [
    "Backend",
    "KernelEngine",
    "check_fleet",
    "new_row",
    "pack_plan",
    "pack_tables",
    "pack_traffic",
    "read_stats",
]

Backend = Literal["auto", "python", "numba"]


class KernelEngine:
    """A fleet in one arena row, run by the event-leaping kernel.

    Args:
        fleet: replicas, costs and scheduling rules.
        slo: targets by class.
        traffic: every request of the episode.
        record: keep each request's history (`records()`) and fill in the histograms of `WindowStats`.
        latencies: keep what `count_latencies` needs of the last window. The state has the same bytes with and without.
        backend: "numba" compiles the kernel (extra `fast`), "python" interprets it, "auto" uses numba if it
            is installed. Both give the same bytes.
    """

    def __init__(
        self,
        fleet: FleetSpec,
        slo: Slo,
        traffic: Traffic,
        *,
        record: bool = False,
        latencies: bool = False,
        backend: Backend = "auto",
    ) -> None:
        if backend == "auto":
            backend = "numba" if compiled.available() else "python"
        self.fleet = fleet
        self.backend = backend
        self._record = record
        self._latencies = latencies
        self._offered = traffic
        self._row = native(new_row(fleet, slo, traffic, record=record), backend)
        self._tables = native_tables(fleet.tiers, backend)
        self._traffic = native(pack_traffic(traffic), backend)
        self._records: Native = []
        self._run = _kernel(backend)

    def step(self, plan: WindowPlan) -> WindowStats:
        """Apply `plan` and run to its end.

        Raises:
            InvalidInputError: the plan cannot be run. The state is unchanged then.
        """
        self.fleet.check_plan(plan, int(self._row[H_NOW]))
        least = self.fleet.min_pool_blocks
        if plan.pool_blocks < least:
            raise InvalidInputError("pool_blocks", f"must be at least {least}", got=plan.pool_blocks)
        packed = pack_plan(plan) if self.backend == "numba" else list_plan(plan)
        records = self._room_for_records()
        row = self._row
        row[H_RECORDING] = self._record or self._latencies
        self._run(row, self._tables, self._traffic, records, packed, 0)
        self._records = records[: row[H_RECORDS] * RECORD_SIZE].copy()
        if not self._record:  # other schedulers copy the row and have no room for records
            row[H_RECORDING] = row[H_RECORDS] = 0
        return read_stats(self._row, histograms=self._record)

    def fork(self, traffic: Traffic | None = None) -> Self:
        """Return an independent engine in the same state, with the same future or the one in `traffic`."""
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)  # shares the traffic and the tables, which are never changed
        clone._row = self._row.copy()
        if traffic is not None:
            packed = pack_traffic(traffic)
            check_future(self._offered, traffic, self.progress(), int(self._row[H_NOW]))
            clone._offered, clone._traffic = traffic, native(packed, self.backend)
            retarget(clone._row, traffic)
        return clone

    def use_backend(self, backend: Backend) -> None:
        """Continue on another backend from the same state; the next windows have the same bytes on each."""
        if backend == "auto":
            backend = "numba" if compiled.available() else "python"
        if backend != self.backend:
            run, tables = _kernel(backend), native_tables(self.fleet.tiers, backend)
            row, traffic = native(self.row, backend), native(self.traffic, backend)
            self._run, self._tables, self._row, self._traffic, self.backend = run, tables, row, traffic, backend

    def progress(self) -> Progress:
        """Return the progress of the requests that have arrived."""
        return progress_of(self._row)

    def __copy__(self) -> Self:
        return self.fork()

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the kernel function, which another process looks up again."""
        return {name: value for name, value in self.__dict__.items() if name != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the pickled state and look up the kernel function."""
        self.__dict__.update(state)
        self._run = _kernel(self.backend)

    def records(self) -> list[RequestRecord]:
        """Take the histories of the requests that ended in the last window, by id; empty unless recording."""
        if not self._record:
            return []
        values = integers(self._records)
        self._records = []
        rows = (values[at : at + RECORD_SIZE] for at in range(0, len(values), RECORD_SIZE))
        return sorted(RequestRecord(r[0], STATUSES[r[1]], *r[2:]) for r in rows)

    def count_latencies(self, into: LatencySink) -> None:
        """Add the last window's latencies; raises `EpisodeStateError` without the option `latencies`."""
        if not self._latencies:
            raise EpisodeStateError("the engine keeps no latencies: make it with latencies=True")
        row = self._row
        into.add(
            row[HIST_TTFT : HIST_TTFT + HISTOGRAMS_SIZE],
            int(row[W_TTFT_SUM_PS]),
            self._records,
            self._offered.arrival_ps,
        )

    @property
    def row(self) -> Ints:
        """[row_size] a copy of the state."""
        return np.array(self._row, dtype=np.int64)

    @property
    def traffic(self) -> Ints:
        """The requests of the episode, as `pack_traffic` returns them."""
        return np.asarray(self._traffic, dtype=np.int64)

    def state_bytes(self) -> bytes:
        """Return the state as bytes, for hashing."""
        return np.asarray(self._row, dtype=np.int64).tobytes()

    def _room_for_records(self) -> Native:
        """Return room for as many records as there are requests; a thread's engines share it from step to step."""
        if not (self._record or self._latencies):
            return np.zeros(0, dtype=np.int64) if self.backend == "numba" else []
        name, size = f"{self.backend} records", len(self._offered) * RECORD_SIZE
        room: Native | None = getattr(_scratch, name, None)
        if room is None or len(room) < size:
            room = native(np.zeros(size, dtype=np.int64), self.backend)
            setattr(_scratch, name, room)
        return room


_scratch = threading.local()
"""Each thread's room for records, by backend."""


def _kernel(backend: str) -> Any:
    """Return the function that runs a window."""
    return compiled.compiled_fleet().run_window if backend == "numba" else fleet_kernel.run_window


def check_fleet(fleet: FleetSpec) -> None:
    """Raise an error if the kernel cannot run `fleet`.

    Raises:
        InvalidInputError: the fleet has the rules of a vLLM version, which only the reference engine knows.
    """
    if fleet.rules is not None:
        raise InvalidInputError("fleet.rules", "must be None: only the reference engine knows others", got=fleet.rules)


def pack_plan(plan: WindowPlan) -> Ints:
    """Return a plan as the kernel reads it: int64[PLAN_SIZE]."""
    return np.array(list_plan(plan), dtype=np.int64)


def list_plan(plan: WindowPlan) -> list[int]:
    """Return what `pack_plan` does, as a list."""
    *numbers, tokens_per_step = vars(plan).values()
    return [*numbers, *chain.from_iterable(tokens_per_step)]


@lru_cache(maxsize=16)
def pack_tables(tiers: tuple[TierTables, TierTables, TierTables]) -> Ints:
    """Return the cost tables of three tiers as one int64 array: three offsets, then per tier its scalars and arrays."""
    parts: list[Ints] = [np.zeros(3, dtype=np.int64)]
    at = 3
    for index, tier in enumerate(tiers):
        parts[0][index] = at
        pieces = np.stack([tier.dec_x, tier.dec_h, tier.dec_s], axis=1).ravel()
        arrays = [tier.gemm, tier.head, np.append(pieces, NO_EDGE)]
        offsets = (at + TB_SIZE + np.concatenate(([0], np.cumsum([len(x) for x in arrays])))).tolist()
        scalars = [
            tier.budget,
            tier.cpu_seq,
            tier.dec_t0,
            tier.pf_t0,
            tier.pf_tile,
            tier.pf_off,
            tier.pf_coef,
            tier.pf_crit,
            tier.mix_seq,
            tier.mix_ctx,
            tier.mix_amp,
            tier.draft_step,
            tier.spec_seq,
            *offsets[:-1],
        ]
        parts += [np.array(x, dtype=np.int64) for x in (scalars, *arrays)]
        at = offsets[-1]
    return np.concatenate(parts)


def pack_traffic(traffic: Traffic) -> Ints:
    """Return the requests as the kernel reads them: int64[2 × requests].

    Raises:
        InvalidInputError: prefixes, which only the reference knows.
    """
    if traffic.prefixes is not None:
        raise InvalidInputError(
            "traffic.prefixes", "must be None: the kernel knows no block hashes, use ReferenceEngine"
        )
    packed = np.empty((len(traffic), TRAFFIC_WIDTH), dtype=np.int64)
    packed[:, 0] = traffic.arrival_ps
    packed[:, 1] = (
        traffic.prompt | traffic.output << TOKEN_BITS | traffic.priority << CLASS_SHIFT | traffic.tenant << TENANT_SHIFT
    )
    return packed.ravel()


def new_row(fleet: FleetSpec, slo: Slo, traffic: Traffic, *, record: bool = False) -> Ints:
    """Return the arena row of an idle fleet at time 0.

    Raises:
        InvalidInputError: the kernel cannot run the fleet.
    """
    check_fleet(fleet)
    row = np.zeros(row_size(fleet.replicas, fleet.max_unfinished), dtype=np.int64)
    slots = MEMBERS + fleet.replicas * TENANTS * MEMBERS_SIZE
    groups = (int(traffic.tenant.max(initial=0)) + 1) * GROUP_SIZE
    row[H_ARRIVALS] = len(traffic)
    row[H_RECORDING] = record
    row[H_REPLICAS_END] = REPLICAS + fleet.replicas * REPLICA_SIZE
    row[H_SCRATCH] = slots + fleet.max_unfinished * SLOT_SIZE
    row[H_SWAP : H_SWAP + 3] = fleet.swap_ps
    row[H_SPLIT] = fleet.split_ps
    row[H_RESIZE] = fleet.resize_ps
    row[H_EVICT] = fleet.evict_ps
    row[H_HANDOVER] = fleet.handover_ps
    row[H_LINK] = fleet.link_ps_per_token
    row[H_MAX_LEN] = fleet.max_len
    row[H_MAX_UNFINISHED] = fleet.max_unfinished
    row[H_PATIENCE] = fleet.patience_ps
    row[H_TTFT : H_TTFT + 2] = slo.ttft_ps
    row[H_TTFT_TOKEN] = slo.ttft_ps_per_prompt_token
    row[H_TPOT : H_TPOT + 2] = slo.tpot_ps
    offsets = slots + SLOT_SIZE * np.arange(fleet.max_unfinished)
    row[offsets[:-1]] = offsets[1:]
    row[H_FREE] = slots
    for hist in (HIST_TTFT, HIST_ITL):
        row[hist : hist + 2] = (BINS, -1)
    for index in range(fleet.replicas):
        replica = REPLICAS + index * REPLICA_SIZE
        row[replica + R_UNTIL] = -1
        row[replica + R_GIVE_UP] = NEVER
        row[replica + R_INDEX] = index
        first = REPLICAS + fleet.replicas * REPLICA_SIZE + index * TENANTS * GROUP_SIZE
        row[replica + R_GROUPS] = first
        row[replica + R_GROUPS_END] = first + groups
        for c in range(2):
            ring = replica + R_ACTIVE + c * ENDS
            row[ring : ring + ENDS] = ring
            queue_clear(row, replica + R_RESUMED + c * ENDS, S_NEXT)
            queue_clear(row, replica + R_FRESH + c * ENDS, S_NEXT)
        queue_clear(row, replica + R_HANDOVERS, S_NEXT)
        queue_clear(row, replica + R_PREFILLS, S_CHAIN)
        queue_clear(row, replica + R_JOINERS, S_CHAIN)
        for tenant in range(TENANTS):
            group = first + tenant * GROUP_SIZE
            members = MEMBERS + (index * TENANTS + tenant) * MEMBERS_SIZE
            row[group + G_PHASE] = members + PHASES
            row[group + G_HEAP] = members + HEAP
            row[members + HEAP + 1 : members + MEMBERS_SIZE] = NEVER
    return row


def read_stats(row: Native, *, histograms: bool) -> WindowStats:
    """Return the statistics of a row's last window; the fields come from `layout.STAT_COLUMNS`."""
    values = integers(row[STATS : STATS + STATS_SIZE])
    figures: dict[str, Any] = {name: values[where] for name, where in STAT_COLUMNS.items()}
    if histograms:
        figures["ttft_hist"] = integers(row[HIST_TTFT + 2 : HIST_TTFT + 2 + BINS])
        figures["itl_hist"] = integers(row[HIST_ITL + 2 : HIST_ITL + 2 + BINS])
    return WindowStats(**figures)


def native(values: Ints, backend: str) -> Native:
    """Return the array itself for compiled code, and a list for plain Python, which indexes lists faster."""
    return values if backend == "numba" else values.tolist()


@lru_cache(maxsize=16)
def native_tables(tiers: tuple[TierTables, TierTables, TierTables], backend: str) -> Native:
    """Return `pack_tables` in the form that the backend reads."""
    return native(pack_tables(tiers), backend)


def integers(values: Native) -> list[int]:
    """Return a list of Python integers."""
    return values if isinstance(values, list) else values.tolist()
