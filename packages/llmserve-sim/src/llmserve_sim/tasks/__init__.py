"""Tasks as data: one TOML file each, their model and the registry that loads them.

A task describes the traffic, the targets and the reward. It holds no code. `workload/scenario.py` draws its episodes.
"""

from __future__ import annotations

from llmserve_sim.tasks.model import Task
from llmserve_sim.tasks.registry import list_tasks, load_task

__all__ = ["Task", "list_tasks", "load_task"]
