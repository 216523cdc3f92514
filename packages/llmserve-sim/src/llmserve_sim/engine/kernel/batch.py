"""`KernelBatch`: many environments of one fleet in one arena, a window of all of them in one call.

The compiled kernel gives up the interpreter lock, so two threads run two halves of the batch at once. Environments
never touch each other, hence neither the order nor the number of threads can change a result.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from llmserve_sim.engine.kernel import compiled
from llmserve_sim.engine.kernel import fleet as fleet_kernel
from llmserve_sim.engine.kernel.engine import Backend, native, native_tables, new_row, pack_traffic
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
        self._faces: Ints = np.arange(size)
        """[size] the row of the traffic that an environment faces."""
        self._lent = False
        """The traffic is shared with a selection, or is a selection's: whoever changes it takes a copy first."""
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        pieces = min(size, 1 if threads == 1 else threads * CHUNKS_PER_THREAD)
        edges = np.linspace(0, size, pieces + 1).astype(int).tolist()
        self._chunks = list(itertools.pairwise(edges))
        self._everyone = np.ones(size, dtype=np.int64)

    @property
    def arena(self) -> Ints:
        """[size, row_size] the state of every environment, a row as `KernelEngine.state_bytes`."""
        return np.asarray(self._rows, dtype=np.int64)

    def load(self, index: int, traffic: Traffic) -> None:
        """Start environment `index` anew, idle at time 0, with these requests to come."""
        self._put(index, native(new_row(self.fleet, self.slo, traffic), self.backend), pack_traffic(traffic))

    def adopt(self, index: int, engine: KernelEngine) -> None:
        """Let environment `index` go on where an engine of this fleet stands, facing the same requests."""
        self._put(index, native(engine.row, self.backend), engine.traffic)

    def _put(self, index: int, row: Any, packed: Ints) -> None:
        if self._lent:
            self._traffic = (
                self._traffic[self._faces] if self.backend == "numba" else [self._traffic[i] for i in self._faces]
            )
            self._faces, self._lent = np.arange(self.size), False
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
        """Independent copies of the environments at `indices`, in this order and with repeats, on one thread.

        `into` is an earlier selection that nobody needs any more: its memory is used again where the size is the same.
        """
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)  # the traffic, which nobody changes, is shared
        twin.size = len(indices)
        self._lent = twin._lent = True
        twin._faces = self._faces[indices]
        if self.backend == "numba":
            old = None if into is None else into.arena
            if old is not None and old.shape != (twin.size, self._rows.shape[1]):
                old = None
            twin._rows = np.take(self._rows, indices, axis=0, out=old, mode="clip")
            twin._view()
        else:
            twin._rows = [self._rows[i].copy() for i in indices]
            twin.stats = self.stats[indices]
        twin._pool = None
        twin._chunks = [(0, twin.size)]
        twin._everyone = np.ones(twin.size, dtype=np.int64)
        return twin

    def _view(self) -> None:
        """Show the statistics where compiled code leaves them: in the rows themselves."""
        self.stats = self._rows[:, STATS : STATS + STATS_SIZE]

    def step(self, plans: Ints, active: NDArray[np.bool_] | None = None) -> Ints:
        """Run one window of every active environment.

        Args:
            plans: [size, PLAN_SIZE], each row as `engine.pack_plan` makes it. They are taken as valid.
            active: [size] bool; the others stay as they are, their statistics too. None: all.

        Returns:
            `self.stats`.
        """
        if plans.shape != (self.size, PLAN_SIZE):
            raise InvalidInputError("plans", f"must have shape {(self.size, PLAN_SIZE)}", got=plans.shape)
        mask = self._everyone if active is None else active.astype(np.int64)
        compiles = self.backend == "numba"
        run: Any = compiled.compiled_fleet().run_batch if compiles else fleet_kernel.run_batch
        faces = native(self._faces, self.backend)
        args = (self._rows, self._tables, self._traffic, faces, self._no_records, native(plans, self.backend), mask)
        if self._pool is None:
            run(*args, 0, self.size)
        else:
            for done in [self._pool.submit(run, *(*args, low, high)) for low, high in self._chunks]:
                done.result()
        if not compiles:
            for index in np.flatnonzero(mask).tolist():
                self._show(index)
        return self.stats

    def _show(self, index: int) -> None:
        """Copy what plain Python keeps in a list to where callers read it; compiled code works in the array itself."""
        self.stats[index] = self._rows[index][STATS : STATS + STATS_SIZE]

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
