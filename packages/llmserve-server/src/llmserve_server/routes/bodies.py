"""Parse the JSON bodies of our routes: exact types, and errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import translate

__all__ = ["checked", "content_of", "few_fields"]

_MOST_FIELDS: Final = 100
_Model = TypeVar("_Model", bound=BaseModel)


def content_of(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; an empty body gives an empty object."""
    if not raw.strip():
        return {}
    try:
        content = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInputError("body", f"must be one JSON document ({error})") from None
    if not isinstance(content, dict):
        raise InvalidInputError("body", "must be a JSON object")
    few_fields(body=content)
    return content


def few_fields(**given: Any) -> None:
    """Refuse an object with more fields than any of ours has: each would become an error, at a thousand times its size."""
    for name, value in given.items():
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise InvalidInputError(name, f"must be an object of at most {_MOST_FIELDS} fields", got=len(value))


def checked(model: type[_Model], content: Mapping[str, Any]) -> _Model:
    """Return the fields of a body as a `model`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise translate(error, model) from None
