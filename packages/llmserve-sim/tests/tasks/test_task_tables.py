"""The tables about tasks say what the task files and their model say."""

from __future__ import annotations

from llmserve_sim.tasks import list_tasks
from llmserve_sim.tasks.tables import TABLES


def test_tables_name_every_task_and_every_field() -> None:
    both = TABLES["tasks"]() + TABLES["extended_tasks"]()
    assert all(f"`{task.id}`" in both for task in list_tasks())
    fields = TABLES["task_fields"]()
    assert "| `lengths.mega.share` | number | >= 0, <= 1 |" in fields
    assert "| `tenants[].quality_stake_burst` |" in fields
    assert "| `seeds.reference.stop` |" in fields
