"""A forecast keeps what was seen, redraws what was not, and never knows which future is the true one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmserve_sim.engine.interface import Traffic
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.forecast import resample
from llmserve_sim.workload.scenario import Scenario, generate

CUT = 50


def spliced(past: Scenario, future: Scenario, cut: int) -> Scenario:
    """Return a scenario with one's past and the other's future."""
    p, f = past.arrivals_before(cut), future.arrivals_before(cut)

    def join(name: str) -> np.ndarray:
        return np.concatenate((getattr(past.traffic, name)[:p], getattr(future.traffic, name)[f:]))

    windows = {
        name: np.concatenate((getattr(past, name)[:cut], getattr(future, name)[cut:]))
        for name in ("phase", "rate", "acceptance", "cotenant_bytes", "quality_stake")
    }
    names = ("arrival_ps", "prompt", "output", "priority", "tenant")
    return replace(past, traffic=Traffic(**{name: join(name) for name in names}), **windows)


@pytest.fixture(params=["everything", "bursty_workload", "azure_code", "phase_shift"])
def task(request: pytest.FixtureRequest, everything: Task) -> Task:
    return everything if request.param == "everything" else load_task(request.param)


def test_a_forecast_does_not_depend_on_the_hidden_future(task: Task) -> None:
    past = generate(task, 1)
    other = spliced(past, generate(task, 2), CUT)
    assert past.digest() != other.digest()
    assert resample(past, task, 9, CUT).digest() == resample(other, task, 9, CUT).digest()


def test_unknown_outputs_do_not_leak_but_finished_ones_stay(task: Task) -> None:
    past = generate(task, 1)
    kept = past.arrivals_before(CUT)
    changed = replace(past, traffic=replace(past.traffic, output=past.traffic.output + 17))
    assert resample(past, task, 9, CUT).digest() == resample(changed, task, 9, CUT).digest()
    finished = np.arange(kept) % 3 == 0
    again = resample(past, task, 9, CUT, finished=finished).traffic.output[:kept]
    assert np.array_equal(again[finished], past.traffic.output[:kept][finished])
    assert (again[~finished] != past.traffic.output[:kept][~finished]).mean() > 0.9


def test_what_was_seen_is_kept_and_the_rest_redrawn(task: Task) -> None:
    past = generate(task, 1)
    kept = past.arrivals_before(CUT)
    drawn = resample(past, task, 9, CUT)
    for name in ("arrival_ps", "prompt", "priority", "tenant"):
        assert np.array_equal(getattr(drawn.traffic, name)[:kept], getattr(past.traffic, name)[:kept])
    assert (drawn.traffic.arrival_ps[kept:] >= CUT * past.window_ps).all()
    assert (np.diff(drawn.traffic.arrival_ps) >= 0).all()
    assert drawn.traffic.arrival_ps[-1] < past.windows * past.window_ps
    for name in ("phase", "rate", "acceptance", "cotenant_bytes", "quality_stake"):
        assert np.array_equal(getattr(drawn, name)[:CUT], getattr(past, name)[:CUT])
        assert getattr(drawn, name).shape == getattr(past, name).shape
    assert drawn.digest() == resample(past, task, 9, CUT).digest()
    assert drawn.digest() != resample(past, task, 10, CUT).digest()


def test_a_request_that_streamed_tokens_gets_a_longer_output() -> None:
    task = load_task("static_workload")
    past = generate(task, 1)
    kept = past.arrivals_before(CUT)
    produced = np.full(kept, 300, dtype=np.int64)
    longer = resample(past, task, 9, CUT, produced=produced).traffic.output[:kept]
    assert longer.min() > 300
    usual = generate(task, 77).traffic.output
    expected = usual[usual > 300].mean()
    assert abs(longer.mean() / expected - 1) < 0.03


def test_requests_that_have_streamed_nothing_get_the_tasks_own_outputs() -> None:
    task = load_task("static_workload")
    past = generate(task, 1)
    drawn = resample(past, task, 9, CUT).traffic.output[: past.arrivals_before(CUT)]
    usual = generate(task, 77).traffic.output
    assert abs(drawn.mean() / usual.mean() - 1) < 0.05
    for q in (10, 50, 90):
        assert abs(np.percentile(drawn, q) / np.percentile(usual, q) - 1) < 0.08


def test_bursts_the_neighbour_and_drift_are_learned_from_the_past() -> None:
    task = load_task("bursty_workload")
    hits, memory, drift = [], [], []
    for seed in range(15):
        truth = generate(task, seed)
        drawn = resample(truth, task, 1000 + seed, CUT)
        ahead = slice(CUT, CUT + 24)
        hits.append(np.mean(truth.loaded[ahead] == drawn.loaded[ahead]))
        memory.append(np.abs(truth.cotenant_bytes[ahead] - drawn.cotenant_bytes[ahead]).mean() / 1e9)
        drift.append(np.abs(truth.acceptance[ahead, 0] - drawn.acceptance[ahead, 0]).mean())
    assert np.mean(hits) > 0.8  # jitter alone costs about .13; an unknown phase gives .62
    assert np.mean(memory) < 1.5
    assert np.mean(drift) < 0.1


def test_acceptance_that_nobody_drafted_is_not_known() -> None:
    task = load_task("static_workload")
    past = generate(task, 1)
    other = replace(past, acceptance=np.clip(past.acceptance[::-1], 0.0, 1.0))
    nothing = np.zeros(CUT, dtype=np.bool_)
    a, b = (resample(s, task, 9, CUT, drafted=nothing).acceptance[CUT:] for s in (past, other))
    assert np.array_equal(a, b)


def test_the_first_and_the_last_window_can_be_cut_at(task: Task) -> None:
    past = generate(task, 1)
    assert resample(past, task, 9, 0).windows == past.windows
    end = resample(past, task, 9, past.windows)
    assert len(end.traffic) == len(past.traffic)


def test_bad_arguments_are_refused_by_name() -> None:
    task = load_task("static_workload")
    past = generate(task, 1)
    kept = past.arrivals_before(CUT)
    for window in (-1, 121, 1.0, True):
        with pytest.raises(InvalidInputError) as caught:
            resample(past, task, 0, window)  # type: ignore[arg-type]
        assert caught.value.field == "from_window"
    bad = {
        "produced": (np.zeros(kept - 1, dtype=np.int64), np.zeros(kept), np.full(kept, -1, dtype=np.int64)),
        "finished": (np.zeros(kept + 1, dtype=np.bool_), np.zeros(kept, dtype=np.int64)),
        "drafted": (np.zeros(CUT + 1, dtype=np.bool_),),
    }
    for name, values in bad.items():
        for value in values:
            with pytest.raises(InvalidInputError) as caught:
                resample(past, task, 0, CUT, **{name: value})
            assert caught.value.field == name
