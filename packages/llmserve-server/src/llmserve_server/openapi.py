"""The OpenAPI document of the routes: bodies, session keys and every status that a route can answer with.

Our routes parse their bodies themselves, so FastAPI cannot infer the schemas and they are declared here. OpenEnv's
routes do not declare their error statuses; they are added here too.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from llmserve_server.wire import BaselineRequest, ErrorBody, ForkRequest, GradeRequest, ResetRequest, StepRequest

__all__ = ["body", "errors", "keys", "openapi_of", "rpc_errors"]

_MEANING: Final = {
    400: "The server lacks a key that the call needs, or the request is malformed.",
    401: "The server requires a bearer token.",
    403: "The request comes under a foreign name or from a foreign page, or it spends a key that is not the caller's.",
    404: "No such session, episode or task.",
    409: "The episode's state does not allow the call, or no session is meant unambiguously.",
    413: "The body, or the log, is too large.",
    422: "A field is wrong: `field` and `bound` say which and what would be accepted.",
    429: "All sessions are in use, or the resource is busy: see `Retry-After`.",
    500: "The server failed; its log says why.",
    501: "Not offered by this environment.",
    502: "The model's endpoint refused or failed.",
    503: "The episode store is unavailable: see `Retry-After`.",
}
_REF: Final = "#/components/schemas/{model}"
_RPC_ERROR: Final = {
    "type": "object",
    "description": "A JSON-RPC error.",
    "required": ["jsonrpc", "id", "error"],
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "integer", "null"]},
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
        },
    },
}
_BODIES: Final[tuple[type[BaseModel], ...]] = (
    BaselineRequest,
    ErrorBody,
    ForkRequest,
    GradeRequest,
    ResetRequest,
    StepRequest,
)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the declaration of error `statuses`, and of 401, which every guarded route has."""
    return {status: {"model": ErrorBody, "description": _MEANING[status]} for status in sorted({401, *statuses})}


def rpc_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the declaration of error `statuses` of a JSON-RPC route: its own errors, and those of the layers before it."""
    schema = {"anyOf": [{"$ref": _REF.format(model="ErrorBody")}, _RPC_ERROR]}
    content = {"application/json": {"schema": schema}}
    return {status: {"description": _MEANING[status], "content": content} for status in sorted({401, *statuses})}


def body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Return the declaration of a JSON body of `model`."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def keys(*, query: bool = True) -> dict[str, Any]:
    """Return the declaration of the parameters that can name a session outside the body."""
    text = {"type": "string", "maxLength": 200}
    found = [
        {
            "name": "X-Session-Id",
            "in": "header",
            "required": False,
            "schema": text,
            "description": "The session that is meant, where the body or query names none.",
        },
    ]
    if query:
        found.insert(
            0,
            {
                "name": "session_id",
                "in": "query",
                "required": False,
                "schema": text,
                "description": "The session that is meant.",
            },
        )
    return {"parameters": found}


_UNDECLARED: Final = {
    ("/{env_name}/splits", "get"): (404, 501),
    ("/{env_name}/tasks", "post"): (400, 404, 413, 422, 501),
    ("/{env_name}/num_tasks", "post"): (400, 404, 413, 422, 501),
    ("/{env_name}/task", "post"): (400, 404, 413, 422, 501),
    ("/{env_name}/task_range", "post"): (400, 404, 413, 422, 501),
    ("/list_environments", "get"): (),
    ("/metadata", "get"): (),
    ("/schema", "get"): (),
}


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of `app`, which is made only once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, tags=app.openapi_tags, routes=app.routes
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        _, definitions = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF)
        for name, schema in definitions["$defs"].items():
            schemas.setdefault(name, schema)
        error = {"application/json": {"schema": {"$ref": _REF.format(model="ErrorBody")}}}
        for (path, method), statuses in _UNDECLARED.items():
            operation = document["paths"].get(path, {}).get(method)
            for status in (401, *statuses) if operation else ():
                operation["responses"][str(status)] = {"description": _MEANING[status], "content": error}
        app.openapi_schema = document
    return app.openapi_schema
