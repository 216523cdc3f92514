"""Tasks as data: one TOML file each, their model and the registry that loads them.

A task says what happens to a fleet and what is asked of its operator; it knows no episode (`workload/scenario.py`) and
holds no code.
"""

from __future__ import annotations

from llmserve_sim.tasks.model import Task
from llmserve_sim.tasks.registry import list_tasks, load_task

__all__ = ["Task", "list_tasks", "load_task"]
