"""What the command runs: from its arguments to an environment, a policy and an episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from llmserve_sim.env import Outcome, ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.observation import to_observation
from llmserve_sim.policies import POLICIES, Policy, StaticPolicy, make_policy
from llmserve_sim.schema import parse_action
from llmserve_sim.tasks import load_task
from llmserve_sim.workload.replay import scenario_from_trace
from llmserve_sim.workload.scenario import Scenario
from llmserve_sim.workload.traces import TraceFormat, read_trace

__all__ = ["Choice", "knob_action", "run_episode"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What to simulate: a task and a seed, or a trace under a task's rules, on a deployment."""

    task: str
    seed: int
    trace: Path | None
    trace_format: str
    duration_s: float | None
    """Seconds of the recording to take; None: all of it."""
    rate_scale: float
    deployment: str | None

    def environment(self) -> ServingEnv:
        """The environment, not yet started."""
        return ServingEnv(self.task, deployment=self.deployment)

    def scenario(self) -> Scenario | None:
        """What the trace makes of the task's traffic; None without a trace."""
        if self.trace is None:
            return None
        # read_trace refuses a format or a number that it does not know, by name.
        trace = read_trace(
            self.trace,
            format=cast("TraceFormat", self.trace_format),
            duration_s=self.duration_s,
            rate_scale=self.rate_scale,
        )
        return scenario_from_trace(trace, load_task(self.task), self.seed)

    def start(self, env: ServingEnv) -> Outcome:
        """Start the episode in `env`."""
        return env.start(self.seed, scenario=self.scenario())

    def title(self, env: ServingEnv) -> str:
        """What is simulated, in a few words."""
        return env.task.name if self.trace is None else f"{self.trace.name} under the rules of {env.task.id}"


def knob_action(agent: str, knobs: Mapping[str, object]) -> Policy:
    """The policy of that name; `knobs` (None: not given) change the static one's configuration and fit no other."""
    given = {name: value for name, value in knobs.items() if value is not None}
    if agent != "static":
        if given and agent in POLICIES:
            raise InvalidInputError(next(iter(given)), "fits only --agent static", got=agent)
        return make_policy(agent)
    return StaticPolicy(parse_action(StaticPolicy().action.model_dump() | given))


def run_episode(env: ServingEnv, policy: Policy, start: Outcome, tick: Callable[[], object]) -> None:
    """Let `policy` act until the episode ends; calls `tick` after each window."""
    policy.reset(env.task.id, env.state().seed)
    observation = to_observation(start.measurement, None, task_id=env.task.id, done=False)
    while not observation.done:
        observation = env.step(policy.act(observation))
        tick()
