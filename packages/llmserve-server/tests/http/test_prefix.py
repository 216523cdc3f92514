"""Below a proxy's path prefix everything works: redirects, the page, the documentation, cookies and sockets stay there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from llmserve_server.app import create_app
from llmserve_server.middleware.prefix import behind_proxies
from llmserve_server.settings import Settings, SettingsError

Ask = Callable[..., TestClient]
PROXY, STRANGER = ("127.0.0.1", 5000), ("203.0.113.9", 5000)
PREFIX = "/envs/llm"
TOKEN = "open-sesame"  # noqa: S105 - a test's own


@pytest.fixture(scope="module")
def page() -> Iterator[FastAPI]:
    """A server with its page."""
    app = create_app(Settings(store_url="sqlite://", engine="python", allowed_hosts=("space.example",)))
    with TestClient(app):
        yield app


@pytest.fixture(scope="module")
def below(page: FastAPI) -> Ask:
    """A caller whose requests come from an address, with a prefix in the header if there is one."""

    def caller(prefix: str | None = PREFIX, peer: tuple[str, int] = PROXY, **headers: str) -> TestClient:
        given = headers if prefix is None else headers | {"X-Forwarded-Prefix": prefix}
        return TestClient(page, client=peer, headers=given, raise_server_exceptions=False)

    return caller


@pytest.mark.parametrize("kept", ["", PREFIX], ids=["the proxy removes it", "the proxy leaves it"])
@pytest.mark.parametrize("path", ["/", "/web", "/demo"])
def test_redirects_stay_below_the_prefix(below: Ask, kept: str, path: str) -> None:
    reply = below().get(kept + path, follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (307, f"{PREFIX}/web/")


@pytest.mark.parametrize("kept", ["", PREFIX])
def test_the_socket_at_mcp_speaks_json_rpc_below_a_prefix_too(below: Ask, kept: str) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"session_id": [1]}}
    with below(host="space.example").websocket_connect(f"{kept}/mcp") as socket:
        socket.send_json(call)
        assert socket.receive_json()["error"]["data"]["field"] == "params.session_id"


@pytest.mark.parametrize("path", ["/ws", "/mcp", "/grader", "/reset", "/web/"])
def test_a_path_with_a_line_end_is_no_route(below: Ask, path: str) -> None:
    """Starlette's patterns match it, and the layers before them would not know it."""
    client = below(None)
    assert client.post(f"{path}%0A").status_code == 404
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"{path}%0A"):
        raise AssertionError


def test_the_prefix_without_a_slash_leads_to_the_page_too(below: Ask) -> None:
    assert below().get(PREFIX, follow_redirects=False).headers["location"] == f"{PREFIX}/web/"


@pytest.mark.parametrize("kept", ["", PREFIX])
def test_page_documentation_cookie_and_socket_are_below_the_prefix(below: Ask, kept: str) -> None:
    client = below(host="space.example")
    assert client.get(f"{kept}/web/config").json()["root"] == f"http://space.example{PREFIX}/web"
    assert client.get(f"{kept}/web/").status_code == 200
    assert f"{PREFIX}/openapi.json" in client.get(f"{kept}/docs").text
    assert client.get(f"{kept}/openapi.json").json()["servers"] == [{"url": PREFIX}]
    reply = client.post(f"{kept}/reset", json={"seed": 7})
    assert f"path={PREFIX};" in reply.headers["set-cookie"].lower() + ";"
    assert client.get(f"{kept}/state", headers={"X-Session-Id": reply.json()["session_id"]}).status_code == 200
    assert client.get(f"{kept}/llmserve_env/splits").status_code == 200
    assert client.get(f"{kept}/metadata").json()["documentation_url"] == f"{PREFIX}/docs"
    with client.websocket_connect(f"{kept}/ws") as socket:
        socket.send_json({"type": "reset", "data": {"seed": 7}})
        assert socket.receive_json()["type"] == "observation"
    assert 'route="/reset"' in client.get(f"{kept}/metrics").text


@pytest.mark.parametrize("prefix", ["/web", "/step", "/w", "/reset/x"])
def test_a_prefix_may_look_like_a_route(below: Ask, prefix: str) -> None:
    client = below(prefix)
    for kept in ("", prefix):
        assert client.post(f"{kept}/reset", json={"seed": 7}).status_code == 200
        assert client.get(f"{kept}/health").status_code == 200


def test_a_stranger_sets_no_prefix(below: Ask) -> None:
    client = below(peer=STRANGER)
    assert client.get("/", follow_redirects=False).headers["location"] == "/web/"
    assert client.get(f"{PREFIX}/health").status_code == 404
    assert "path=/;" in client.post("/reset", json={}).headers["set-cookie"].lower() + ";"


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/a//b", "evil", "/a b", "/..%2f", "/a?b", "/" + "a" * 300, "/a\\b"]
)
def test_what_is_no_path_is_no_prefix(below: Ask, prefix: str) -> None:
    assert below(prefix).get("/", follow_redirects=False).headers["location"] == "/web/"


def test_prefixes_of_several_proxies_are_joined(below: Ask) -> None:
    assert below("/a/, /b").get("/", follow_redirects=False).headers["location"] == "/a/b/web/"


def test_without_a_proxy_nothing_changes(below: Ask) -> None:
    client = below(None)
    assert client.get("/", follow_redirects=False).headers["location"] == "/web/"
    assert "servers" not in client.get("/openapi.json").json()


def test_the_setting_is_the_prefix_where_the_proxy_names_none() -> None:
    app = create_app(Settings(store_url="sqlite://", engine="python", root_path=PREFIX, api_token=TOKEN))
    for client in (TestClient(app, client=STRANGER), TestClient(app, root_path=PREFIX)):
        for kept in ("", PREFIX):
            assert client.get(f"{kept}/", follow_redirects=False).headers["location"] == f"{PREFIX}/web/"
            assert client.get(f"{kept}/tasks").status_code == 401
    named = TestClient(app, client=PROXY, headers={"X-Forwarded-Prefix": "/other"})
    assert named.get("/", follow_redirects=False).headers["location"] == "/other/web/"


def test_the_setting_says_which_proxies_name_a_prefix() -> None:
    app = create_app(Settings(store_url="sqlite://", engine="python", forwarded_allow_ips="203.0.113.0/24"))
    for peer, where in ((STRANGER, f"{PREFIX}/web/"), (PROXY, "/web/")):
        client = TestClient(app, client=peer, headers={"X-Forwarded-Prefix": PREFIX})
        assert client.get("/", follow_redirects=False).headers["location"] == where


@pytest.mark.parametrize("path", ["envs", "/envs/", "//envs", "/a b", "/", "http://x"])
def test_a_setting_that_is_no_prefix_is_refused_by_name(path: str) -> None:
    with pytest.raises(SettingsError, match="LLMSERVE_ROOT_PATH"):
        Settings(root_path=path)


@pytest.mark.anyio
@pytest.mark.parametrize(("allowed", "trusted"), [("127.0.0.1", True), ("10.0.0.0/8", False), ("*", True), ("", False)])
async def test_the_peer_is_judged_before_its_address_is_replaced(
    monkeypatch: pytest.MonkeyPatch, allowed: str, trusted: bool
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", allowed)
    seen: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope)

    async def never(*_: Any) -> Any:
        raise AssertionError

    headers = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-prefix", b"/envs")]
    await behind_proxies(app)({"type": "http", "client": PROXY, "headers": headers}, never, never)
    assert seen[0]["llmserve.trusted_peer"] is trusted
    assert (seen[0]["client"][0] == "203.0.113.9") is trusted


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio."""
    return "asyncio"
