"""The documentation in a browser comes from this server alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

pytest.importorskip("fastapi_offline", reason="it has the page's script and style")


def test_the_page_and_its_files_come_from_here(client: TestClient) -> None:
    page = client.get("/docs").text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert named
    assert all(address.startswith("/") and not address.startswith("//") for address in named)
    assert re.findall(r"https?://", page) == []
    for name, kind in (("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css")):
        assert f"/docs/{name}" in page
        assert client.get(f"/docs/{name}").headers["content-type"].startswith(kind)


def test_there_is_no_second_page_that_loads_from_elsewhere(client: TestClient) -> None:
    assert client.get("/redoc").status_code == 404


def test_below_a_proxys_prefix_the_page_finds_its_document(serve: Callable[..., TestClient]) -> None:
    client = TestClient(serve().app, root_path="/envs/llm")
    assert "url: '/envs/llm/openapi.json'" in client.get("/envs/llm/docs").text
    assert client.get("/envs/llm/openapi.json").json()["info"]["title"] == "LLMServeEnv"
