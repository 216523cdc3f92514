"""The table of settings: how a field is declared, what its row says, and the line for a wrong value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings

from llmserve_agents.llm.transport import redact_urls

__all__ = ["MIB", "PREFIX", "Bytes", "Setting", "problem_line", "rows", "seconds"]

PREFIX: Final = "LLMSERVE_"
MIB: Final = 2**20
Bytes = Annotated[int, Field(ge=1024, le=1024 * MIB, json_schema_extra={"unit": "bytes"})]


def seconds(default: float, low: float, high: float, description: str, **options: Any) -> Any:
    """Return a field for a time in seconds."""
    return Field(
        default=default, ge=low, le=high, description=description, json_schema_extra={"unit": "seconds"}, **options
    )


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the documented table of settings."""

    name: str
    variables: tuple[str, ...]
    """Environment variables, in order of precedence."""
    default: object
    unit: str
    bounds: str
    """What is accepted, in words."""
    meaning: str


def rows(model: type[BaseSettings]) -> tuple[Setting, ...]:
    """Return the table of a model's settings, in the order of their definition."""
    properties = model.model_json_schema(by_alias=False)["properties"]
    return tuple(_row(model, name, properties[name]) for name in model.model_fields)


def _variables(model: type[BaseSettings], name: str) -> tuple[str, ...]:
    alias = model.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (PREFIX + name.upper(),)


def _row(model: type[BaseSettings], name: str, spec: Mapping[str, Any]) -> Setting:
    info = model.model_fields[name]
    return Setting(
        name=name,
        variables=_variables(model, name),
        default=", ".join(info.default) if isinstance(info.default, tuple) else info.default,
        unit=spec.get("unit", ""),
        bounds=_bounds(spec),
        meaning=info.description or "",
    )


_PLAIN_BOUNDS: Final = {
    "array": "names, separated by commas",
    "boolean": "true or false",
    "object": "a JSON object",
}


def _bounds(spec: Mapping[str, Any]) -> str:
    spec = next((part for part in spec.get("anyOf", ()) if part.get("type") != "null"), spec)
    if "enum" in spec:
        return "one of " + ", ".join(spec["enum"])
    if spec["type"] in _PLAIN_BOUNDS:
        return _PLAIN_BOUNDS[spec["type"]]
    if spec["type"] in {"integer", "number"}:
        kind = "an integer" if spec["type"] == "integer" else "a number"
        return f"{kind} in {_plain(spec['minimum'])}..{_plain(spec['maximum'])}"
    if "pattern" in spec:
        return str(spec.get("accepted", "an http:// or https:// URL"))
    return f"a text of at least {spec['minLength']} characters" if spec.get("minLength", 1) > 1 else "a text"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def problem_line(model: type[BaseSettings], problem: Any) -> str:
    """Return one of pydantic's errors as a line that names the variable, without the value of a secret."""
    if not problem["loc"]:
        return str(problem["msg"]).removeprefix("Value error, ")
    where = str(problem["loc"][0])
    for row in rows(model):
        if where == row.name or where.upper() in row.variables:
            break
    else:
        return f"{where}: there is no such setting; the settings are {', '.join(model.model_fields)}"
    variable = " (or ".join(row.variables) + ")" * (len(row.variables) - 1)
    if problem["type"] == "value_error":
        return f"{variable}: {str(problem['msg']).removeprefix('Value error, ')}"
    secret = SecretStr.__name__ in str(model.model_fields[row.name].annotation)
    unit = f" ({row.unit})" if row.unit else ""
    return f"{variable}: must be {row.bounds}{unit}" + (
        "" if secret else f", got {redact_urls(repr(problem['input']))}"
    )
