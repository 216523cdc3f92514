"""``GET`` and ``POST /baseline``: what the reference agents score, and what a language model does.

The openai suite spends the owner's key. So it needs the server's token, or a caller on the server's own machine; and no
page of another site may ask for it, not by a link or a picture either, which are GET requests.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request, Response

from llmserve_agents.evaluation.baseline_report import BaselineReport
from llmserve_server.baseline import BaselineRunner
from llmserve_server.callers.access import Access
from llmserve_server.errors import ForeignOrigin, TokenRequired
from llmserve_server.openapi import body, errors
from llmserve_server.routes.bodies import checked, content_of
from llmserve_server.wire import BaselineRequest
from llmserve_sim.errors import InvalidInputError

__all__ = ["add_baseline_routes"]

_FIELDS: Final = frozenset(BaselineRequest.model_fields)
_OWN: Final = frozenset({"same-origin", "none"})


def add_baseline_routes(app: FastAPI, baselines: BaselineRunner, access: Access) -> None:
    """Add the two routes to `app`."""

    async def report(asked: BaselineRequest, request: Request) -> Response:
        if asked.use_openai:
            baselines.check_key()
            _check_caller(request, access)
        made = await baselines.run(
            use_openai=asked.use_openai, task_id=asked.task_id, seed=asked.seed, model=asked.model
        )
        return Response(made.model_dump_json(), media_type="application/json")

    @app.get(
        "/baseline",
        summary="What the reference agents score",
        responses={200: {"model": BaselineReport}, **errors(400, 403, 404, 422, 429, 502)},
        tags=["Grading"],
    )
    async def baseline(
        request: Request,
        *,
        use_openai: Annotated[bool, Query(description="Ask a language model; it spends the server's key.")] = False,
        task_id: Annotated[
            str | None, Query(max_length=200, description="One task; else the validators' three.")
        ] = None,
        seed: Annotated[int | None, Query(ge=0, lt=2**63, description="One seed; else the first test seeds.")] = None,
        model: Annotated[str | None, Query(max_length=200, description="The language model that is asked.")] = None,
    ) -> Response:
        """Run a baseline suite in this process and return its report."""
        unknown = request.query_params.keys() - _FIELDS
        if unknown:
            raise InvalidInputError(min(unknown), "unknown parameter; the parameters are " + ", ".join(sorted(_FIELDS)))
        if use_openai:
            _check_link(request)
        return await report(BaselineRequest(use_openai=use_openai, task_id=task_id, seed=seed, model=model), request)

    @app.post(
        "/baseline",
        summary="What the reference agents score, asked for with a body",
        responses={200: {"model": BaselineReport}, **errors(400, 403, 404, 413, 422, 429, 502)},
        openapi_extra=body(BaselineRequest, required=False),
        tags=["Grading"],
    )
    async def post_baseline(request: Request) -> Response:
        """Run a baseline suite in this process and return its report; the way to spend the server's key."""
        return await report(checked(BaselineRequest, content_of(await request.body())), request)


def _check_caller(request: Request, access: Access) -> None:
    """Refuse to spend the key for a caller who neither shows a token nor is on this machine."""
    if not access.may_spend(request.scope):
        raise TokenRequired(
            "the OpenAI baseline spends its owner's key, so without a token only the server's own machine may ask for "
            "it: set LLMSERVE_API_TOKEN where the server runs, and send it"
        )


def _check_link(request: Request) -> None:
    """Refuse a GET that a page of another site caused, or a browser that does not say which page did."""
    headers = request.headers
    site, referer = headers.get("sec-fetch-site"), headers.get("referer")
    is_foreign = site not in _OWN if site is not None else headers.get("user-agent", "").startswith("Mozilla/")
    if is_foreign or (referer is not None and urlsplit(referer).netloc != headers.get("host")):
        raise ForeignOrigin(
            "another page led here, and this spends the server's key: use POST /baseline from a program"
        )
