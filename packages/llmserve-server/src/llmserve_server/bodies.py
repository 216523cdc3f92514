"""Parse the JSON bodies of our routes: exact types, and errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import translate

__all__ = ["checked", "content_of"]

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
    return content


def checked(model: type[_Model], content: Mapping[str, Any]) -> _Model:
    """Return the fields of a body as a `model`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise translate(error, model) from None
