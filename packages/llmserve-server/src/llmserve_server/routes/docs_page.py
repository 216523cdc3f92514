"""``GET /openapi.json``, and ``GET /docs``: Swagger UI on it, with script and style from this machine, not from a CDN."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from importlib.util import find_spec
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

__all__ = ["add_docs"]

_PACKAGE: Final = "fastapi_offline"
_ASSETS: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
"""Files of that package, and their types."""


def add_docs(app: FastAPI) -> None:
    """Add the document to `app`; and the page and its two files, if the package that has them is installed."""
    document: list[bytes] = []

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        """Return the document, with a proxy's prefix if there is one. It is encoded once, which takes as long as ten steps."""
        if not document:
            document.append(json.dumps(app.openapi()).encode())
        content, prefix = document[0], request.scope.get("root_path", "")
        if prefix:
            content = b'{"servers":' + json.dumps([{"url": prefix}]).encode() + b"," + content[1:]
        return Response(content, media_type="application/json")

    if find_spec(_PACKAGE) is None:
        return
    folder = files(_PACKAGE) / "static"

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        """Return the page; its addresses are below a proxy's prefix if there is one."""
        root = request.scope.get("root_path", "")
        script, style = _ASSETS
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            swagger_js_url=f"{root}/docs/{script}",
            swagger_css_url=f"{root}/docs/{style}",
            swagger_favicon_url=f"{root}/favicon.ico",
        )

    def asset(name: str, media_type: str) -> None:
        @app.get(f"/docs/{name}", include_in_schema=False)
        def read() -> Response:
            with as_file(folder / name) as path:
                content = path.read_bytes()
            return Response(content, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"})

    for name, media_type in _ASSETS.items():
        asset(name, media_type)
