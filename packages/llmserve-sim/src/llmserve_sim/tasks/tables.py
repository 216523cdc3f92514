"""The tables of docs/tasks.md: the built-in tasks side by side, and every field of a task file.

The task files and their model are the only source; `llmserve_sim.documentation` puts the tables into pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from llmserve_sim.tasks.model import Task
from llmserve_sim.tasks.registry import list_tasks

__all__ = ["TABLES", "markdown"]

_BOUNDS: Final = (
    ("minimum", ">= {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "<= {}"),
    ("exclusiveMaximum", "< {}"),
    ("minLength", "length >= {}"),
    ("maxLength", "length <= {}"),
    ("minItems", "items >= {}"),
    ("maxItems", "items <= {}"),
    ("pattern", "`{}`"),
)


def markdown(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _lines(task: Task) -> Iterator[tuple[str, str]]:
    t, lengths, a, c, p = task.traffic, task.lengths, task.acceptance, task.cotenant, task.priority
    yield "difficulty", task.difficulty
    yield "windows x seconds", f"{task.windows} x {task.window_s:g}"
    yield "requests/s", f"{t.rate_rps:g}"
    yield (
        "bursts",
        f"{t.burst.rate_rps:g}/s, {t.burst.length_windows} of {t.burst.period_windows} windows, "
        f"±{t.burst.jitter_windows}"
        if t.burst
        else "-",
    )
    yield "spikes", f"{t.spikes.rate_rps:g}/s in {t.spikes.probability:.0%} of windows" if t.spikes else "-"
    yield "gap CV", f"{t.gap_cv:g}"
    yield "rate noise (CV)", f"{t.rate_noise.cv:g}" if t.rate_noise else "-"
    yield "on/off, mean windows", f"{t.on_off.mean_on_windows:g} / {t.on_off.mean_off_windows:g}" if t.on_off else "-"
    yield "daily peak/trough", f"{t.diurnal.peak_to_trough:g}" if t.diurnal else "-"
    yield "prompt / output mean, tokens", f"{lengths.prompt.mean_tokens:g} / {lengths.output.mean_tokens:g}"
    mega = lengths.mega
    yield (
        "mega prompts",
        f"{mega.share:.0%} (burst {mega.share_burst:.0%}), {mega.min_tokens}-{mega.max_tokens}" if mega else "-",
    )
    other = lengths.alternation
    yield (
        "alternating with",
        f"{other.prompt.mean_tokens:g} / {other.output.mean_tokens:g}, {other.length_windows} of {other.period_windows}"
        if other
        else "-",
    )
    yield "draft acceptance", f"{a.mean:g} ± {a.swing:g}, burst -{a.burst_dip:g}"
    yield "co-tenant GB, period", f"{c.low_gb:g}-{c.high_gb:g}, {c.period_windows}" if c else "-"
    yield "priority share (burst), weight", f"{p.share:.0%} ({p.share_burst:.0%}), {p.weight:g}"
    yield (
        "priority surge",
        f"{p.surge.share:.0%} in {p.surge.length_windows} of {p.surge.period_windows}" if p.surge else "-",
    )
    yield "standard TTFT s / TPOT ms", f"{task.slo.standard.ttft_s:g} / {task.slo.standard.tpot_ms:g}"
    yield "priority TTFT s / TPOT ms", f"{task.slo.priority.ttft_s:g} / {task.slo.priority.tpot_ms:g}"
    yield "tenants (share in bursts)", ", ".join(f"{x.id} {x.share:.0%} ({x.share_burst:.0%})" for x in task.tenants)
    yield (
        "quality stake (in bursts)",
        ", ".join(f"{x.quality_stake:g} ({x.quality_stake_burst:g})" for x in task.tenants),
    )
    yield "longest request, tokens", str(task.max_len_tokens)


def _catalogue(*, extended: bool) -> str:
    tasks = [task for task in list_tasks() if task.extended is extended]
    columns = [dict(_lines(task)) for task in tasks]
    # A row that no task of the table uses would only say so.
    rows = [row for row in columns[0] if any(column[row] != "-" for column in columns)]
    return markdown(
        ("", *(f"`{task.id}`" for task in tasks)), ((row, *(column[row] for column in columns)) for row in rows)
    )


def _fields() -> str:
    schema = Task.model_json_schema()
    return markdown(("Field", "Type", "Accepts", "Meaning"), _walk(schema, schema["$defs"], ""))


def _walk(node: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    required = node.get("required", [])
    for name, spec in node["properties"].items():
        resolved, optional = _resolve(spec, definitions)
        items, _ = _resolve(resolved.get("items", {}), definitions)
        kind = "table" if "properties" in resolved else "tables" if items else resolved.get("type", "")
        accepts = ", ".join(text.format(_number(resolved[key])) for key, text in _BOUNDS if key in resolved)
        if "enum" in resolved:
            accepts = ", ".join(map(str, resolved["enum"]))
        if name not in required:
            default = spec.get("default")
            accepts = ", ".join(filter(None, [accepts, "optional" if optional else f"default {default}"]))
        yield f"`{prefix}{name}`", kind, accepts, spec.get("description", "")
        if "properties" in resolved:
            yield from _walk(resolved, definitions, f"{prefix}{name}.")
        elif items:
            yield from _walk(items, definitions, f"{prefix}{name}[].")


def _resolve(spec: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return a field's schema without its reference, and whether it may be absent."""
    choices = spec.get("anyOf", [spec])
    chosen = next(choice for choice in choices if choice.get("type") != "null")
    if "$ref" in chosen:
        return definitions[chosen["$ref"].rpartition("/")[2]], len(choices) > 1
    return chosen, len(choices) > 1


def _number(value: object) -> object:
    """A number as text, the same whether pydantic's schema gives it as an integer or as a float."""
    return f"{value:.15g}" if isinstance(value, float) else value


TABLES: Final[dict[str, Callable[[], str]]] = {
    "tasks": lambda: _catalogue(extended=False),
    "extended_tasks": lambda: _catalogue(extended=True),
    "task_fields": _fields,
}
"""What a page can ask for, by name."""
