"""`KernelBatch`: many environments of one fleet in one arena; one call runs a window of all of them.

The compiled kernel releases the GIL, so threads run parts of the batch in parallel. Environments do not share state, so
neither the order nor the number of threads changes a result.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmserve_sim.engine.kernel import compiled
from llmserve_sim.engine.kernel import fleet as fleet_kernel
from llmserve_sim.engine.kernel.engine import Backend, check_fleet, native, native_tables, new_row, pack_traffic
from llmserve_sim.engine.kernel.layout import (
    PLAN_SIZE,
    STATS,
    STATS_SIZE,
    TRAFFIC_WIDTH,
    row_size,
)
from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_sim.engine.interface import FleetSpec, Slo, Traffic
    from llmserve_sim.engine.kernel.engine import KernelEngine

    Ints = NDArray[np.int64]

__all__ = ["KernelBatch"]

CHUNKS_PER_THREAD = 4
"""Chunks of environments per thread: several, because environments differ in load."""


class KernelBatch:
    """`size` independent copies of one fleet.

    Args:
        fleet: replicas, costs and scheduling rules of every environment.
        slo: targets of every environment.
        size: number of environments.
        backend: as for `KernelEngine`.
        threads: threads of one `step`; of no use to the "python" backend, which holds the GIL.

    A copy (`copy.copy`, `copy.deepcopy`, pickle) continues identically and shares nothing with the original.
    """

    def __init__(self, fleet: FleetSpec, slo: Slo, size: int, *, backend: Backend = "auto", threads: int = 1) -> None:
        check_fleet(fleet)
        given: tuple[tuple[str, object], ...] = (("size", size), ("threads", threads))
        for name, count in given:
            if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
                raise InvalidInputError(name, "must be an integer of at least 1", got=count)
        size, threads = int(size), int(threads)
        if backend == "auto":
            backend = "numba" if compiled.available() else "python"
        self.backend = backend
        self.size = size
        self.fleet = fleet
        self.slo = slo
        shape = (size, row_size(fleet.replicas, fleet.max_unfinished))
        self._tables = native_tables(fleet.tiers, backend)
        self._no_records = native(np.zeros(0, dtype=np.int64), backend)
        self._rows: Any
        self._traffic: Any
        self.stats: Ints
        if backend == "numba":
            self._rows = np.zeros(shape, dtype=np.int64)
            self._traffic = np.zeros((size, TRAFFIC_WIDTH), dtype=np.int64)
            self._view()
        else:
            self._rows = [[0] * shape[1] for _ in range(size)]
            self._traffic = [[] for _ in range(size)]
            self.stats = np.zeros((size, STATS_SIZE), dtype=np.int64)
        self._traffic_index: Ints = np.arange(size)
        """[size] index of each environment's traffic in `_traffic`."""
        self._lent = False
        """Whether another batch shares `_traffic`: then `_put` copies it before it writes."""
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = 0
        """Id of the process in which the pool's threads run."""
        pieces = min(size, 1 if threads == 1 else threads * CHUNKS_PER_THREAD)
        edges = np.linspace(0, size, pieces + 1).astype(int).tolist()
        self._chunks = list(itertools.pairwise(edges))
        self._everyone = np.ones(size, dtype=np.int64)

    @property
    def arena(self) -> Ints:
        """[size, row_size] the state of every environment; a row holds what `KernelEngine.state_bytes` returns."""
        return np.asarray(self._rows, dtype=np.int64)

    def load(self, index: int, traffic: Traffic) -> None:
        """Reset environment `index` to an idle fleet at time 0 with `traffic` to come."""
        self._put(index, native(new_row(self.fleet, self.slo, traffic), self.backend), pack_traffic(traffic))

    def adopt(self, index: int, engine: KernelEngine) -> None:
        """Copy the state and the traffic of an engine of the same fleet into environment `index`."""
        self._put(index, native(engine.row, self.backend), engine.traffic)

    def _put(self, index: int, row: Any, packed: Ints) -> None:
        if self._lent:
            self._traffic = (
                self._traffic[self._traffic_index]
                if self.backend == "numba"
                else [self._traffic[i] for i in self._traffic_index]
            )
            self._traffic_index, self._lent = np.arange(self.size), False
        if self.backend == "numba":
            if len(packed) > self._traffic.shape[1]:
                wider = np.zeros((self.size, len(packed) + len(packed) // 8), dtype=np.int64)
                wider[:, : self._traffic.shape[1]] = self._traffic
                self._traffic = wider
            self._traffic[index, : len(packed)] = packed
            self._rows[index] = row
        else:
            self._traffic[index] = packed.tolist()
            self._rows[index] = list(row)
            self._show(index)

    def select(self, indices: Ints, into: KernelBatch | None = None) -> KernelBatch:
        """Return independent copies of the environments at `indices`, in this order and with repeats, on one thread.

        `into` is an earlier selection that is no longer needed; its memory is reused if the size is the same.
        """
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)  # shares the traffic; `_lent` makes both copy it before a change
        clone.size = len(indices)
        self._lent = clone._lent = True
        clone._traffic_index = self._traffic_index[indices]
        if self.backend == "numba":
            old = None if into is None else into.arena
            if old is not None and old.shape != (clone.size, self._rows.shape[1]):
                old = None
            clone._rows = np.take(self._rows, indices, axis=0, out=old, mode="clip")
            clone._view()
        else:
            clone._rows = [self._rows[i].copy() for i in indices]
            clone.stats = self.stats[indices]
        clone._threads, clone._pool = 1, None
        clone._chunks = [(0, clone.size)]
        clone._everyone = np.ones(clone.size, dtype=np.int64)
        return clone

    def _view(self) -> None:
        """Make `stats` a view of the rows, where compiled code writes the statistics."""
        self.stats = self._rows[:, STATS : STATS + STATS_SIZE]

    def step(self, plans: Ints, active: NDArray[np.bool_] | None = None) -> Ints:
        """Run one window of every active environment.

        Args:
            plans: [size, PLAN_SIZE], each row as `engine.pack_plan` returns it. They are not checked.
            active: [size] bool; the other environments and their statistics stay unchanged. None: all.

        Returns:
            `self.stats`.
        """
        if plans.shape != (self.size, PLAN_SIZE):
            raise InvalidInputError("plans", f"must have shape {(self.size, PLAN_SIZE)}", got=plans.shape)
        mask = self._everyone if active is None else active.astype(np.int64)
        compiles = self.backend == "numba"
        run: Any = compiled.compiled_fleet().run_batch if compiles else fleet_kernel.run_batch
        traffic_index = native(self._traffic_index, self.backend)
        args = (
            self._rows,
            self._tables,
            self._traffic,
            traffic_index,
            self._no_records,
            native(plans, self.backend),
            mask,
        )
        if self._threads == 1:
            run(*args, 0, self.size)
        else:
            pool = self._running_pool()
            for done in [pool.submit(run, *(*args, low, high)) for low, high in self._chunks]:
                done.result()
        if not compiles:
            for index in np.flatnonzero(mask).tolist():
                self._show(index)
        return self.stats

    def _show(self, index: int) -> None:
        """Copy the statistics of an environment from its list to `stats`; the numba backend needs no copy."""
        self.stats[index] = self._rows[index][STATS : STATS + STATS_SIZE]

    def close(self) -> None:
        """Stop the threads. The next step starts them again."""
        if self._pool is not None and self._pool_process == os.getpid():
            self._pool.shutdown()
        self._pool = None

    def __copy__(self) -> Self:
        return deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the threads, and but `stats` where it is a view: copied apart it would be none."""
        left_out = ("_pool", "stats") if self.backend == "numba" else ("_pool",)
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy; its threads start with its first step."""
        self.__dict__.update(state)
        self._pool = None
        if self.backend == "numba":
            self._view()

    def _running_pool(self) -> ThreadPoolExecutor:
        """Return the pool; start its threads if there are none in this process, as after a copy or a fork."""
        if self._pool is None or self._pool_process != os.getpid():
            self._pool, self._pool_process = ThreadPoolExecutor(self._threads), os.getpid()
        return self._pool
