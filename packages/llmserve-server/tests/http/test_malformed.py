"""No input gives a 5xx or an `internal_error`: not over HTTP, not over a socket, not on a mounted application's routes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openenv.core.env_server import http_server
from starlette.testclient import WebSocketTestSession

BODIES = [
    b"",
    b"null",
    b"[]",
    b"5",
    b'"\\ud800"',
    b'{"a":"\\udfff"}',
    b'{"\\ud800":1}',
    b"NaN",
    b'{"a":NaN,"b":-Infinity}',
    b'{"a":1e999}',
    b"[" * 5000,
    b'{"a":' * 3000,
    b'{"a":1' + b"0" * 5000 + b"}",
    b"\xff\xfe{\x00}\x00",
    b'{"a":"\xed\xa0\x80"}',
    b'{"split":"\\ud800","index":0}',
    b'{"split":"train","index":"\\ud800"}',
    b'{"split":{"name":["\\ud800"]}}',
    b'{"split":"train","start":-1,"stop":1e400}',
    b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
    b'{"jsonrpc":"2.0","id":"\\ud800","method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":[1],"method":"tools/list"}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"session_id":[1]}}',
    b'{"jsonrpc":"2.0","id":1,"method":"openenv/session/close","params":{"session_id":{"a":1}}}',
    b'{"jsonrpc":"2.0","id":1,"method":"openenv/session/close","params":{"session_id":"\\udfff"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":{"a":1},"arguments":5}}',
    b'{"fn_index":"\\ud800","data":[],"session_hash":"x"}',
    b'{"fn_index":99999,"data":[NaN],"session_hash":"x"}',
    b'{"component_id":-1,"fn_name":"__init__","session_hash":"x","data":null}',
]
PAGE_ROUTES = [
    "/web/gradio_api/queue/join",
    "/web/gradio_api/run/predict",
    "/web/gradio_api/api/predict",
    "/web/gradio_api/call/predict",
    "/web/gradio_api/reset",
    "/web/gradio_api/cancel",
    "/web/gradio_api/component_server",
    "/web/login",
    "/web/assets/" + "a" * 5000,
    "/web/gradio_api/file=" + "a" * 5000,
    "/web/%ED%A0%80",
]


@pytest.fixture(scope="module")
def page() -> Iterator[TestClient]:
    """A server with its page."""
    from llmserve_server.app import create_app
    from llmserve_server.settings import Settings

    app = create_app(Settings(store_url="sqlite://", engine="python", max_concurrent_envs=1000))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_no_body_makes_any_route_answer_5xx(page: TestClient) -> None:
    document = page.get("/openapi.json").json()
    routes = [
        (method.upper(), re.sub(r"\{\w+\}", "llmserve_env", path))
        for path, operations in document["paths"].items()
        for method in operations
        if path != "/baseline"
    ]
    routes += [(method, path) for path in PAGE_ROUTES for method in ("GET", "POST", "HEAD")]
    faults = []
    for method, path in routes:
        for body in BODIES if method == "POST" else [b""]:
            answer = page.request(method, path, content=body, headers={"content-type": "application/json"})
            if answer.status_code >= 500:
                faults.append((method, path[:60], body[:60], answer.status_code))
    assert faults == []


def test_a_form_that_the_page_does_not_know_is_refused(page: TestClient) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert page.post("/web/gradio_api/component_server", content=b"--x--", headers=kind).status_code < 500


def test_an_event_stream_of_nobody_ends_without_a_trace(page: TestClient, capfd: pytest.CaptureFixture[str]) -> None:
    answer = page.get("/web/gradio_api/queue/data?session_hash=nobody")
    assert answer.status_code < 500
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_page_still_answers_what_its_script_asks(page: TestClient) -> None:
    assert page.get("/web/config").status_code == 200
    joined = page.post("/web/gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "mine"})
    assert joined.status_code == 200


@pytest.mark.parametrize(
    ("body", "number", "key"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":NaN}}', -32700, None),
        (b"[" * 5000, -32700, None),
        (b"", -32700, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"session_id":[1]}}', -32602, 7),
    ],
)
def test_a_rpc_body_that_nothing_can_read_gets_a_rpc_error(
    client: TestClient, body: bytes, number: int, key: object
) -> None:
    answer = client.post("/mcp", content=body)
    assert answer.status_code == 400
    said = answer.json()
    assert (said["jsonrpc"], said["id"], said["error"]["code"]) == ("2.0", key, number)
    with client.websocket_connect("/mcp") as socket:
        socket.send_text(body.decode())
        assert socket.receive_json()["error"]["code"] == number


NAMES = st.sampled_from(
    [
        "type",
        "data",
        "metadata",
        "batch_cap",
        "seed",
        "task_id",
        "session_id",
        "self",
        "jsonrpc",
        "id",
        "method",
        "params",
        "name",
        "arguments",
        "step_index",
        "resume",
        "split",
        "index",
        "timeout_s",
        "",
    ]
) | st.text(max_size=5)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=20)
    | st.sampled_from(["\ud800", "step", "reset", "state", "mcp", "close_", 10**400, 2**63, -1, "tools/list", "2.0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
CALLS = st.fixed_dictionaries(
    {
        "jsonrpc": st.just("2.0") | VALUES,
        "method": st.sampled_from(["tools/list", "tools/call", "openenv/session/close", "x"]) | VALUES,
    },
    optional={"id": VALUES, "params": VALUES | st.dictionaries(NAMES, VALUES, max_size=4)},
)
MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["step", "reset", "state", "mcp"]) | VALUES},
    optional={"data": VALUES | st.dictionaries(NAMES, VALUES, max_size=5) | CALLS, "more": VALUES},
)


def _texts(messages: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    spoiled = st.tuples(messages.map(json.dumps), st.integers(0, 200), st.text(max_size=4)).map(
        lambda parts: parts[0][: parts[1]] + parts[2].encode("utf-8", "replace").decode() + parts[0][parts[1] + 2 :]
    )
    return messages.map(json.dumps) | VALUES.map(json.dumps) | spoiled | st.text(max_size=30)


PROPERTY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def test_no_frame_on_the_socket_is_an_internal_error_or_the_sockets_end(client: TestClient) -> None:
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "reset", "data": {"seed": 7}})
        socket.receive_json()

        @PROPERTY
        @given(_texts(MESSAGES))
        def holds(text: str) -> None:
            socket.send_text(_sendable(text))
            answer = socket.receive_json()
            if answer["type"] == "error":
                error = answer["data"]["error"]
                assert error["code"] != "internal_error", text
                assert error["message"], text
                if answer["data"]["code"] == "VALIDATION_ERROR":
                    assert error["field"], text

        holds()


def test_no_frame_on_the_rpc_socket_is_its_end(client: TestClient) -> None:
    with client.websocket_connect("/mcp") as socket:

        @PROPERTY
        @given(_texts(CALLS))
        def holds(text: str) -> None:
            socket.send_text(_sendable(text))
            answer = socket.receive_json()
            assert answer["jsonrpc"] == "2.0"
            said = answer.get("error") or {}
            assert said.get("code") != -32603 or said["message"] == "Environment does not support MCP", text

        holds()


FRAMES: list[tuple[dict[str, Any], str]] = [
    ({"type": "step", "data": {"type": {}}}, "type"),
    ({"type": "step", "data": {"type": []}}, "type"),
    ({"type": "step", "data": {"type": [{}], "batch_cap": 1}}, "type"),
    ({"type": "step", "data": {"type": 5}}, "type"),
    ({"type": "reset", "data": {"type": {}}}, "type"),
    ({"type": {"step": 1}, "data": {}}, "type"),
    ({"type": None}, "type"),
]


@pytest.mark.parametrize(("frame", "field"), FRAMES)
def test_a_type_in_the_wrong_place_is_refused_by_name(client: TestClient, frame: dict[str, Any], field: str) -> None:
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "reset", "data": {"seed": 7}})
        socket.receive_json()
        for text in (json.dumps(frame), " " + json.dumps(frame)):
            socket.send_text(text)
            error = socket.receive_json()["data"]["error"]
            assert (error["code"], error["field"]) == ("invalid_field", field)
        _goes_on(socket)


@pytest.mark.parametrize("session_id", [[1], {"a": 1}, 5, True])
def test_a_rpc_call_in_the_socket_names_its_session_by_a_text(client: TestClient, session_id: object) -> None:
    call = {"jsonrpc": "2.0", "id": 3, "method": "openenv/session/close", "params": {"session_id": session_id}}
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "mcp", "data": call})
        answer = socket.receive_json()
        assert (answer["type"], answer["data"]["id"], answer["data"]["error"]["code"]) == ("mcp", 3, -32602)


def test_a_handshake_with_an_unknown_session_is_refused_by_name(client: TestClient) -> None:
    with client.websocket_connect("/ws?session_id=nobody") as socket:
        error = socket.receive_json()["data"]["error"]
    assert (error["code"], error["field"]) == ("unknown_session", "session_id")


def test_whatever_openenv_fails_on_is_in_the_log(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the boiler has burst")

    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "reset", "data": {"seed": 7}})
        socket.receive_json()
        monkeypatch.setattr(http_server, "deserialize_action", fail)
        socket.send_json({"type": "step", "data": {"batch_cap": 1}})
        answer = socket.receive_json()["data"]
        assert answer["error"]["code"] == "internal_error"
        assert "boiler" not in json.dumps(answer)
        monkeypatch.undo()
        _goes_on(socket)
    said = "".join(capfd.readouterr())
    assert "request_failed" in said
    assert "RuntimeError: the boiler has burst" in said


def _goes_on(socket: WebSocketTestSession) -> None:
    socket.send_json({"type": "step", "data": {"batch_cap": 1}})
    assert socket.receive_json()["type"] == "observation"


def test_a_large_body_is_refused_while_it_is_read(serve: Callable[..., TestClient]) -> None:
    client = serve(max_body_bytes=2000)
    for path in ("/mcp", "/llmserve_env/tasks"):
        assert client.post(path, content=iter([b" " * 1500] * 10)).status_code == 413


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/reset", "/step", "/fork", "/grader", "/mcp", "/llmserve_env/tasks"])
async def test_a_caller_who_leaves_in_the_middle_of_its_body_is_no_failure(
    path: str, client: TestClient, capfd: pytest.CaptureFixture[str]
) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b'{"seed":', "more_body": True},
        {"type": "http.disconnect"},
    ]
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
        "client": ("127.0.0.1", 5000),
        "server": ("localhost", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    await client.app(scope, receive, send)
    assert all(status < 500 for status in statuses)
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert "request_failed" not in said


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio."""
    return "asyncio"


def test_the_document_of_mcp_allows_both_kinds_of_refusal(client: TestClient) -> None:
    """A JSON-RPC error from the route, and this server's own error from the layers before it."""
    declared = client.get("/openapi.json").json()["paths"]["/mcp"]
    answered = client.post("/mcp", content=b"{").json()
    for method, status in (("post", "400"), ("post", "413"), ("delete", "404")):
        ours, rpc = declared[method]["responses"][status]["content"]["application/json"]["schema"]["anyOf"]
        assert ours == {"$ref": "#/components/schemas/ErrorBody"}
        assert set(rpc["required"]) == set(rpc["properties"]) == set(answered)
