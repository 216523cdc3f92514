"""`grade`: replays a log and says whether it is genuine and what it is worth.

A log is genuine if its actions, replayed on the named task and seed, give every observation and reward in the log. Only
a genuine log is scored: its mean reward per window, placed between the task's references (piecewise linear: 0 the
random policy, 0.5 the best fixed configuration, 1 the clairvoyant search) and clipped to [0, 1]. The mean is over all
windows of the task. A window that an unfinished episode lacks counts as the random reference, so stopping early never
pays.

If the references are *paired*, the best fixed configuration plays the same seed when the log is graded, and the score
is 0.5 plus half the mean difference per window, over clairvoyant - best_static where it is positive and over
best_static - random where it is negative. What the seed's traffic does to every policy alike then cancels out. A window
that is lacking counts as random - best_static.
"""

from __future__ import annotations

from functools import lru_cache
from math import fsum
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llmserve_sim.__about__ import __version__
from llmserve_sim.env import EngineKind, ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.observation import to_observation
from llmserve_sim.references import load_references
from llmserve_sim.reward import CountedTerms
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeObservation, parse_log, schema_hash
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmserve_sim.env import Outcome
    from llmserve_sim.hardware import Deployment
    from llmserve_sim.schema import ReferenceScores, ServeAction, ServeState
    from llmserve_sim.tasks import Task
    from llmserve_sim.workload.scenario import Scenario

__all__ = ["COMPONENTS", "grade", "paired_score", "score_of"]

COMPONENTS = ("throughput", "slo", "memory", "cost", "quality")
"""Unweighted components that a report shows, each in 0..1 (more memory pressure and cost is worse)."""


def grade(
    log: str | bytes | Mapping[str, Any] | EpisodeLog,
    *,
    task: str | Path | Task | None = None,
    deployment: str | Deployment | None = None,
    scenario: Scenario | None = None,
    engine: EngineKind = "auto",
    tell_replay: bool = True,
) -> GradeReport:
    """Return the grade of `log` (JSON text, a mapping or an `EpisodeLog`); the same log always gets the same grade.

    `task` (by default the log's task id in the catalogue, and only there: a log opens no file), `deployment` and
    `scenario` are what the episode ran on, if not the task's own. With `tell_replay` the reason names the field that
    differs and what the replay gives; whoever may not see the future of the seed is told the step only. A log that does
    not replay gets `verified: false`, a reason and no score; an unfinished episode `complete: false` and a score in which
    each missing window counts as one of the random policy. Raises `InvalidInputError` if `log` is not a log, and
    `UnknownTaskError` for a task that is not in the catalogue.
    """
    log = parse_log(log)
    env = ServingEnv(catalogue_task(log.task_id) if task is None else task, deployment=deployment, engine=engine)
    start = env.start(log.seed, scenario=scenario)
    state = env.state()
    length = state.episode_length
    outcomes: list[Outcome] = []
    reason = _foreign(log, state, scenario) or _replay(log, env, start, outcomes, tell_replay)
    rewards = [step.observation.reward for step in log.steps]
    mean = fmean(rewards) if rewards else 0.0
    components = {} if reason or not rewards else _components(outcomes)
    references = None if reason or scenario is not None else load_references(env.task.id, state.task_digest)
    score = unclipped = None
    if reason is None:
        if not rewards:
            reason, references = "no score: the log has no steps", None
        elif references is None:
            reason = "no score: there are no references for this task and version"
        else:
            missing = length - len(rewards)
            if references.paired:
                fixed = _fixed_rewards(env.task, env.deployment, references.best_static_action, log.seed, len(rewards))
                lacking = missing * (references.random - references.best_static)
                gained = fsum([*rewards, *(-reward for reward in fixed), lacking]) / length
                unclipped = paired_score(gained, references)
                score = min(1.0, max(0.0, unclipped))
            else:
                score = score_of(fsum([*rewards, missing * references.random]) / length, references)
        verified = True
    else:
        verified = False
    return GradeReport(
        task_id=log.task_id,
        seed=log.seed,
        split=None if scenario is not None else env.task.seeds.split_of(log.seed),
        score=score,
        verified=verified,
        reason=reason,
        complete=len(log.steps) == length,
        steps=len(log.steps),
        episode_length=length,
        total_reward=fsum(rewards),
        mean_reward=mean,
        components=components,
        references=references,
        simulator_version=__version__,
        unclipped_score=unclipped,
        clipped=None if unclipped is None else score != unclipped,
    )


def paired_score(difference: float, references: ReferenceScores) -> float:
    """Return the score, not clipped, of a mean difference per window to the best fixed configuration."""
    low, middle, high = references.random, references.best_static, references.clairvoyant
    return 0.5 + 0.5 * difference / (high - middle if difference > 0.0 else middle - low)


def score_of(mean_reward: float, references: ReferenceScores, best_static: float | None = None) -> float:
    """Return the score in [0, 1] of a mean reward per window.

    `best_static` is the mean reward of the best fixed configuration on the same seeds: paired references measure from
    it. Without it, and with other references, their own is taken.
    """
    if references.paired and best_static is not None:
        return min(1.0, max(0.0, paired_score(mean_reward - best_static, references)))
    low, middle, high = references.random, references.best_static, references.clairvoyant
    if mean_reward <= middle:
        return max(0.0, 0.5 * (mean_reward - low) / (middle - low))
    return min(1.0, 0.5 + 0.5 * (mean_reward - middle) / (high - middle))


def _foreign(log: EpisodeLog, state: ServeState, scenario: Scenario | None) -> str | None:
    """Return why the log cannot be replayed here, or None; `state` is that of the replaying environment."""
    length = state.episode_length
    scenario_digest = None if scenario is None else scenario.digest()
    if log.simulator_version != __version__:
        return f"made by version {log.simulator_version}; this is version {__version__}"
    if log.schema_hash != schema_hash():
        return "made with another schema of actions and observations"
    if log.task_digest != state.task_digest:
        return "made with " + _what_differs(log, state, scenario_digest)
    if log.deployment is not None and (log.deployment, log.scenario_digest) != (state.deployment, scenario_digest):
        return "the log's deployment or scenario_digest is not the one in its task_digest"
    if len(log.steps) > length:
        return f"it has {len(log.steps)} steps, and an episode {length}"
    return None


def _what_differs(log: EpisodeLog, state: ServeState, scenario_digest: str | None) -> str:
    if log.deployment is not None and log.deployment != state.deployment:
        return f"the deployment {log.deployment}, graded on {state.deployment}: pass the deployment that it ran on"
    if log.scenario_digest is not None and scenario_digest is None:
        return "a scenario (a trace) of its own, graded without one: pass the scenario that it ran on"
    if log.deployment is not None and log.scenario_digest != scenario_digest:
        return "another scenario (trace) than the one it is graded on"
    return (
        "another definition of the task, another deployment or another scenario (trace): "
        "pass the task file, deployment or trace that it ran on"
    )


def _replay(log: EpisodeLog, env: ServingEnv, start: Outcome, outcomes: list[Outcome], tell_replay: bool) -> str | None:
    """Return why the replay differs from the log, or None; appends the replayed outcomes to `outcomes`."""
    task_id = env.task.id
    problem = _difference(log.initial_observation, start, task_id)
    if problem:
        return f"initial_observation.{problem}" if tell_replay else "initial_observation does not replay"
    for index, step in enumerate(log.steps):
        try:
            outcome = env.advance(step.action)
        except InvalidInputError as error:
            return f"steps.{index}.action was refused on replay: {error}"
        problem = _difference(step.observation, outcome, task_id)
        if problem:
            return f"steps.{index}.observation.{problem}" if tell_replay else f"steps.{index} does not replay"
        outcomes.append(outcome)
    return None


def _difference(logged: ServeObservation, outcome: Outcome, task_id: str) -> str | None:
    replayed = to_observation(outcome.measurement, outcome.terms, task_id=task_id, done=outcome.done)
    for name in ServeObservation.model_fields:
        was, now = getattr(logged, name), getattr(replayed, name)
        if was != now:
            return f"{name} does not replay" if name == "metadata" else f"{name} is {was!r}, the replay gives {now!r}"
    return None


@lru_cache(maxsize=64)
def _fixed_rewards(
    task: Task, deployment: Deployment, action: ServeAction, seed: int, windows: int
) -> tuple[float, ...]:
    """Return the rewards of the first windows under a fixed configuration: many agents are graded on one seed."""
    env = ServingEnv(task, deployment=deployment)
    env.start(seed)
    return tuple(env.advance(action).reward for _ in range(windows))


def _components(outcomes: list[Outcome]) -> dict[str, float]:
    """Return means over windows; where the reward counts, ratios of the episode's sums instead."""
    terms = [outcome.terms for outcome in outcomes if outcome.terms is not None]
    shares = [one.shares() for one in terms]
    means = {name: fmean(share[name] for share in shares) for name in COMPONENTS}
    counts = [one.counts for one in terms if isinstance(one, CountedTerms)]
    if not counts:
        return means

    def ratio(part: str, whole: str, otherwise: float) -> float:
        total = fsum(getattr(one, whole) for one in counts)
        return min(1.0, fsum(getattr(one, part) for one in counts) / total) if total else otherwise

    return {
        "throughput": ratio("quality_tokens", "offered_tokens", 1.0),
        "slo": ratio("met", "due", 1.0),
        "memory": means["memory"],
        "cost": ratio("bought_tokens", "delivered_tokens", 1.0),
        "quality": ratio("quality_tokens", "good_tokens", means["quality"]),
    }
