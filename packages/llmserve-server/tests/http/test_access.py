"""The token guards everything but the health check and the form; the form gives a browser a cookie."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from llmserve_server.app import create_app
from llmserve_server.callers import access
from llmserve_server.callers.access import COOKIE, Access
from llmserve_server.settings import Settings

TOKEN = "correct-horse"  # noqa: S105 - of a server that lives as long as its tests
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OPEN = {"/", "/web", "/demo", "/health", "/favicon.ico", "/web/login"}


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestClient]:
    """A server with a token and the page: Gradio takes seconds to build it."""
    settings = Settings(store_url="sqlite://", engine="python", api_token=TOKEN)  # type: ignore[arg-type]
    with TestClient(create_app(settings), follow_redirects=False) as client:
        yield client


@pytest.fixture
def visitor(guarded: TestClient) -> TestClient:
    """A browser without cookies."""
    guarded.cookies.clear()
    return guarded


PAGE = [
    ("post", "/web/gradio_api/queue/join"),
    ("post", "/web/gradio_api/run/predict"),
    ("post", "/web/gradio_api/upload"),
    ("post", "/web/gradio_api/cancel"),
    ("get", "/web/gradio_api/queue/data?session_hash=x"),
    ("get", "/web/gradio_api/heartbeat/x"),
    ("get", "/web/gradio_api/info"),
    ("get", "/web/config"),
    ("get", "/web/assets/x.js"),
    ("get", "/web/theme.css"),
    ("post", "/web/"),
    ("get", "/web/nowhere"),
    ("get", "/webhook"),
    ("get", "/web/login/x"),
    ("post", "/baseline"),
    ("get", "/docs"),
    ("get", "/openapi.json"),
]


@pytest.mark.parametrize(("method", "path"), PAGE)
def test_the_page_and_what_is_below_it_need_the_token(visitor: TestClient, method: str, path: str) -> None:
    response = visitor.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")


def test_every_documented_route_and_socket_needs_the_token(visitor: TestClient) -> None:
    document = visitor.get("/openapi.json", headers=BEARER).json()
    for path, operations in document["paths"].items():
        for method in operations:
            expected = 200 if path == "/health" else 401
            assert visitor.request(method, path).status_code == expected, (method, path)
    for path in ("/ws", "/mcp"):
        with pytest.raises(WebSocketDenialResponse) as refused, visitor.websocket_connect(path):
            pass
        assert refused.value.status_code == 401


def test_a_visitor_is_led_to_the_form_which_holds_no_part_of_the_page(visitor: TestClient) -> None:
    response = visitor.get("/web/")
    assert (response.status_code, response.headers["location"]) == (303, "/web/login")
    form = visitor.get("/web/login")
    assert form.status_code == 200
    assert 'type="password"' in form.text
    assert "gradio" not in form.text
    assert "src=" not in form.text
    assert form.headers["cache-control"] == "no-store"


def test_the_token_opens_the_page_once_and_for_all_of_its_events(visitor: TestClient) -> None:
    entered = visitor.post("/web/login", data={"token": TOKEN})
    assert (entered.status_code, entered.headers["location"]) == (303, "/web/")
    cookie = entered.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert cookie.endswith("SameSite=Strict")
    assert "LLMServeEnv" in visitor.get("/web/").text
    assert visitor.get("/web/config").status_code == 200
    assert visitor.post("/web/gradio_api/queue/join", json={}).status_code == 422
    assert visitor.post("/reset").status_code == 200
    assert visitor.get("/web/login").headers["location"] == "/web/"
    with visitor.websocket_connect("/ws") as socket:
        socket.send_json({"type": "reset", "data": {}})
        assert socket.receive_json()["type"] == "observation"


def test_a_wrong_token_is_answered_by_the_form_and_sets_nothing(visitor: TestClient) -> None:
    for data in ({"token": "wrong-horse"}, {"token": ""}, {}):
        response = visitor.post("/web/login", data=data)
        assert response.status_code == 401
        assert "That is not the token." in response.text
        assert "set-cookie" not in response.headers


@pytest.mark.parametrize("body", [b'{"us\xff": 0}', b"token=\xff", b"a=1&" * 20, b"%", b"\x00"])
def test_a_body_that_no_form_sends_is_a_wrong_token_too(visitor: TestClient, body: bytes) -> None:
    response = visitor.post("/web/login", content=body, headers={"content-type": "text/plain"})
    assert response.status_code == 401
    assert "set-cookie" not in response.headers


def test_in_a_frame_of_another_site_over_https_the_cookie_is_one_that_browsers_send(visitor: TestClient) -> None:
    """And only there: it is partitioned."""
    frame = {"X-Forwarded-Proto": "https", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "same-origin"}
    cookie = visitor.post("/web/login", data={"token": TOKEN}, headers=frame).headers["set-cookie"]
    assert cookie.endswith("SameSite=None; Secure; Partitioned")
    alone = visitor.post("/web/login", data={"token": TOKEN}, headers={"X-Forwarded-Proto": "https"})
    assert alone.headers["set-cookie"].endswith("SameSite=Strict; Secure")


def test_a_page_of_another_site_cannot_fill_in_the_form(visitor: TestClient) -> None:
    response = visitor.post("/web/login", data={"token": TOKEN}, headers={"Origin": "https://evil.example"})
    assert response.status_code == 403


def test_after_a_link_from_elsewhere_the_form_asks_for_the_strict_cookie_once(visitor: TestClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert 'content="0; url=/web/login?again"' in visitor.get("/web/login", headers=link).text
    assert "refresh" not in visitor.get("/web/login?again", headers=link).text


def test_below_a_proxys_prefix_form_and_cookie_stay_below_it() -> None:
    settings = Settings(store_url="sqlite://", engine="python", api_token=TOKEN)  # type: ignore[arg-type]
    client = TestClient(create_app(settings), root_path="/envs/llm", follow_redirects=False)
    assert client.get("/envs/llm/health").status_code == 200
    assert client.get("/envs/llm/web/").headers["location"] == "/envs/llm/web/login"
    assert 'action="/envs/llm/web/login"' in client.get("/envs/llm/web/login").text
    entered = client.post("/envs/llm/web/login", data={"token": TOKEN})
    assert entered.headers["location"] == "/envs/llm/web/"
    assert "Path=/envs/llm;" in entered.headers["set-cookie"]


def cookies_of(value: str) -> list[tuple[bytes, bytes]]:
    """The header of a browser with that cookie."""
    return [(b"cookie", f"a=b; {COOKIE}={value}; c=d".encode())]


def test_a_cookie_is_good_for_its_time_and_its_token_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Access(Settings(api_token=TOKEN))  # type: ignore[arg-type]
    cookie = ours.cookie()
    assert ours.admits(cookies_of(cookie))
    assert not Access(Settings(api_token="another-token")).admits(cookies_of(cookie))  # type: ignore[arg-type] # noqa: S106
    until, signature = cookie.split(".")
    for forged in (
        f"{int(until) + 1}.{signature}",
        f"{until}.{signature[:-1]}",
        signature,
        ".",
        "",
        "é",
        f"-1.{signature}",
    ):
        assert not ours.admits(cookies_of(forged))
    later = time.time() + access.COOKIE_S + 1
    monkeypatch.setattr(access.time, "time", lambda: later)
    assert not ours.admits(cookies_of(cookie))


def test_without_a_token_there_is_no_form_and_everybody_is_admitted() -> None:
    client = TestClient(create_app(Settings(store_url="sqlite://", engine="python")), follow_redirects=False)
    assert client.get("/web/").status_code == 200
    assert client.get("/web/login").status_code == 404
    assert Access(Settings()).admits([])


REAL = {"mode": "real", "openai_api_key": "sk-1", "openai_base_url": "http://127.0.0.1:9/v1", "store_url": "sqlite://"}


def test_real_mode_without_a_token_serves_its_own_machine_only() -> None:
    """Each step, over any transport, spends the owner's key; reading what is public spends nothing."""
    app = create_app(Settings(**REAL, web=False))
    stranger = TestClient(app, client=("203.0.113.9", 50_000))
    for method, path in (("post", "/reset"), ("post", "/step"), ("post", "/mcp"), ("get", "/web/")):
        response = stranger.request(method, path)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "token_required")
    assert stranger.get("/tasks").status_code == 200
    with pytest.raises(WebSocketDenialResponse) as refused, stranger.websocket_connect("/ws"):
        pass
    assert refused.value.status_code == 403
    assert TestClient(app, client=("127.0.0.1", 50_000)).get("/state").status_code != 403


def test_real_mode_with_a_token_serves_those_who_know_it() -> None:
    app = create_app(Settings(**REAL, web=False, api_token=TOKEN))  # type: ignore[arg-type]
    stranger = TestClient(app, client=("203.0.113.9", 50_000))
    assert stranger.post("/step").status_code == 401
    assert stranger.post("/mcp", headers=BEARER, json={}).status_code == 200
