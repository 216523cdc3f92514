"""Select the requests of a window and limit their lengths: a sample of the task's scenario.

The sampled share is fixed for a task, so busy windows stay busier than calm ones, and every request of an episode has
the same chance. It is systematic sampling with a random start drawn from the seed: the i-th arrival is taken if the
running total i·share + start passes an integer. A window with still too many requests is sampled once more in the
same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

from llmserve_sim.engine.interface import PS_PER_S
from llmserve_sim.workload.random import U32, uniform_u32

if TYPE_CHECKING:
    from llmserve_server.backends.real.config import RealConfig
    from llmserve_sim.tasks import Task
    from llmserve_sim.workload.scenario import Scenario

__all__ = ["RequestSampler", "SampledRequest", "WindowSample"]


@dataclass(frozen=True, slots=True)
class SampledRequest:
    """One request to be sent."""

    id: int
    """Its index among the scenario's requests."""
    due_s: float
    """Arrival time, wall seconds after the window's start."""
    prompt_tokens: int
    completion_tokens: int
    """Maximum number of output tokens."""
    priority: int
    """Class: 0 priority, 1 standard."""
    tenant: int


@dataclass(frozen=True, slots=True)
class WindowSample:
    """The sampled requests of one window, by arrival, and how they relate to the task's requests."""

    requests: tuple[SampledRequest, ...]
    arrivals: int
    """Requests of the task in this window."""
    share: float
    """Share of all requests that is sampled, 0..1, the same in every window."""
    capped: bool
    """Whether the window was sampled once more to stay within the limit."""
    clipped_prompts: int
    clipped_completions: int
    """Requests whose prompt (answer) is shorter than in the task because of the limits."""


class RequestSampler:
    """Draws the requests of each window; the same task, seed and limits give the same requests."""

    def __init__(self, task: Task, seed: int, scenario: Scenario, config: RealConfig) -> None:
        self._scenario = scenario
        self._config = config
        self.share = min(1.0, config.max_requests_per_step / max(1.0, task.peak_rate_rps * task.window_s))
        self._start = int(uniform_u32(seed, "real sample", [0])[0]) / U32
        self._starts = uniform_u32(seed, "real cap", range(scenario.windows))

    def window(self, index: int) -> WindowSample:
        """Return the sample of window `index` (0 first)."""
        scenario, config = self._scenario, self._config
        traffic = scenario.traffic
        first, last = scenario.arrivals_before(index), scenario.arrivals_before(index + 1)
        taken = _systematic(range(first, last), self.share, self._start)
        capped = len(taken) > config.max_requests_per_step
        if capped:
            share = config.max_requests_per_step / len(taken)
            picks = _systematic(range(len(taken)), share, int(self._starts[index]) / U32)
            taken = [taken[i] for i in picks[: config.max_requests_per_step]]
        begin_ps = index * scenario.window_ps
        requests = tuple(
            SampledRequest(
                id=i,
                due_s=(int(traffic.arrival_ps[i]) - begin_ps) / PS_PER_S * config.time_scale,
                prompt_tokens=min(int(traffic.prompt[i]), config.max_prompt_tokens),
                completion_tokens=min(int(traffic.output[i]), config.max_completion_tokens),
                priority=int(traffic.priority[i]),
                tenant=int(traffic.tenant[i]),
            )
            for i in taken
        )
        return WindowSample(
            requests=requests,
            arrivals=last - first,
            share=self.share,
            capped=capped,
            clipped_prompts=sum(int(traffic.prompt[i]) > config.max_prompt_tokens for i in taken),
            clipped_completions=sum(int(traffic.output[i]) > config.max_completion_tokens for i in taken),
        )


def _systematic(indices: range, share: float, start: float) -> list[int]:
    return [i for i in indices if floor((i + 1) * share + start) > floor(i * share + start)]
