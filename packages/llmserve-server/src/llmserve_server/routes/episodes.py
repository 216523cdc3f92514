"""Our HTTP routes. They keep a session between requests and are registered before OpenEnv's, which they replace.

Each route parses its body itself (with exact types, so that an error names the field), calls the registry and sends the
reply. Errors become responses in `exception_handlers.py`. What a route can answer is declared beside it, for OpenAPI.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from fastapi import FastAPI, Request, Response

from llmserve_server.baseline import BaselineRunner
from llmserve_server.callers.access import Access
from llmserve_server.dispatch import Dispatcher
from llmserve_server.errors import EpisodeState, TooLarge, UnknownSession
from llmserve_server.openapi import body, errors, keys
from llmserve_server.openenv.environment import reset_arguments
from llmserve_server.openenv.tasks import tasks_reply
from llmserve_server.routes.baseline import add_baseline_routes
from llmserve_server.routes.bodies import checked as _checked
from llmserve_server.routes.bodies import content_of as _content
from llmserve_server.routes.bodies import few_fields
from llmserve_server.sessions.registry import Reply, SessionRegistry
from llmserve_server.wire import (
    EmptyState,
    ForkRequest,
    GradeRequest,
    ResetRequest,
    SessionReply,
    StepRequest,
    TasksReply,
    WireState,
    to_wire_state,
)
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import EpisodeLog, GradeReport, parse_action

__all__ = ["COOKIE", "HEADER", "register"]

COOKIE: Final = "llmserve_session"
HEADER: Final = "X-Session-Id"
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_LONG_LOG: Final = 10_000
"""Logs with more bytes are parsed in a thread, one at a time."""
_STEP_FIELDS: Final = frozenset(StepRequest.model_fields)


def register(
    app: FastAPI, registry: SessionRegistry, dispatcher: Dispatcher, baselines: BaselineRunner, access: Access
) -> None:
    """Add our routes to `app` itself: a router below it would be matched twice for each request."""

    @app.post(
        "/reset",
        summary="Start an episode",
        tags=["Environment Control"],
        responses={200: {"model": SessionReply}, **errors(404, 409, 413, 422, 429, 503)},
        openapi_extra=body(ResetRequest, required=False) | keys(query=False),
    )
    async def reset(request: Request) -> Response:
        """Start an episode in a new session or in the one named; with `resume`, return the last observation instead."""
        _no_parameters(request)
        content = _content(await request.body())
        arguments = reset_arguments(content)
        named, remembered = request.headers.get(HEADER), request.cookies.get(COOKIE)
        if arguments["session_id"] is None and named is not None:
            arguments["session_id"] = _key(named)
        if arguments["session_id"] is None and arguments["resume"] and remembered is not None:
            arguments["session_id"] = _key(remembered)
        caller = registry.callers.of(request.scope)
        fresh = partial(registry.reset, **arguments, peer=caller.peer, address=caller.address, transport="http")
        if arguments["session_id"] is None and remembered is not None and _KEY.fullmatch(remembered):
            # Whoever planted the cookie knows its session: the next episode gets a session of its own.
            reply = await dispatcher.run(_in_place_of, remembered, registry, fresh)
        else:
            reply = await dispatcher.run(fresh)
        response = _reply(reply)
        response.headers[HEADER] = reply.session_id
        response.set_cookie(COOKIE, reply.session_id, **_cookie_options(request))
        return response

    @app.post(
        "/step",
        summary="Run one window",
        tags=["Environment Control"],
        responses={200: {"model": SessionReply}, **errors(404, 409, 413, 422, 429, 503)},
        openapi_extra=body(StepRequest) | keys(query=False),
    )
    async def step(request: Request) -> Response:
        """Apply an action to the next window of the episode."""
        _no_parameters(request)
        content = _content(await request.body())
        if not content.keys() <= _STEP_FIELDS or "action" not in content:
            _checked(StepRequest, content)
        step_index = content.get("step_index")
        if step_index is not None and (type(step_index) is not int or not 0 <= step_index < 2**63):
            raise InvalidInputError("step_index", "must be an integer from 0 on", got=step_index)
        action = parse_action(content["action"])
        session_id = await session_of(request, content.get("session_id"))
        return _reply(await dispatcher.step(session_id, action, step_index))

    async def session_of(request: Request, named: object = None, *, query: bool = False) -> str:
        """Return the session of a request: named, in the header, in the cookie, or a local caller's only one."""
        key = _named(request, named, query=query)
        if key is not None:
            return key
        caller = registry.callers.of(request.scope)
        return await dispatcher.run(registry.resolve, caller.peer, is_local=caller.is_local)

    @app.get(
        "/state",
        summary="Where the episode stands",
        responses={200: {"model": WireState | EmptyState}, **errors(404, 409, 422, 429, 503)},
        openapi_extra=keys(),
        tags=["State Management"],
    )
    async def state(request: Request) -> Response:
        """Return the state of the session's current episode; `step_count` is exact. Before a reset it is empty."""
        try:
            session_id = await session_of(request, query=True)
        except EpisodeState:
            return _json(EmptyState().model_dump_json().encode())
        found = to_wire_state(await dispatcher.run(registry.state, session_id), session_id)
        return _json(found.model_dump_json().encode())

    @app.get(
        "/log",
        summary="The episode as evidence",
        tags=["Environment Control"],
        responses={200: {"model": EpisodeLog}, **errors(404, 409, 422, 429, 503)},
        openapi_extra=keys(),
    )
    async def log(request: Request) -> Response:
        """Return the log of the session's current episode, which `POST /grader` accepts on any server."""
        session_id = await session_of(request, query=True)
        return _json(await dispatcher.run(lambda: registry.log(session_id).model_dump_json().encode()))

    @app.post(
        "/fork",
        summary="Go on from here twice",
        tags=["Environment Control"],
        responses={200: {"model": SessionReply}, **errors(404, 409, 413, 422, 429, 503)},
        openapi_extra=body(ForkRequest, required=False) | keys(query=False),
    )
    async def fork(request: Request) -> Response:
        """Return a new session in the same state; the first session stays unchanged.

        On a training seed the future is the same, too; on other seeds it is a forecast, unless the operator allows more.
        """
        _no_parameters(request)
        given = _checked(ForkRequest, _content(await request.body()))
        session_id = await session_of(request, given.session_id)
        address = registry.callers.of(request.scope).address
        return _reply(await dispatcher.run(registry.fork, session_id, draw=given.draw, address=address))

    @app.delete(
        "/session",
        summary="Close the session",
        tags=["Environment Control"],
        status_code=204,
        response_class=Response,
        responses=errors(404, 409, 413, 422, 429, 503),
        openapi_extra=keys(),
    )
    async def close(request: Request) -> Response:
        """Free the session's place at once. Its episodes stay stored: its id can still be graded and resumed."""
        if await request.body():
            raise InvalidInputError("body", "must be empty: the parameter session_id or the header names the session")
        await dispatcher.run(registry.leave, await session_of(request, query=True))
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, **_cookie_options(request))
        return response

    one_log = asyncio.Lock()

    @app.post(
        "/grader",
        summary="Grade an episode",
        responses={200: {"model": GradeReport}, **errors(404, 409, 413, 422, 429, 503)},
        openapi_extra=body(GradeRequest, required=False) | keys(query=False),
        tags=["Grading"],
    )
    async def grader(request: Request) -> Response:
        """Grade the session's current episode, one named by `episode_id`, or an `episode_log`, by replaying its log."""
        _no_parameters(request)
        raw = await request.body()
        parse = partial(_grade_request, raw, most_steps=request.app.state.settings.max_log_steps)
        if len(raw) > _LONG_LOG:
            async with one_log:  # objects take many times the memory of their text
                given = await dispatcher.run(parse)
        else:
            given = parse()
        episode_id, episode_log = given.get("episode_id"), given.get("episode_log")
        session_id: str | None = None
        if episode_log is None:
            named = given.get("session_id")
            session_id = _named(request, named) if episode_id else await session_of(request, named)
        report = await dispatcher.run(registry.grade, session_id, episode_id=episode_id, log=episode_log)
        return _json(report.model_dump_json().encode())

    catalogue = tasks_reply().model_dump_json().encode()

    @app.get(
        "/tasks",
        summary="The tasks",
        responses={200: {"model": TasksReply}, **errors()},
        tags=["Environment Info"],
    )
    async def tasks() -> Response:
        """Return the catalogue of tasks with their targets and splits, and the schema of the action."""
        return _json(catalogue)

    add_baseline_routes(app, baselines, access)


def _cookie_options(request: Request) -> dict[str, Any]:
    """Return the attributes of the session's cookie; only a cookie with the same path is deleted."""
    path, is_https = request.scope.get("root_path") or "/", request.url.scheme == "https"
    return {"path": path, "httponly": True, "samesite": "lax", "secure": is_https}


def _in_place_of(session_id: str, registry: SessionRegistry, begin: Callable[[], Reply]) -> Reply:
    """Return what `begin`, a reset without a session, returns; a session leaves its place for it, if there is one."""
    registry.close(session_id)
    reply = begin()
    with suppress(UnknownSession):
        registry.leave(session_id)
    return reply


def _grade_request(raw: bytes, *, most_steps: int) -> dict[str, Any]:
    """Return the fields of a `GradeRequest`. The log is not parsed here, because the grader parses it."""
    content = _content(raw)
    log = content.pop("episode_log", None)
    given = _checked(GradeRequest, content)
    if log is not None and given.episode_id is not None:
        raise InvalidInputError("episode_log", "give it or episode_id, not both")
    if log is not None and not isinstance(log, dict):
        raise InvalidInputError("episode_log", "must be a JSON object with the fields of EpisodeLog")
    if log is not None:
        _check_size(log, most_steps)
    return {"episode_id": given.episode_id, "session_id": given.session_id, "episode_log": log}


def _check_size(log: dict[str, Any], most_steps: int) -> None:
    """Refuse a log that is too large to be validated: before each step, and each of its fields, is."""
    few_fields(episode_log=log, initial_observation=log.get("initial_observation"))
    steps = log.get("steps")
    if not isinstance(steps, list):
        return
    if len(steps) > most_steps:
        bound = f"must be at most {most_steps}"
        raise TooLarge(f"steps: {bound}, the log has {len(steps)}", field="steps", bound=bound)
    for step in steps:
        if isinstance(step, dict):
            few_fields(step=step, action=step.get("action"), observation=step.get("observation"))


def _named(request: Request, named: object, *, query: bool = False) -> str | None:
    """Return the session that a request names in its body, query, header or cookie."""
    if named is None and query:
        unknown = request.query_params.keys() - {"session_id"}
        if unknown:
            raise InvalidInputError(min(unknown), "unknown parameter; the parameter is session_id")
        named = request.query_params.get("session_id")
    if named is None:
        named = request.headers.get(HEADER)
    if named is None:
        named = request.cookies.get(COOKIE)
    return None if named is None else _key(named)


def _no_parameters(request: Request) -> None:
    """Refuse parameters in the address of a call with a body: a session that they name would be overlooked."""
    if request.scope["query_string"]:
        name = min(request.query_params.keys(), default="query")
        raise InvalidInputError(name, "unknown parameter; session_id is a field of the body")


def _key(named: object) -> str:
    if not isinstance(named, str):
        raise InvalidInputError("session_id", "must be a text", got=named)
    if not _KEY.fullmatch(named):
        raise UnknownSession("there is no such session: reset first", field="session_id")
    return named


def _reply(reply: Reply) -> Response:
    content = SessionReply.of(reply.session_id, reply.observation)
    return _json(content.__pydantic_serializer__.to_json(content))


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
