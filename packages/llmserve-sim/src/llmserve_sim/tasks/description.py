"""The description of a task in a catalogue: in a server's `GET /tasks`, and in the client's stand-in for a server."""

from __future__ import annotations

from typing import Any

from llmserve_sim.tasks.model import Task

__all__ = ["describe"]


def describe(task: Task) -> dict[str, Any]:
    """Return a task's public fields as plain JSON: identity, episode, targets, deployment, splits; not the traffic."""
    return {
        "id": task.id,
        "name": task.name,
        "description": task.description,
        "difficulty": task.difficulty,
        "extended": task.extended,
        "episode_length": task.windows,
        "window_s": task.window_s,
        "deployment": task.deployment,
        "slo": task.slo.model_dump(mode="json"),
        "splits": {name: {"start": seeds.start, "stop": seeds.stop} for name, seeds in task.seeds.items()},
        "digest": task.digest,
    }
