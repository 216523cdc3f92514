"""What other people's pages send is refused on every route and socket, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from llmserve_server.callers.hosts import Hosts

FOREIGN_PAGES = [
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver:9999"},
    {"Origin": "http://testserver.evil.example"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "embed"},
]
OWN_PAGES = [
    {},
    {"Origin": "http://testserver"},
    {"Origin": "https://testserver"},
    {"Origin": "https://llm.example.org", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://llm.example.org", "X-Forwarded-Host": "llm.example.org"},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
]


def every_route(client: TestClient) -> list[tuple[str, str]]:
    """The routes of OpenAPI, the documents, the page and a path that there is not."""
    found = [
        (method, path.replace("{env_name}", "llmserve_env"))
        for path, operations in client.get("/openapi.json").json()["paths"].items()
        for method in operations
    ]
    beside = ("/", "/docs", "/web/", "/web/config", "/web/gradio_api/queue/data", "/nowhere")
    return [*found, *(("get", path) for path in beside), ("post", "/web/gradio_api/queue/join"), ("options", "/step")]


def refused(client: TestClient, method: str, path: str, headers: dict[str, str]) -> str | None:
    """Return the code of a 403, else None."""
    response = client.request(method, path, headers=headers)
    return str(response.json()["error"]["code"]) if response.status_code == 403 else None


@pytest.mark.parametrize("headers", FOREIGN_PAGES, ids=repr)
def test_no_route_answers_a_foreign_page(client: TestClient, headers: dict[str, str]) -> None:
    for method, path in every_route(client):
        assert refused(client, method, path, headers) == "foreign_origin", (method, path)


@pytest.mark.parametrize("headers", OWN_PAGES, ids=repr)
def test_the_own_page_and_programs_are_answered(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/reset", headers=headers).status_code == 200
    assert client.get("/tasks", headers=headers).status_code == 200


def test_a_simple_request_of_a_foreign_page_does_not_step_the_visitors_session(client: TestClient) -> None:
    """`text/plain` needs no preflight, and the browser sends the visitor's cookie."""
    client.post("/reset")
    page = {"Content-Type": "text/plain", "Origin": "https://evil.example"}
    assert client.post("/step", content='{"action":{}}', headers=page).status_code == 403
    assert client.get("/state").json()["step_count"] == 0


def test_a_link_or_a_frame_elsewhere_shows_the_page_and_changes_nothing(client: TestClient) -> None:
    """A Space is shown in a frame of another site."""
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    assert client.get("/tasks", headers=visit).status_code == 200
    assert client.post("/reset", headers=visit | {"Origin": "https://huggingface.co"}).status_code == 403


@pytest.mark.parametrize("path", ["/ws", "/mcp"])
@pytest.mark.parametrize("headers", FOREIGN_PAGES, ids=repr)
def test_a_foreign_page_opens_no_socket(client: TestClient, path: str, headers: dict[str, str]) -> None:
    with pytest.raises(WebSocketDenialResponse) as answer, client.websocket_connect(path, headers=headers):
        pass
    assert answer.value.status_code == 403
    assert answer.value.json()["error"]["code"] == "foreign_origin"


@pytest.mark.parametrize("headers", OWN_PAGES, ids=repr)
def test_the_own_page_and_programs_open_sockets(client: TestClient, headers: dict[str, str]) -> None:
    with client.websocket_connect("/ws", headers=headers) as socket:
        socket.send_json({"type": "reset", "data": {}})
        assert socket.receive_json()["type"] == "observation"


def test_no_route_and_no_socket_answers_under_a_foreign_name(client: TestClient) -> None:
    """That is DNS rebinding: the page and the server seem to have one origin."""
    headers = {"Host": "evil.example:7860", "Origin": "http://evil.example:7860"}
    for method, path in every_route(client):
        assert refused(client, method, path, {"Host": "evil.example"}) == "foreign_host", (method, path)
        assert refused(client, method, path, headers) == "foreign_host", (method, path)
    with pytest.raises(WebSocketDenialResponse) as answer, client.websocket_connect("/ws", headers=headers):
        pass
    assert answer.value.json()["error"]["code"] == "foreign_host"


def test_named_hosts_are_answered_and_their_pages_may_call(serve: Callable[..., TestClient]) -> None:
    client = serve(allowed_hosts="llm.example.org, *.lab.example.org")
    for name in ("llm.example.org", "LLM.example.org:8443", "a.lab.example.org"):
        assert client.get("/tasks", headers={"Host": name}).status_code == 200
        page = {"Origin": f"https://{name}", "Sec-Fetch-Site": "cross-site"}
        assert client.post("/reset", headers=page).status_code == 200
    for name in ("example.org", "lab.example.org.evil.example", "evil-llm.example.org"):
        assert client.get("/tasks", headers={"Host": name}).status_code == 403


def test_with_a_token_any_name_will_do(serve: Callable[..., TestClient]) -> None:
    """A page under another name has neither the token nor the cookie."""
    client = serve(api_token="correct-horse")  # noqa: S106 - the test's own
    headers = {"Host": "llm.example.org"}
    assert client.get("/tasks", headers=headers).status_code == 401
    assert client.get("/tasks", headers=headers | {"Authorization": "Bearer correct-horse"}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost:7860",
        "127.0.0.1:7860",
        "192.168.1.20:7860",
        "[::1]:7860",
        "[fe80::1]",
        "::1",
        "mybox",
        "llmserve:7860",
        "mybox.local",
        "host.docker.internal:7860",
        "llmserve.default.svc.cluster.local",
        "me-llmserve.hf.space",
        "LOCALHOST.",
        "",
    ],
)
def test_names_that_no_attacker_can_own_need_no_setting(host: str) -> None:
    assert Hosts(space_host="").goes_by(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "hf.space.evil.example",
        "evil-hf.space",
        "127.0.0.1.nip.io",
        "a.local.b",
    ],
)
def test_public_names_do(host: str) -> None:
    assert not Hosts(space_host="").goes_by(host)


def test_a_space_is_known_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a domain of one's own there are two names in it."""
    monkeypatch.setenv("SPACE_HOST", "llm.example.org,me-llmserve.hf.space")
    hosts = Hosts()
    assert hosts.goes_by("llm.example.org")
    assert hosts.trusts("https://me-llmserve.hf.space", ())
    assert not hosts.trusts("https://evil-llmserve.hf.space", ())


def test_every_name_may_be_allowed_without_trusting_every_page() -> None:
    hosts = Hosts(["*"], space_host="")
    assert hosts.goes_by("evil.example")
    assert not hosts.trusts("https://evil.example", ["llm.example.org"])
