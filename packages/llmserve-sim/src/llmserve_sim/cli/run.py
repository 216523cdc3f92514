"""Makes the environment, the policy and the episode that the command's arguments ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmserve_sim.configuration import Configurator
from llmserve_sim.env import Outcome, ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.hardware import Deployment, get_deployment, with_model
from llmserve_sim.observation import to_observation
from llmserve_sim.policies import POLICIES, Policy, StaticPolicy, constrain, make_policy
from llmserve_sim.replay.requests import RequestCollector, RequestTable
from llmserve_sim.replay.rules import replay_rules
from llmserve_sim.replay.summary import RequestSummary, paid_ps, summarise_requests
from llmserve_sim.schema import EpisodeLog, parse_action
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.replay import DRAIN_S, scenario_from_trace
from llmserve_sim.workload.scenario import Scenario, generate
from llmserve_sim.workload.traces import Trace, read_trace

__all__ = ["Choice", "Recording", "World", "knob_action", "run_episode"]


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
    skip_bad: bool = False
    """Leave out and count rows that cannot be read."""
    time_unit: str | None = None
    time_column: str | None = None
    prompt_column: str | None = None
    output_column: str | None = None
    drain_s: float = DRAIN_S
    patience_s: float = 0.0
    """A request that waits longer for its first token is abandoned; 0: never."""
    max_unfinished: int | None = None
    """Unfinished requests at which arrivals are rejected; None: no limit."""
    max_model_len: int | None = None
    """Prompt and output tokens beyond which a request is rejected; None: what the deployment can serve."""
    cotenant: bool = False
    """Keep the task's co-tenant; by default the traffic is alone."""
    prefix_reuse: bool = False
    """Keep the task's prefix cache: a recording does not say what its prompts share."""

    def read(self) -> Trace:
        """Return the trace; raises `InvalidInputError` as `read_trace` does."""
        return read_trace(
            self.path,
            format=self.format,
            start_s=self.start_s,
            duration_s=self.duration_s,
            limit=self.limit,
            rate_scale=self.rate_scale,
            sort=self.sort,
            skip_bad=self.skip_bad,
            time_unit=self.time_unit,
            time_column=self.time_column,
            prompt_column=self.prompt_column,
            output_column=self.output_column,
        )

    def rules(self, task: Task, trace: Trace, deployment: Deployment) -> Task:
        """Return the task under which the recording runs, see `replay_rules`."""
        return replay_rules(
            task,
            trace,
            deployment=deployment,
            patience_s=self.patience_s,
            max_unfinished=self.max_unfinished,
            max_model_len=self.max_model_len,
            cotenant=self.cotenant,
            prefix_reuse=self.prefix_reuse,
        )


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated: a task, or a recording under a task's rules."""

    rules: Task
    seed: int
    scenario: Scenario | None
    """The recording's; None: the task draws its own."""
    trace: Trace | None
    title: str
    deployment: Deployment

    def caption(self, summary: RequestSummary) -> str | None:
        """Return what a reader of a recording's figures must know: its limits and what they leave out."""
        if self.trace is None:
            return None
        rules = self.rules
        patience = f"{rules.patience_s:g} s" if rules.patience_s else "for ever"
        queue = "any number" if rules.max_unfinished >= len(self.trace) else f"{rules.max_unfinished:,}"
        words = [f"a request waits {patience}", f"{queue} unfinished", f"at most {rules.max_len_tokens:,} tokens each"]
        if summary.requests["unfinished"]:
            words.append("latencies leave out the unfinished: a longer --drain-s lets them finish")
        return " · ".join(words)

    def table(self, collector: RequestCollector, env: ServingEnv) -> RequestTable:
        """Return what became of the requests of the episode that `env` has run."""
        if self.scenario is None or self.trace is None:
            traffic = generate(self.rules, self.seed).traffic
        else:
            traffic = replace(self.scenario.traffic, prompt=self.trace.prompt)
        return collector.table(
            traffic,
            Configurator.build(self.rules, env.deployment).slo,
            max_len=self.rules.max_len_tokens,
            until_ps=env.episode_length * self.rules.window_ps,
            cut=self.trace is None,
        )

    def summary(self, table: RequestTable, log: EpisodeLog, env: ServingEnv) -> RequestSummary:
        """Return the figures over the requests in `table`."""
        episode_ps = env.episode_length * self.rules.window_ps
        return summarise_requests(
            table,
            duration_ps=episode_ps
            if self.trace is None
            else paid_ps(table, traffic_ps=self.trace.duration_ps, episode_ps=episode_ps),
            output_tokens=round(sum(step.observation.throughput_tps for step in log.steps) * self.rules.window_s),
            usd_per_hour=env.deployment.usd_per_hour,
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What to simulate: a task and a seed, or a recording under a task's rules, on a deployment."""

    task: str
    seed: int
    deployment: str | None
    recording: Recording | None = None
    model: str | None = None
    """Served in place of the deployment's model: a name, or the path of a config.json."""

    def world(self) -> World:
        """Read the task and the recording."""
        task = load_task(self.task)
        server = get_deployment(self.deployment or task.deployment)
        if self.model is not None:
            server = with_model(server, self.model)
        if self.recording is None:
            return World(task, self.seed, None, None, task.name, server)
        trace = self.recording.read()
        rules = self.recording.rules(task, trace, server)
        company = [
            *(["with its co-tenant"] if rules.cotenant else []),
            *(["with its prefix reuse"] if rules.prefix_cache else []),
        ]
        title = f"{trace.name} under the rules of {rules.id}, {' and '.join(company) or 'alone'}"
        scenario = scenario_from_trace(trace, rules, self.seed, drain_s=self.recording.drain_s)
        return World(rules, self.seed, scenario, trace, title, server)


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


def run_episode(
    env: ServingEnv, policy: Policy, start: Outcome, tick: Callable[[int], object], into: RequestCollector
) -> None:
    """Let `policy` act until the episode ends, and collect the requests of each window.

    Calls `tick` after each window with the number of windows so far. `env` must keep latencies.
    """
    policy.reset(env.task.id, env.state().seed)
    constrain(policy, can_split=env.can_split)
    observation = to_observation(start.measurement, None, task_id=env.task.id, done=False)
    done = 0
    while not observation.done:
        observation = env.step(policy.act(observation))
        env.count_latencies(into)
        done += 1
        tick(done)
