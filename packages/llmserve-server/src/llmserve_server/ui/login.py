"""The form at ``/web/login``: it asks a visitor for the server's token once, and gives the browser a cookie.

The cookie is HttpOnly and derived from the token (see `callers/access.py`); the token is never in an address. It is
``SameSite=Strict``, except in a frame of another site over https, where a browser would not send it: a Space is shown
in such a frame. There it is ``SameSite=None; Secure; Partitioned``, so that it is good below that site only, and the
check of origins refuses what other pages send with it.
"""

from __future__ import annotations

from html import escape
from typing import Final
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from llmserve_server.callers.access import COOKIE, COOKIE_S, Access
from llmserve_server.middleware.auth import LOGIN

__all__ = ["add_login"]

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<title>LLMServeEnv</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ display: grid; place-items: center; min-height: 90vh; margin: 0; }}
form {{ display: grid; gap: .75rem; width: min(22rem, 90vw); }}
h1 {{ font-size: 1.25rem; margin: 0; }}
p {{ margin: 0; }}
input, button {{ font: inherit; padding: .5rem .75rem; }}
[role=alert] {{ color: light-dark(#b00020, #ff8a80); }}
</style>
</head>
<body>
<form method="post" action="{action}">
<h1>LLMServeEnv</h1>
<p>This server asks for its token.</p>
{notice}<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button type="submit">Open the page</button>
</form>
</body>
</html>
"""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}


def add_login(app: FastAPI, access: Access) -> None:
    """Add the form to `app`, before Gradio's own form of that name."""

    @app.get(LOGIN, include_in_schema=False)
    async def form(request: Request) -> Response:
        """Return the form, or lead a visitor who is known to the page."""
        if access.admits(request.scope["headers"]):
            return _to_page(request)
        # After a link from another site the browser holds a Strict cookie back. It sends it when the form itself
        # asks again.
        is_link = request.headers.get("sec-fetch-site") == "cross-site" and "again" not in request.query_params
        return _form(request, refresh=is_link)

    @app.post(LOGIN, include_in_schema=False)
    async def enter(request: Request) -> Response:
        """Compare the token, and set the cookie."""
        if not access.is_token(_token(await request.body())):
            return _form(request, notice="That is not the token.", status=401)
        response = _to_page(request)
        response.headers.append("set-cookie", _cookie(request, access))
        return response


def _token(body: bytes) -> bytes:
    """Return the token in a form's body; empty if there is none, or if no browser's form looks like that."""
    try:
        fields = parse_qs(body, max_num_fields=8)
    except ValueError:  # more fields, or bytes beyond ASCII, which a form sends as %XX
        return b""
    return (fields.get(b"token") or [b""])[0].strip()


def _cookie(request: Request, access: Access) -> str:
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    is_secure = "https" in {request.url.scheme, forwarded}
    is_framed = is_secure and request.headers.get("sec-fetch-dest") == "iframe"
    rules = "SameSite=None; Secure; Partitioned" if is_framed else "SameSite=Strict" + "; Secure" * is_secure
    path = request.scope.get("root_path") or "/"
    return f"{COOKIE}={access.cookie()}; HttpOnly; Max-Age={COOKIE_S}; Path={path}; {rules}"


def _to_page(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/web/", status_code=303)


def _form(request: Request, *, notice: str = "", refresh: bool = False, status: int = 200) -> Response:
    action = escape(f"{request.scope.get('root_path', '')}{LOGIN}", quote=True)
    page = _PAGE.format(
        action=action,
        notice=f'<p role="alert">{escape(notice)}</p>\n' if notice else "",
        refresh=f'<meta http-equiv="refresh" content="0; url={action}?again">\n' if refresh else "",
    )
    return HTMLResponse(page, status_code=status, headers=_HEADERS)
