"""`KernelBatch`: many environments of one fleet in one arena, a window of all of them in one call.

The compiled kernel gives up the interpreter lock, so two threads run two halves of the batch at once. Environments
never touch each other, hence neither the order nor the number of threads can change a result.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from llmserve_sim.engine import compiled
from llmserve_sim.engine.kernel import fleet as fleet_kernel
from llmserve_sim.engine.layout import H_TOTAL_ARRIVED, PLAN_SIZE, STATS, STATS_SIZE, TRAFFIC_WIDTH, row_size
from llmserve_sim.engine.simulator import Backend, new_row, pack_tables, pack_traffic
from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.engine.interface import FleetSpec, Slo, Traffic

    Ints = NDArray[np.int64]

__all__ = ["KernelBatch"]

CHUNKS_PER_THREAD = 4
"""Pieces a thread's share is cut into, since environments differ in load."""


class KernelBatch:
    """`size` fleets of the same kind, side by side.

    Args:
        fleet: costs and rules, shared by all.
        slo: targets, shared by all.
        size: number of environments.
        backend: as for `KernelEngine`.
        threads: threads of one `step` (with the "python" backend they would only take turns).
    """

    def __init__(self, fleet: FleetSpec, slo: Slo, size: int, *, backend: Backend = "auto", threads: int = 1) -> None:
        if size < 1:
            raise InvalidInputError("size", "must be at least 1", got=size)
        if threads < 1:
            raise InvalidInputError("threads", "must be at least 1", got=threads)
        if backend == "auto":
            backend = "numba" if compiled.available() else "python"
        self.backend = backend
        self.size = size
        self.fleet = fleet
        self.slo = slo
        self.arena: Ints = np.zeros((size, row_size(fleet.replicas, fleet.max_unfinished)), dtype=np.int64)
        self.stats: Ints = self.arena[:, STATS : STATS + STATS_SIZE]
        """[size, STATS_SIZE] statistics of the last window, columns as in `layout.STAT_AT`: a view, not a copy."""
        self.totals: Ints = self.arena[:, H_TOTAL_ARRIVED : H_TOTAL_ARRIVED + 4]
        """[size, 4] requests arrived, finished, abandoned, rejected since each episode began: a view."""
        self._tables = pack_tables(fleet.tiers)
        self._traffic: Ints = np.zeros((size, TRAFFIC_WIDTH), dtype=np.int64)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        pieces = min(size, 1 if threads == 1 else threads * CHUNKS_PER_THREAD)
        edges = np.linspace(0, size, pieces + 1).astype(int).tolist()
        self._chunks = list(itertools.pairwise(edges))
        self._everyone = np.ones(size, dtype=np.int64)
        self._no_records: Ints = np.zeros(0, dtype=np.int64)

    def load(self, index: int, traffic: Traffic) -> None:
        """Start environment `index` anew, idle at time 0, with these requests to come."""
        packed = pack_traffic(traffic)
        if len(packed) > self._traffic.shape[1]:
            wider = np.zeros((self.size, len(packed) + len(packed) // 8), dtype=np.int64)
            wider[:, : self._traffic.shape[1]] = self._traffic
            self._traffic = wider
        self._traffic[index, : len(packed)] = packed
        self.arena[index] = new_row(self.fleet, self.slo, traffic)

    def step(self, plans: Ints, active: NDArray[np.bool_] | None = None) -> Ints:
        """Run one window of every active environment.

        Args:
            plans: [size, PLAN_SIZE], each row as `simulator.pack_plan` makes it. They are taken as valid.
            active: [size] bool; the others stay as they are, their statistics too. None: all.

        Returns:
            `self.stats`.
        """
        if plans.shape != (self.size, PLAN_SIZE):
            raise InvalidInputError("plans", f"must have shape {(self.size, PLAN_SIZE)}", got=plans.shape)
        mask = self._everyone if active is None else active.astype(np.int64)
        args: tuple[Any, ...]
        if self.backend == "numba":
            run: Any = compiled.compiled_fleet().run_batch
            args = (self.arena, self._tables, self._traffic, self._no_records, plans, mask)
        else:
            run = fleet_kernel.run_batch
            views = [[row.data for row in rows] for rows in (self.arena, self._traffic, plans)]
            args = (views[0], self._tables.data, views[1], self._no_records.data, views[2], mask)
        if self._pool is None:
            run(*args, 0, self.size)
        else:
            for done in [self._pool.submit(run, *(*args, low, high)) for low, high in self._chunks]:
                done.result()
        return self.stats

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
