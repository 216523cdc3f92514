"""Fill the generated tables of docs/api.md from the code: routes, bodies, errors, settings, metrics.

    python -m llmserve_server.documentation docs/api.md

A table is between ``<!-- api NAME -->`` and ``<!-- end -->``; the rest of the page stays as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from llmserve_server.app import create_app
from llmserve_server.errors import ServiceError
from llmserve_server.settings import Settings, describe
from llmserve_sim.tasks.tables import markdown

__all__ = ["TABLES", "fill", "main"]

_BLOCK: Final = re.compile(r"(<!-- api ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BODIES: Final = ("ResetRequest", "StepRequest", "ForkRequest", "GradeRequest", "BaselineRequest", "SessionReply")


def _document() -> dict[str, Any]:
    app = create_app(Settings(store_url="sqlite://", web=False))
    return dict(app.openapi()) | {"page": app.state.metrics.page().decode()}


def _routes(document: dict[str, Any]) -> str:
    rows = [
        (f"`{method.upper()} {path}`", _cell(operation.get("summary", "")), ", ".join(sorted(operation["responses"])))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return markdown(("Route", "What it does", "Statuses"), rows)


def _bodies(document: dict[str, Any]) -> str:
    parts = []
    for name in _BODIES:
        schema = document["components"]["schemas"][name]
        required = schema.get("required", ())
        rows = [
            (f"`{field}`", _type(spec), "yes" if field in required else "", _cell(spec.get("description", "")))
            for field, spec in schema["properties"].items()
        ]
        parts.append(f"`{name}`\n\n" + markdown(("Field", "Type", "Required", "Meaning"), rows))
    return "\n".join(parts)


def _type(spec: dict[str, Any]) -> str:
    options = [part for part in spec.get("anyOf", [spec]) if part.get("type") != "null"]
    return " or ".join(f"`{part['$ref'].rsplit('/', 1)[1] if '$ref' in part else part['type']}`" for part in options)


def _errors(_: dict[str, Any]) -> str:
    kinds = [*ServiceError.__subclasses__()]
    rows = sorted(
        (kind.status, f"`{kind.code}`", _cell((kind.__doc__ or "").split("\n", maxsplit=1)[0])) for kind in kinds
    )
    return markdown(("Status", "Code", "Meaning"), rows)


def _settings(_: dict[str, Any]) -> str:
    rows = [
        (
            ", ".join(f"`{variable}`" for variable in row.variables),
            "" if row.default is None else f"`{row.default}`",
            row.unit,
            _cell(row.bounds),
            _cell(row.meaning),
        )
        for row in describe()
    ]
    return markdown(("Variable", "Default", "Unit", "Accepted", "Meaning"), rows)


def _metrics(document: dict[str, Any]) -> str:
    families = text_string_to_metric_families(document["page"])
    rows = sorted(
        (f"`{family.name}{'_total' * (family.type == 'counter')}`", family.type, _cell(family.documentation))
        for family in families
        if not family.name.endswith("_created")
    )
    return markdown(("Metric", "Type", "Meaning"), rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


TABLES: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "routes": _routes,
    "bodies": _bodies,
    "errors": _errors,
    "settings": _settings,
    "metrics": _metrics,
}


def fill(page: str) -> str:
    """Return `page` with its tables generated again; raises `KeyError` for an unknown table."""
    document = _document()
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]](document).rstrip()}\n{found[3]}", page)


def main(paths: Iterable[str]) -> None:
    """Fill the pages at `paths`, in place."""
    for name in paths:
        path = Path(name)
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
