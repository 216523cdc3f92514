"""A trace becomes an episode of its own requests under a task's rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.fitted import fitted_azure_conversation
from llmserve_sim.workload.replay import MAX_REPLAY_WINDOWS, scenario_from_trace
from llmserve_sim.workload.scenario import Phase


@pytest.mark.parametrize("task_id", ["static_workload", "adversarial_multitenant", "phase_shift", "azure_code"])
def test_the_requests_are_the_traces_and_the_rest_is_the_tasks(task_id: str) -> None:
    task = load_task(task_id)
    trace = fitted_azure_conversation(1, 603.0)
    s = scenario_from_trace(trace, task, 5)
    assert s.windows == 121 + 12
    assert s.traffic.arrival_ps is trace.arrival_ps
    assert s.traffic.prompt is trace.prompt
    assert s.traffic.output is trace.output
    assert np.allclose(s.rate * task.window_s, s.counts())
    assert (s.phase == Phase.CALM).all()
    assert abs((s.traffic.priority == 0).mean() - task.priority.share) < 0.03
    assert np.abs(np.bincount(s.traffic.tenant) / len(trace) - [t.share for t in task.tenants]).max() < 0.03
    assert s.acceptance.shape == (133, 4)
    assert s.digest() == scenario_from_trace(trace, task, 5).digest()
    assert s.digest() != scenario_from_trace(trace, task, 6).digest()


def test_the_last_request_is_inside_the_last_window(everything: Task) -> None:
    trace = fitted_azure_conversation(1, 60.0)
    whole = replace(trace, duration_ps=int(trace.arrival_ps[-1]) + 1)
    s = scenario_from_trace(whole, everything)
    assert s.counts().sum() == len(trace)
    assert s.windows == -(-whole.duration_ps // s.window_ps) + -(-60 * 10**12 // s.window_ps)


def test_nothing_arrives_in_the_windows_after_the_traces_end() -> None:
    task = load_task("static_workload")
    trace = fitted_azure_conversation(1, 60.0)
    s = scenario_from_trace(trace, task, drain_s=11.0)
    assert s.windows == 12 + 3
    assert (s.counts()[12:] == 0).all()
    assert (s.rate[12:] == 0).all()
    assert scenario_from_trace(trace, task, drain_s=0).windows == 12


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), 86_401, True, "60"])
def test_a_drain_that_is_no_time_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInputError, match=r"drain_s: must be a number in 0\.\.86400"):
        scenario_from_trace(fitted_azure_conversation(1, 60.0), load_task("static_workload"), drain_s=wrong)  # type: ignore[arg-type]


def test_what_is_under_way_at_the_last_arrival_finishes_in_the_drain() -> None:
    task = load_task("static_workload").model_copy(update={"cotenant": None})
    trace = fitted_azure_conversation(1, 30.0)
    env = ServingEnv(task)
    env.start(0, scenario=scenario_from_trace(trace, task))
    while not env.state().done:
        env.advance(ServeAction(batch_cap=128))
    state = env.state()
    assert (state.queued, state.running) == (0, 0)
    assert state.finished + state.abandoned + state.rejected == len(trace)
    assert state.finished > 0.9 * len(trace)


def test_a_trace_of_too_many_windows_is_refused() -> None:
    trace = replace(fitted_azure_conversation(1, 60.0), duration_ps=MAX_REPLAY_WINDOWS * 5 * 10**12 + 1)
    with pytest.raises(InvalidInputError, match=r"at most 100000 windows") as caught:
        scenario_from_trace(trace, load_task("static_workload"))
    assert caught.value.field == "trace"
