"""`add_exception_handlers`: turn exceptions into HTTP responses. Every error status of a route comes from here.

A 422 has one of two causes: the server or the simulator raised an error for a wrong field (`errors.InvalidField`, or
`InvalidInputError`, which `errors.to_service_error` converts), or FastAPI refused a parameter (`invalid` below). The
status and the code of an error are attributes of its class in `errors.py`.

What is refused before any route runs comes from elsewhere: 401 and 403 of `middleware/auth.py` and
`middleware/origin.py`, the 408, 413 and 429 of a body of `middleware/limits.py`, the 408 and 431 of headers of
`llmserve_server.protocol`.
"""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llmserve_server.errors import InvalidField, ServiceError, to_service_error
from llmserve_sim.errors import LLMServeError

__all__ = ["add_exception_handlers"]

_log = structlog.get_logger(__name__)


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every error with the same body. The trace of an unexpected error goes to the log, not to the caller."""

    def answer(error: ServiceError) -> Response:
        headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return JSONResponse(error.body(), status_code=error.status, headers=headers)

    async def refused(_: Request, error: Exception) -> Response:
        """Answer an error of the server or the simulator with the status of its class."""
        return answer(to_service_error(error))

    async def invalid(_: Request, error: Exception) -> Response:
        """Answer 422 for a body or parameter that FastAPI itself refused (mostly on OpenEnv's routes)."""
        assert isinstance(error, RequestValidationError)
        problem = error.errors()[0]
        where = [str(part) for part in problem["loc"][1:]] or [str(problem["loc"][0])]
        field, bound = ".".join(where), str(problem["msg"])
        return answer(InvalidField(f"{field}: {bound}", field=field, bound=bound))

    async def plain(_: Request, error: Exception) -> Response:
        """Answer an unknown route or method, or an HTTP error that OpenEnv raises."""
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        body = ServiceError(str(error.detail), code=code).body()
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    async def gone(_: Request, __: Exception) -> Response:
        """Answer nobody: the caller has left in the middle of its body."""
        return Response(status_code=400)

    async def defect(_: Request, error: Exception) -> Response:
        """Answer 500 for an unexpected error, and log it; a client that has gone is none."""
        if isinstance(error, ClientDisconnect):
            return Response(status_code=499)
        _log.error("request_failed", exc_info=error)
        return answer(ServiceError("the server failed on this call; its log says why", code="internal_error"))

    app.exception_handlers |= {
        ServiceError: refused,
        LLMServeError: refused,
        RequestValidationError: invalid,
        HTTPException: plain,
        ClientDisconnect: gone,
        Exception: defect,
    }
