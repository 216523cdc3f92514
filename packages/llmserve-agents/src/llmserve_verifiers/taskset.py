"""The taskset: episodes of a task, each with a prompt that explains it, and how a rollout is rewarded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import verifiers.v1 as vf
from pydantic import Field

from llmserve_agents.tools import LocalEpisode, Toolbox
from llmserve_sim.tasks.registry import catalogue_task
from llmserve_verifiers.scoring import Outcome, outcome
from llmserve_verifiers.tools import ServingState, ServingToolset, offered

__all__ = ["ServingData", "ServingTask", "ServingTaskset", "ServingTasksetConfig"]


class ServingData(vf.TaskData):
    """One episode."""

    task_id: str
    seed: int


class ServingTaskConfig(vf.TaskConfig):
    """The settings of a task."""

    tools: vf.ToolsetConfig = vf.ToolsetConfig()


class ServingTask(vf.Task[ServingData, ServingState, ServingTaskConfig]):
    """Operate the fleet through tools; the reward is the mean reward per window of the whole episode."""

    @classmethod
    def toolsets(cls, config: ServingTaskConfig) -> list[Any]:
        """Return the tool server of a rollout."""
        return [ServingToolset(config.tools)]

    @vf.reward
    async def mean_reward(self, trace: vf.Trace) -> float:
        """Return the mean reward per window; windows that were not run count as the random policy's."""
        return (await self._outcome(trace)).reward

    @vf.metric
    async def episode(self, trace: vf.Trace) -> dict[str, float]:
        """Return the score and the number of windows. Only logged: a clipped score teaches nothing at its ends."""
        found = await self._outcome(trace)
        return {"score": found.score, "windows": float(found.windows)}

    @vf.stop
    async def all_windows_ran(self, trace: vf.Trace) -> bool:
        """Return whether the episode is over."""
        return bool(trace.state.done)

    async def _outcome(self, trace: vf.Trace) -> Outcome:
        return await asyncio.to_thread(outcome, self.data.task_id, self.data.seed, trace.state.actions)


class ServingTasksetConfig(vf.TasksetConfig):
    """The settings of the taskset."""

    task_id: str = "bursty_workload"
    """Task of LLMServeEnv."""
    split: Literal["train", "validation", "test"] = "train"
    """Range of the task's seeds that the episodes have."""
    episodes: int = Field(100, ge=1, le=1_000)
    """Number of episodes."""
    draw: int = Field(0, ge=0)
    """Seed with which the episodes' seeds are drawn from the range."""
    task: ServingTaskConfig = ServingTaskConfig()


class ServingTaskset(vf.Taskset[ServingTask, ServingTasksetConfig]):
    """Episodes of one task, with different seeds of one split."""

    def load(self) -> Iterator[ServingTask]:
        """Yield the tasks; the prompt of each is what `reset` tells."""
        config = self.config
        seeds = getattr(catalogue_task(config.task_id).seeds, config.split)
        box = Toolbox(LocalEpisode())
        drawn = np.random.default_rng(config.draw).choice(len(seeds), config.episodes, replace=False) + seeds.start
        for seed in map(int, drawn):
            told = box.call("reset", {"task_id": config.task_id, "seed": seed}).text
            prompt = f"{told}\nYour tools are {', '.join(offered())}. Play until no windows are left."
            name = f"{config.task_id}-{seed}"
            yield ServingTask(
                ServingData(name=name, id=name, prompt=prompt, task_id=config.task_id, seed=seed), config.task
            )
