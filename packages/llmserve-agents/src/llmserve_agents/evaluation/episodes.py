"""One episode of an evaluation: its log, and its score, which the grader takes from a replay.

The module knows nothing about processes or statistics.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from llmserve_agents.evaluation.report import EpisodeScore, grade_fields
from llmserve_agents.evaluation.roster import AgentSpec
from llmserve_agents.policy import run_episode
from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade
from llmserve_sim.schema import ACTION_FIELDS, EpisodeLog
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["load_kernel", "record_episode", "score_episode"]


def record_episode(spec: AgentSpec, task_id: str, seed: int) -> EpisodeLog:
    """Run one episode of an agent and return its log."""
    env = ServingEnv(catalogue_task(task_id))
    run_episode(env, spec.make(), seed)
    return env.episode_log()


def score_episode(log: EpisodeLog, label: str, weights: str | None) -> EpisodeScore:
    """Replay a log and return its score; `label` names the agent, `weights` is the file that it loaded."""
    actions = [step.action for step in log.steps]
    return EpisodeScore(
        agent=label,
        **grade_fields(grade(log)),
        changes={
            knob: sum(getattr(before, knob) != getattr(after, knob) for before, after in pairwise(actions))
            for knob in ACTION_FIELDS
        },
        weights=weights,
    )


@cache
def load_kernel() -> None:
    """Load the simulator's compiled kernel, once per process. The first process on a machine compiles it."""
    env = ServingEnv()
    env.start(0)
    env.step({})
