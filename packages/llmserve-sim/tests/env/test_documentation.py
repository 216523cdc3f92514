"""The tables of the documentation are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve_sim.documentation import TABLES, fill, main
from llmserve_sim.errors import InvalidInputError

PAGES = [Path(__file__).parents[4] / "docs" / name for name in ("environment.md", "tasks.md")]


@pytest.mark.skipif(not all(page.is_file() for page in PAGES), reason="the docs are not beside the package")
def test_the_pages_are_up_to_date_and_show_every_table() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert fill(text) == text, "run: python -m llmserve_sim.documentation docs/environment.md docs/tasks.md"
    assert all(f"<!-- table {name} -->" in text for name in TABLES)


def test_only_what_stands_between_the_marks_is_rewritten(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table action -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    main([str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- table action -->\n| Field |")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "`1..512`" in text
    assert "old" not in text


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="table: must be one of action"):
        fill("<!-- table nope -->\n<!-- end -->")
