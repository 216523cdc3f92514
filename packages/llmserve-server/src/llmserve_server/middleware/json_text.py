"""`parse_json`: JSON that every parser and encoder behind it can handle; and the checks of a JSON-RPC call.

Python's parser accepts what its encoder, or the next parser, fails on: half surrogates, NaN, nesting by the thousand. It
refuses integers of more than 4300 digits with an error that callers do not expect.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic_core import from_json

from llmserve_server.errors import InvalidField, ServiceError
from llmserve_server.json_rpc import error_document

__all__ = ["not_json", "parse_json", "rpc_error", "rpc_problem"]

_JSON: Final = "one JSON document in UTF-8, nested at most 100 deep, without NaN, infinity or half surrogates"


def parse_json(text: str | bytes) -> Any:
    """Return the value of a document; raises `InvalidField` with the field "message" or "body"."""
    try:
        # The first parser refuses deep nesting, half surrogates and NaN; the second what Python itself cannot read.
        value = from_json(text, allow_inf_nan=False)
        json.loads(text)
    except (ValueError, RecursionError):
        raise not_json("message" if isinstance(text, str) else "body") from None
    return value


def not_json(field: str) -> InvalidField:
    """Return the error for a `field` (a body, a message) that `parse_json` refuses."""
    return InvalidField(f"{field}: must be {_JSON}", field=field, bound=_JSON)


def rpc_problem(call: object) -> InvalidField | None:
    """Return what is wrong with the parameters of a JSON-RPC call in ways that OpenEnv's handlers fail on."""
    params = call.get("params") if isinstance(call, dict) else None
    named = params.get("session_id") if isinstance(params, dict) else None
    if named is None or isinstance(named, str):
        return None
    return InvalidField("params.session_id: must be a text", field="params.session_id", bound="a text")


def rpc_error(number: int, error: ServiceError, call: object = None) -> str:
    """Return the JSON-RPC answer for `error`, with the id of the `call` if it has a usable one."""
    call_id = call.get("id") if isinstance(call, dict) else None
    return json.dumps(error_document(number, error.message, call_id, data=error.body()["error"]))
