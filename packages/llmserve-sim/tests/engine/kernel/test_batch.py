"""Single or batched, in plain Python or compiled, on one thread or two: the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from engine_strategies import Workload, random_workload, with_traffic

from llmserve_sim.engine import KernelBatch, KernelEngine, Traffic
from llmserve_sim.engine.kernel.engine import pack_plan
from llmserve_sim.engine.kernel.layout import STATS_SIZE
from llmserve_sim.errors import InvalidInputError

SIZE = 6


def variants(workload: Workload) -> list[Traffic]:
    """Different traffic for each environment: the workload's own, with lengths dealt out anew and fewer requests."""
    base = workload.traffic
    traffics = []
    for index in range(SIZE):
        order = np.random.default_rng(index).permutation(len(base))
        dealt = with_traffic(base, prompt=base.prompt[order], output=base.output[order])
        kept = slice(0, max(1, len(base) - index))
        traffics.append(Traffic(*(getattr(dealt, name)[kept] for name in Traffic.__dataclass_fields__)))
    return traffics


def rows_of_singles(workload: Workload, backend: str) -> list[bytes]:
    rows = []
    for traffic in variants(workload):
        engine = KernelEngine(workload.fleet, workload.slo, traffic, backend=backend)
        for plan in workload.plans:
            engine.step(plan)
        rows.append(engine.state_bytes())
    return rows


def rows_of_batch(workload: Workload, backend: str, threads: int) -> list[bytes]:
    batch = KernelBatch(workload.fleet, workload.slo, SIZE, backend=backend, threads=threads)
    for index, traffic in enumerate(variants(workload)):
        batch.load(index, traffic)
    for plan in workload.plans:
        batch.step(np.tile(pack_plan(plan), (SIZE, 1)))
    batch.close()
    return [row.tobytes() for row in batch.arena]


@pytest.mark.parametrize("seed", range(12))
def test_single_and_batched_python_and_numba_give_the_same_bytes(seed: int, backends: list[str]) -> None:
    workload = random_workload(seed)
    expected = rows_of_singles(workload, "python")
    for backend in backends:
        assert rows_of_singles(workload, backend) == expected, backend
        for threads in (1, 2):
            assert rows_of_batch(workload, backend, threads) == expected, (backend, threads)


def test_an_inactive_environment_stays_as_it_is() -> None:
    workload = random_workload(3)
    batch = KernelBatch(workload.fleet, workload.slo, 2, backend="python")
    for index in range(2):
        batch.load(index, workload.traffic)
    before = batch.arena[1].copy()
    stats = batch.step(np.tile(pack_plan(workload.plans[0]), (2, 1)), np.array([True, False]))
    assert stats.shape == (2, STATS_SIZE)
    assert np.array_equal(batch.arena[1], before)
    assert not np.array_equal(batch.arena[0], before)


def test_loading_starts_one_environment_anew_and_leaves_the_others_alone() -> None:
    workload = random_workload(5)
    batch = KernelBatch(workload.fleet, workload.slo, 2, backend="python")
    for index in range(2):
        batch.load(index, workload.traffic)
    fresh = batch.arena[0].copy()
    batch.step(np.tile(pack_plan(workload.plans[0]), (2, 1)))
    other = batch.arena[1].copy()
    batch.load(0, workload.traffic)
    assert np.array_equal(batch.arena[0], fresh)
    assert np.array_equal(batch.arena[1], other)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("size", lambda w: KernelBatch(w.fleet, w.slo, 0)),
        ("threads", lambda w: KernelBatch(w.fleet, w.slo, 1, threads=0)),
        ("threads", lambda w: KernelBatch(w.fleet, w.slo, 1, threads=True)),
        ("threads", lambda w: KernelBatch(w.fleet, w.slo, 1, threads=2.0)),  # type: ignore[arg-type]
        ("size", lambda w: KernelBatch(w.fleet, w.slo, True)),
        ("plans", lambda w: KernelBatch(w.fleet, w.slo, 2, backend="python").step(np.zeros((2, 3), np.int64))),
    ],
)
def test_a_batch_refuses_what_it_cannot_run_and_names_it(field: str, make: object) -> None:
    with pytest.raises(InvalidInputError) as refused:
        make(random_workload(0))  # type: ignore[operator]
    assert refused.value.field == field
