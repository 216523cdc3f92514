"""`add_exception_handlers`: from an exception to a response. Every error status (404, 409, 422, ...) of a route is sent from here.

The status and code of a refusal are those of its class in `errors.py`.
"""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llmserve_server.errors import InvalidField, ServiceError, to_service_error
from llmserve_sim.errors import LLMServeError

__all__ = ["add_exception_handlers"]

_log = structlog.get_logger(__name__)


def add_exception_handlers(app: FastAPI) -> None:
    """Give every error the same body; a defect is logged with its trace and told without."""

    def answer(error: ServiceError) -> Response:
        headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return JSONResponse(error.body(), status_code=error.status, headers=headers)

    async def refused(_: Request, error: Exception) -> Response:
        """A refusal, ours or the simulator's."""
        return answer(to_service_error(error))

    async def invalid(_: Request, error: Exception) -> Response:
        """A body or parameter that FastAPI itself refused (OpenEnv's routes)."""
        assert isinstance(error, RequestValidationError)
        problem = error.errors()[0]
        where = [str(part) for part in problem["loc"][1:]] or [str(problem["loc"][0])]
        field, bound = ".".join(where), str(problem["msg"])
        return answer(InvalidField(f"{field}: {bound}", field=field, bound=bound))

    async def plain(_: Request, error: Exception) -> Response:
        """No such route, no such method, or one of OpenEnv's own."""
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        body = ServiceError(str(error.detail), code=code).body()
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    async def defect(_: Request, error: Exception) -> Response:
        """Something that must not happen."""
        _log.error("request_failed", exc_info=error)
        return answer(ServiceError("the server failed on this call; its log says why", code="internal_error"))

    app.exception_handlers |= {
        ServiceError: refused,
        LLMServeError: refused,
        RequestValidationError: invalid,
        HTTPException: plain,
        Exception: defect,
    }
