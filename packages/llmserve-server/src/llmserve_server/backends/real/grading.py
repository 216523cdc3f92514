"""Grade a measured episode on the simulator's scale; it cannot be verified.

A log of real mode names its deployment ``real:<provider>/<model>``, which is also part of the digest of its task. So no
simulator accepts it as one of its own.
"""

from __future__ import annotations

import hashlib
from math import fsum
from statistics import fmean
from typing import TYPE_CHECKING, Final

from llmserve_sim.__about__ import __version__
from llmserve_sim.grader import score_of
from llmserve_sim.references import load_references
from llmserve_sim.schema import EpisodeLog, GradeReport
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    from llmserve_sim.tasks import Task

__all__ = ["PREFIX", "digest_of", "grade_measured", "is_measured"]

PREFIX: Final = "real:"
"""Prefix of the name of a real deployment."""
_MEASURED: Final = (
    "measured on a real endpoint: it cannot be replayed, it had a sample of the task's requests, its reward lacks the terms "
    "that nobody measured, and the references are the simulator's"
)
_COMPONENTS: Final = ("throughput", "slo", "cost")
"""Components in the report of a measured episode; memory and quality are not measured."""


def is_measured(log: EpisodeLog) -> bool:
    """Return whether `log` says that real mode made it."""
    return log.deployment is not None and log.deployment.startswith(PREFIX)


def digest_of(task: Task, deployment: str) -> str:
    """Return the SHA-256 (hex) of a task on a real deployment."""
    return hashlib.sha256(f"{task.digest} {deployment}".encode()).hexdigest()


def grade_measured(log: EpisodeLog) -> GradeReport:
    """Score a measured log; `verified` is null, and the reason explains it. Raises `UnknownTaskError`."""
    task = catalogue_task(log.task_id)
    rewards = [step.observation.reward for step in log.steps]
    known = log.simulator_version == __version__ and log.task_digest == digest_of(task, log.deployment or "")
    references = load_references(task.id, task.digest) if known and rewards else None
    reason = _MEASURED
    if not known:
        reason = "no score: made with another version of the simulator or of the task"
    elif not rewards:
        reason = "no score: the log has no steps"
    elif references is None:
        reason = "no score: there are no references for this task and version"
    elif len(rewards) > task.windows:
        reason, references = f"no score: it has {len(rewards)} steps, and an episode {task.windows}", None
    score = None
    if references is not None:
        missing = task.windows - len(rewards)
        score = score_of(fsum([*rewards, missing * references.random]) / task.windows, references)
    return GradeReport(
        task_id=log.task_id,
        seed=log.seed,
        split=task.seeds.split_of(log.seed),
        score=score,
        verified=None,
        reason=reason,
        complete=len(rewards) == task.windows,
        steps=len(rewards),
        episode_length=task.windows,
        total_reward=fsum(rewards),
        mean_reward=fmean(rewards) if rewards else 0.0,
        components=_components(log),
        references=references,
        simulator_version=__version__,
    )


def _components(log: EpisodeLog) -> dict[str, float]:
    """Return the mean of each component that every step has as a number."""
    shares = [step.observation.metadata.get("reward_shares") for step in log.steps]
    found = {}
    for name in _COMPONENTS:
        values = [share.get(name) for share in shares if isinstance(share, dict)]
        numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if numbers and len(numbers) == len(shares):
            found[name] = fmean(numbers)
    return found
