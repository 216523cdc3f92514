"""Fills the generated tables of a Markdown page. The code is their only source.

    python -m llmserve_sim.documentation docs/environment.md docs/tasks.md

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; everything else is left alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grader import score_of
from llmserve_sim.grid import ACTION_GRID
from llmserve_sim.metrics import BASE, EXTENDED, Feature
from llmserve_sim.references import load_references
from llmserve_sim.schema import ACTION_FIELDS, ServeObservation
from llmserve_sim.tasks import list_tasks, tables
from llmserve_sim.tasks.tables import markdown

__all__ = ["TABLES", "fill", "main"]

_BLOCK: Final = re.compile(r"(<!-- table ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _action() -> str:
    return markdown(
        ("Field", "Type", "Range", "Unit", "Default", "Meaning"),
        (
            (f"`{row.name}`", f"`{row.kind}`", f"`{row.bounds}`", row.unit, f"`{_shown(row.default)}`", row.meaning)
            for row in ACTION_FIELDS.values()
        ),
    )


def _grid() -> str:
    return markdown(
        ("#", "Field", "Choices"),
        ((i, f"`{name}`", ", ".join(map(_shown, choices))) for i, (name, choices) in enumerate(ACTION_GRID.items())),
    )


def _observation() -> str:
    properties = ServeObservation.model_json_schema()["properties"]
    return markdown(
        ("Field", "Type", "Unit", "Meaning"),
        (
            (f"`{name}`", f"`{spec['type']}`", spec.get("unit", ""), spec["description"])
            for name, spec in properties.items()
        ),
    )


def _features(table: tuple[Feature, ...], first: int) -> str:
    return markdown(
        ("#", "Name", "Unit", "Scale", "Meaning"),
        (
            (first + i, f"`{row.name}`", row.unit, f"{row.scale:g}" if row.scale else "-", row.meaning)
            for i, row in enumerate(table)
        ),
    )


def _references() -> str:
    found = {task.id: load_references(task.id, task.digest) for task in list_tasks()}
    return markdown(
        ("Task", "random: 0", "best fixed: 0.5", "clairvoyant: 1", "heuristic, score", "ppo, score"),
        (
            (
                f"`{task}`",
                *(f"{x:.4f}" for x in (row.random, row.best_static, row.clairvoyant)),
                *(
                    "-"
                    if x is None
                    else f"{x:.4f}, {score_of(x, row):.2f}{' (provisional)' if row.provisional else ''}"
                    for x in (row.heuristic, row.ppo)
                ),
            )
            for task, row in found.items()
            if row is not None
        ),
    )


TABLES: Final[dict[str, Callable[[], str]]] = {
    "action": _action,
    "grid": _grid,
    "observation": _observation,
    "base": lambda: _features(BASE, 0),
    "extended": lambda: _features(EXTENDED[len(BASE) :], len(BASE)),
    "references": _references,
    **tables.TABLES,
}
"""What a page can ask for, by name."""


def fill(page: str) -> str:
    """Return `page` with every table rewritten; raises `InvalidInputError` for a table that does not exist."""

    def table(found: re.Match[str]) -> str:
        name = found[2]
        if name not in TABLES:
            raise InvalidInputError("table", "must be one of " + ", ".join(TABLES), got=name)
        return found[1] + TABLES[name]() + found[3]

    return _BLOCK.sub(table, page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the pages named on the command line in place."""
    parser = argparse.ArgumentParser(
        prog="python -m llmserve_sim.documentation", description="Fill the generated tables."
    )
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE", help="a Markdown page, rewritten in place")
    for path in parser.parse_args(arguments).pages:
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
