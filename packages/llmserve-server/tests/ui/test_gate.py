"""What the page does not need of Gradio does not exist; what it needs fails without a 5xx and leaves no file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient

from llmserve_server.app import create_app
from llmserve_server.settings import Settings


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Gradio would use."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def client(temporary: Path) -> Iterator[TestClient]:
    """A server with its page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setenv("GRADIO_TEMP_DIR", str(temporary))
        app = create_app(Settings(store_url="sqlite://", engine="python"))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


def left(folder: Path) -> list[Path]:
    """The files in a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


UNUSED = [
    ("post", "/web/gradio_api/process_recording"),
    ("post", "/web/gradio_api/vibe-edit"),
    ("post", "/web/gradio_api/stream/x"),
    ("post", "/web/gradio_api/call/x"),
    ("post", "/web/gradio_api/api/predict"),
    ("post", "/web/gradio_api/component_server"),
    ("post", "/web/gradio_api/run/other"),
    ("post", "/web/login"),
    ("get", "/web/gradio_api/upload_progress?upload_id=x"),
    ("get", "/web/gradio_api/proxy=http://127.0.0.1:1/"),
    ("get", "/web/gradio_api/file=/etc/passwd"),
    ("get", "/web/gradio_api/deep_link?session_hash=x"),
    ("get", "/web/monitoring"),
    ("get", "/web/gradio_api/openapi.json"),
    ("put", "/web/"),
]


@pytest.mark.parametrize(("method", "path"), UNUSED)
def test_what_the_page_does_not_use_does_not_exist(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_an_upload_is_refused_before_anything_is_written(client: TestClient, temporary: Path) -> None:
    files = [("files", (f"{index}.txt", b"x")) for index in range(500)]
    for path in ("/web/gradio_api/upload", "/web/gradio_api/upload?upload_id=x"):
        assert client.post(path, files=files).status_code == 413
    assert left(temporary) == []


def test_a_visit_leaves_no_file(client: TestClient, temporary: Path) -> None:
    for path in ("/web/", "/web/config", "/web/theme.css", "/web/gradio_api/info", "/web/gradio_api/startup-events"):
        assert client.get(path).status_code == 200
    body = {"data": [], "fn_index": 0, "session_hash": "visit", "trigger_id": None}
    client.post("/web/gradio_api/queue/join", json=body)
    assert left(temporary) == []


BODIES: list[Any] = [
    {},
    [],
    None,
    {"data": [], "fn_index": 10_000, "session_hash": "x"},
    {"data": [], "fn_index": -1, "session_hash": "x"},
    {"data": None, "fn_index": 0},
    {"data": [{}] * 50, "fn_index": 0, "session_hash": "x"},
    {"data": [], "api_name": "none"},
    {"data": [], "fn_index": 0, "session_hash": ["x"]},
    {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "x"},
    {"session_hash": "x", "fn_index": 0, "event_id": "x"},
]


@pytest.mark.parametrize("path", ["queue/join", "run/predict", "cancel", "reset"])
def test_no_body_gives_a_5xx(client: TestClient, path: str) -> None:
    for body in BODIES:
        response = client.post(f"/web/gradio_api/{path}", json=body)
        assert response.status_code < 500, (path, body, response.text)
    for raw in (b"", b"{", b"\xff", b'{"data":["\\ud800"],"fn_index":0,"session_hash":"x"}'):
        response = client.post(f"/web/gradio_api/{path}", content=raw, headers={"Content-Type": "application/json"})
        assert response.status_code < 500, (path, raw, response.text)


def test_a_stream_for_nobodys_session_ends_without_a_trace(client: TestClient) -> None:
    with structlog.testing.capture_logs() as lines:
        assert client.get("/web/gradio_api/queue/data?session_hash=nobody").status_code < 500
    assert {line["log_level"] for line in lines} <= {"debug", "info", "warning"}
    assert not any("exc_info" in line for line in lines)
