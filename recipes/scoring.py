"""What the recipes share: options that count, and a policy's reward and score on the task's first test seeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from llmserve_sim.grader import score_of
from llmserve_sim.references import load_references
from llmserve_sim.tasks import load_task
from llmserve_sim.vector import ServingVectorEnv

Act = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""From observations float32[n, 40] to actions int64[n, 6]."""


def count(text: str) -> int:
    """Read an option that counts something: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def evaluate(task_id: str, act: Act, episodes: int) -> tuple[float, float | None]:
    """Return the mean reward per window over the first test seeds, and the score: None without references."""
    task = load_task(task_id)
    first = task.seeds.test.start
    env = ServingVectorEnv(episodes, task, observation="extended")
    observations, _ = env.reset(seed=list(range(first, first + episodes)))
    total = np.zeros(episodes)
    for _ in range(task.windows):
        observations, rewards, _, _, _ = env.step(act(observations))
        total += rewards
    env.close()
    mean = float(total.mean()) / task.windows
    references = load_references(task.id, task.digest)
    return mean, None if references is None else score_of(mean, references)


def report(task_id: str, act: Act, episodes: int) -> None:
    """Print the mean reward and the score."""
    mean, score = evaluate(task_id, act, episodes)
    shown = "no references" if score is None else f"score {score:.3f}"
    print(f"{task_id}, {episodes} test seeds: mean reward per window {mean:.4f}, {shown} (0 random, 0.5 best fixed)")
