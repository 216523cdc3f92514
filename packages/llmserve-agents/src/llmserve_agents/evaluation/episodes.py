"""One episode: an agent drives the simulator to its end, and the grader replays what it did.

What evaluations, ablations and pictures are made of. The module knows nothing about processes or statistics.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from llmserve_agents.evaluation.report import EpisodeScore
from llmserve_agents.evaluation.roster import AgentSpec
from llmserve_agents.policy import Attachable, Policy
from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade
from llmserve_sim.schema import ACTION_FIELDS, EpisodeLog
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["drive", "play", "scored", "warm"]


def drive(env: ServingEnv, agent: Policy, seed: int) -> None:
    """Run an episode of the environment's task to its end; an agent that forks is given the environment first."""
    observation = env.reset(seed)
    agent.reset(env.task.id, seed)
    if isinstance(agent, Attachable):
        agent.attach(env)
    while not observation.done:
        observation = env.step(agent.act(observation))


def play(spec: AgentSpec, task_id: str, seed: int) -> EpisodeLog:
    """Run one episode of an agent and return its log."""
    env = ServingEnv(catalogue_task(task_id))
    drive(env, spec.make(), seed)
    return env.episode_log()


def scored(log: EpisodeLog, label: str, weights: str | None) -> EpisodeScore:
    """Return what a log comes to, replayed; `weights` is the file that the agent loaded."""
    report = grade(log)
    actions = [step.action for step in log.steps]
    return EpisodeScore(
        agent=label,
        task_id=report.task_id,
        seed=report.seed,
        split=report.split,
        steps=report.steps,
        complete=report.complete,
        verified=report.verified,
        reason=report.reason,
        score=report.score,
        mean_reward=report.mean_reward,
        components=report.components,
        changes={
            knob: sum(getattr(before, knob) != getattr(after, knob) for before, after in pairwise(actions))
            for knob in ACTION_FIELDS
        },
        weights=weights,
    )


@cache
def warm() -> None:
    """Load the kernel, compiling it where no process has before; once per process."""
    env = ServingEnv()
    env.start(0)
    env.step({})
