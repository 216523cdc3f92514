"""A trace becomes an episode of its own requests under a task's rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.fitted import fitted_azure_conversation
from llmserve_sim.workload.replay import MAX_REPLAY_WINDOWS, scenario_from_trace
from llmserve_sim.workload.scenario import Phase


@pytest.mark.parametrize("task_id", ["static_workload", "adversarial_multitenant", "phase_shift", "azure_code"])
def test_the_requests_are_the_traces_and_the_rest_is_the_tasks(task_id: str) -> None:
    task = load_task(task_id)
    trace = fitted_azure_conversation(1, 603.0)
    s = scenario_from_trace(trace, task, 5)
    assert s.windows == 121
    assert s.traffic.arrival_ps is trace.arrival_ps
    assert s.traffic.prompt is trace.prompt
    assert s.traffic.output is trace.output
    assert np.allclose(s.rate * task.window_s, s.counts())
    assert (s.phase == Phase.CALM).all()
    assert abs((s.traffic.priority == 0).mean() - task.priority.share) < 0.03
    assert np.abs(np.bincount(s.traffic.tenant) / len(trace) - [t.share for t in task.tenants]).max() < 0.03
    assert s.acceptance.shape == (121, 4)
    assert s.digest() == scenario_from_trace(trace, task, 5).digest()
    assert s.digest() != scenario_from_trace(trace, task, 6).digest()


def test_the_last_request_is_inside_the_last_window(everything: Task) -> None:
    trace = fitted_azure_conversation(1, 60.0)
    whole = replace(trace, duration_ps=int(trace.arrival_ps[-1]) + 1)
    s = scenario_from_trace(whole, everything)
    assert s.counts().sum() == len(trace)
    assert s.windows == -(-whole.duration_ps // s.window_ps)


def test_a_trace_of_too_many_windows_is_refused() -> None:
    trace = replace(fitted_azure_conversation(1, 60.0), duration_ps=MAX_REPLAY_WINDOWS * 5 * 10**12 + 1)
    with pytest.raises(InvalidInputError, match=r"at most 100000 windows") as caught:
        scenario_from_trace(trace, load_task("static_workload"))
    assert caught.value.field == "trace"
