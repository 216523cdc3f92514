"""Makes the environment, the policy and the episode that the command's arguments ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from llmserve_sim.env import Outcome, ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.observation import to_observation
from llmserve_sim.policies import POLICIES, Policy, StaticPolicy, constrain, make_policy
from llmserve_sim.schema import parse_action
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.replay import DRAIN_S, scenario_from_trace
from llmserve_sim.workload.scenario import Scenario
from llmserve_sim.workload.traces import TraceFormat, read_trace

__all__ = ["Choice", "Recording", "knob_action", "run_episode"]


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace file, the part of it to take, and what to keep of the task. Times are those of the file."""

    path: Path
    format: str = "auto"
    start_s: float = 0.0
    duration_s: float | None = None
    """Seconds of the recording to take; None: all of it."""
    limit: int | None = None
    """Most requests to take; None: all."""
    rate_scale: float = 1.0
    sort: bool = False
    drain_s: float = DRAIN_S
    cotenant: bool = False
    """Keep the task's co-tenant; by default the traffic is alone."""
    prefix_reuse: bool = False
    """Keep the task's prefix cache: a recording does not say what its prompts share."""

    def rules(self, task: Task) -> Task:
        """Return the task under which the recording runs: without co-tenant and prefix cache unless they are kept."""
        gone: dict[str, object] = {} if self.cotenant else {"cotenant": None}
        gone |= {} if self.prefix_reuse else {"prefix_cache": None}
        # Validated again: `model_copy` would keep the digest of the original.
        return Task.model_validate(task.model_dump() | gone)

    def scenario(self, task: Task, seed: int) -> Scenario:
        """Return the episode that replays the trace; raises `InvalidInputError` as `read_trace` does."""
        trace = read_trace(
            self.path,
            format=cast("TraceFormat", self.format),
            start_s=self.start_s,
            duration_s=self.duration_s,
            limit=self.limit,
            rate_scale=self.rate_scale,
            sort=self.sort,
        )
        return scenario_from_trace(trace, task, seed, drain_s=self.drain_s)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to simulate: a task and a seed, or a recording under a task's rules, on a deployment."""

    task: str
    seed: int
    deployment: str | None
    recording: Recording | None = None

    def rules(self) -> Task:
        """Return the task that is run, or the task under which the recording runs."""
        task = load_task(self.task)
        return task if self.recording is None else self.recording.rules(task)

    def scenario(self) -> Scenario | None:
        """Return the scenario of the recording; None without a recording."""
        return None if self.recording is None else self.recording.scenario(self.rules(), self.seed)

    def title(self) -> str:
        """Return what is simulated, in a few words."""
        rules = self.rules()
        if self.recording is None:
            return rules.name
        company = [
            *(["with its co-tenant"] if rules.cotenant else []),
            *(["with its prefix reuse"] if rules.prefix_cache else []),
        ]
        return f"{self.recording.path.name} under the rules of {rules.id}, {' and '.join(company) or 'alone'}"


def knob_action(agent: str | None, knobs: Mapping[str, object]) -> tuple[str, Policy]:
    """The name and the policy of `agent`; without one, static where a knob is given and threshold elsewhere.

    `knobs` (None: not given) change the static policy's configuration and fit no other.
    """
    given = {name: value for name, value in knobs.items() if value is not None}
    agent = agent or ("static" if given else "threshold")
    if agent != "static":
        if given and agent in POLICIES:
            raise InvalidInputError(next(iter(given)), "fits only --agent static", got=agent)
        return agent, make_policy(agent)
    return agent, StaticPolicy(parse_action(StaticPolicy().action.model_dump() | given))


def run_episode(env: ServingEnv, policy: Policy, start: Outcome, tick: Callable[[int], object]) -> None:
    """Let `policy` act until the episode ends; calls `tick` after each window with the number of windows so far."""
    policy.reset(env.task.id, env.state().seed)
    constrain(policy, can_split=env.can_split)
    observation = to_observation(start.measurement, None, task_id=env.task.id, done=False)
    done = 0
    while not observation.done:
        observation = env.step(policy.act(observation))
        done += 1
        tick(done)
