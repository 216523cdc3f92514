"""The wire format: builds requests and messages, parses answers. Does no I/O and holds no state.

OpenEnv's socket moves `reward` and `done` out of the observation. This module puts them back, so both transports give
the same `ServeObservation`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from llmserve_client._exceptions import AnswerError, ClientError, InvalidFieldError, UnknownTaskError, refusal
from llmserve_client._operations import HttpResponse
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.errors import UnknownTaskError as SimUnknownTaskError
from llmserve_sim.schema import (
    EpisodeLog,
    GradeReport,
    ServeAction,
    ServeObservation,
    ServeState,
    parse_action,
    parse_log,
    plain_integer,
)

__all__ = [
    "SESSION_HEADER",
    "check_action",
    "check_episode",
    "check_log",
    "payload",
    "read_grade",
    "read_http",
    "read_log",
    "read_model",
    "read_observation",
    "read_socket",
    "read_state",
    "session_of",
    "socket_reset",
    "socket_step",
]

SESSION_HEADER: Final = "X-Session-Id"
_MAX_SEED: Final = 2**63 - 1
_SHOWN: Final = 200
_Model = TypeVar("_Model", bound=BaseModel)


def payload(content: Mapping[str, object]) -> bytes:
    """Return JSON without the entries that are None."""
    return json.dumps({name: value for name, value in content.items() if value is not None}, allow_nan=False).encode()


def _refused(error: InvalidInputError, prefix: str = "") -> InvalidFieldError:
    kind = UnknownTaskError if isinstance(error, SimUnknownTaskError) else InvalidFieldError
    return kind(f"{prefix}{error}", code="invalid_field", field=f"{prefix}{error.field}", bound=error.bound)


def check_action(action: object) -> ServeAction:
    """Return the caller's action as a `ServeAction`; raises `InvalidFieldError` as the server would."""
    try:
        return parse_action(action)
    except InvalidInputError as error:
        raise _refused(error) from None


def check_log(log: object) -> EpisodeLog:
    """Return the caller's log (JSON text, a mapping or an `EpisodeLog`); raises `InvalidFieldError`."""
    try:
        return parse_log(log)  # type: ignore[arg-type] # parse_log checks the type itself
    except InvalidInputError as error:
        raise _refused(error) from None


def check_episode(task_id: object, seed: object, episode_id: object) -> dict[str, object]:
    """Return the fields of a reset; raises `InvalidFieldError` for values that no server accepts."""
    seed = plain_integer(seed)
    if seed is not None and (type(seed) is not int or not 0 <= seed <= _MAX_SEED):
        raise _refused(InvalidInputError("seed", f"must be an integer in 0..{_MAX_SEED}", got=seed))
    for name, value in (("task_id", task_id), ("episode_id", episode_id)):
        if value is not None and (not isinstance(value, str) or not value):
            raise _refused(InvalidInputError(name, "must be a text of 1..200 characters", got=value))
    return {"task_id": task_id, "seed": seed, "episode_id": episode_id}


def socket_reset(fields: Mapping[str, object]) -> str:
    """Return the socket message that starts an episode or attaches to one."""
    data = {name: value for name, value in fields.items() if value is not None}
    return json.dumps({"type": "reset", "data": data})


def socket_step(action: ServeAction, step_index: int) -> str:
    """Return the socket message of a step; the index is sent in the action's OpenEnv metadata."""
    return json.dumps({"type": "step", "data": {**action.model_dump(), "metadata": {"step_index": step_index}}})


def read_http(answer: HttpResponse) -> Any:
    """Return the JSON of a response; raises `RefusedError` for an error status, `AnswerError` for anything else."""
    if 300 <= answer.status < 400:
        where = answer.headers.get("location", "elsewhere")
        raise AnswerError(f"the server moved to {where}: use that address")
    if not 200 <= answer.status < 300:
        raise _http_refusal(answer)
    return _json(answer.body)


def _http_refusal(answer: HttpResponse) -> ClientError:
    try:
        content = from_json(answer.body)
    except ValueError:
        content = None
    retry = _number(answer.headers.get("retry-after"))
    error = content.get("error") if isinstance(content, dict) else None
    if isinstance(error, dict):
        return _typed(error, answer.status, retry)
    detail = content.get("detail") if isinstance(content, dict) else None
    said = detail if isinstance(detail, str) else _excerpt(answer.body)
    return refusal(
        f"HTTP {answer.status}: {said}", code=f"http_{answer.status}", status=answer.status, retry_after_s=retry
    )


def _typed(error: Mapping[str, Any], status: int, retry_after_s: float | None) -> ClientError:
    said = error.get("retry_after_s")
    own = error.get("status")
    return refusal(
        str(error.get("message") or error.get("code")),
        code=str(error.get("code")),
        status=own if isinstance(own, int) else status,
        field=str(error.get("field") or ""),
        bound=str(error.get("bound") or ""),
        retry_after_s=retry_after_s if said is None else _number(said),
    )


def read_socket(text: str, expected: str) -> dict[str, Any]:
    """Return the data of a socket message; raises `RefusedError` for an error message, else `AnswerError`."""
    message = _json(text)
    if not isinstance(message, dict) or not isinstance(message.get("data"), dict):
        raise AnswerError(f"no message of this contract: {_excerpt(text)}")
    data: dict[str, Any] = message["data"]
    if message.get("type") == "error":
        raise _socket_refusal(data)
    if message.get("type") != expected:
        raise AnswerError(f"expected a message of type {expected}, got {message.get('type')!r}")
    return data


def _socket_refusal(data: Mapping[str, Any]) -> ClientError:
    if isinstance(data.get("error"), dict):
        return _typed(data["error"], 0, None)
    # OpenEnv's own error format: it refused before it called the environment.
    code, problems = data.get("code"), data.get("errors")
    message = str(data.get("message", "refused"))
    if code == "CAPACITY_REACHED":
        return refusal(message, code="at_capacity", status=429)
    if code == "VALIDATION_ERROR" and isinstance(problems, list) and problems and isinstance(problems[0], dict):
        first = problems[0]
        where, bound = ".".join(map(str, first.get("loc", ()))), str(first.get("msg", message))
        return refusal(f"{where}: {bound}", code="invalid_field", status=422, field=where, bound=bound)
    return refusal(message, code=str(code or "refused").lower(), status=500 if code == "FACTORY_ERROR" else 0)


def read_observation(content: Any) -> ServeObservation:
    """Return the observation in the answer to a reset or a step, from either transport."""
    if not isinstance(content, dict) or not isinstance(content.get("observation"), dict):
        raise AnswerError(f"no observation in the answer: {_excerpt(content)}")
    beside = {name: content[name] for name in ("reward", "done") if name in content}
    return read_model(ServeObservation, {**beside, **content["observation"]})


def read_state(content: Any) -> ServeState:
    """Return the state in an answer, without the session id that the server adds."""
    if not isinstance(content, dict):
        raise AnswerError(f"no state in the answer: {_excerpt(content)}")
    return read_model(ServeState, {name: content[name] for name in ServeState.model_fields if name in content})


def session_of(content: Any) -> str:
    """Return the session id in an answer."""
    found = content.get("session_id") if isinstance(content, dict) else None
    if not isinstance(found, str) or not found:
        raise AnswerError(f"no session_id in the answer: {_excerpt(content)}")
    return found


def read_log(answer: HttpResponse) -> EpisodeLog:
    """Return the log in the response to `GET /log`."""
    return read_model(EpisodeLog, read_http(answer))


def read_model(model: type[_Model], content: Any) -> _Model:
    """Return `content` as a model; raises `AnswerError` naming the first field that is wrong."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or model.__name__
        raise AnswerError(f"{model.__name__}.{where}: {first['msg']}: is the server of another version?") from None


def read_grade(answer: HttpResponse) -> GradeReport:
    """Return the report in the response to `POST /grader`."""
    return read_model(GradeReport, read_http(answer))


def _json(text: str | bytes | bytearray) -> Any:
    try:
        return from_json(text)
    except ValueError:
        raise AnswerError(f"no JSON in the answer: {_excerpt(text)}") from None


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type] # a header's text, a JSON number, or None
    except (TypeError, ValueError):
        return None


def _excerpt(value: object) -> str:
    text = value[: 4 * _SHOWN].decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
