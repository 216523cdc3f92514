"""The tables of docs/tasks.md are those of the task files."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import list_tasks
from llmserve_sim.tasks.tables import TABLES, fill, main

PAGE = Path(__file__).parents[4] / "docs" / "tasks.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="the docs are not beside the package")
def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page) == page, "run: python -m llmserve_sim.tasks.tables docs/tasks.md"
    assert all(f"<!-- tasks {name} -->" in page for name in TABLES)


def test_tables_name_every_task_and_every_field() -> None:
    both = TABLES["core"]() + TABLES["extended"]()
    assert all(f"`{task.id}`" in both for task in list_tasks())
    fields = TABLES["fields"]()
    assert "| `lengths.mega.share` | number | >= 0, <= 1 |" in fields
    assert "| `tenants[].quality_stake_burst` |" in fields
    assert "| `seeds.reference.stop` |" in fields


def test_only_what_stands_between_the_marks_is_rewritten(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tasks core -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    main([str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- tasks core -->\n|  | `static_workload` |")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    with pytest.raises(InvalidInputError, match="core, extended, fields"):
        fill("<!-- tasks nope -->\n<!-- end -->")
