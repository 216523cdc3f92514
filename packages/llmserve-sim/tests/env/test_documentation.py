"""The tables on the environment's page are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve_sim.documentation import TABLES, fill, main
from llmserve_sim.errors import InvalidInputError

PAGE = Path(__file__).parents[4] / "docs" / "environment.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="the docs are not beside the package")
def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page) == page, "run: python -m llmserve_sim.documentation docs/environment.md"
    assert all(f"<!-- table {name} -->" in page for name in TABLES)


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
