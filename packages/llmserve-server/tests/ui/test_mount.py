"""The page on an app: where it answers, that it is on by default, and that it names no other host."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from llmserve_server import ui
from llmserve_server.app import create_app
from llmserve_server.backends import SimulatedBackend
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.settings import Settings
from llmserve_server.store.episodes import EpisodeStore

OWN = re.compile(r"https?://(testserver|localhost|127\.0\.0\.1)")
MENTIONED = ("http://www.w3.org/", "https://gradio.app/", "https://raw.githubusercontent.com/gradio-app/")
"""Names in Gradio's own page that nothing is fetched from: a namespace, and pictures for who shares a link."""


@pytest.fixture(scope="module")
def app() -> Iterator[FastAPI]:
    """An app with nothing but the page: Gradio takes seconds to build it."""
    settings, store = Settings(), EpisodeStore.in_memory()
    app = FastAPI()
    ui.mount(app, SessionRegistry(settings=settings, store=store, backend_factory=SimulatedBackend), settings)
    yield app
    store.close()


@pytest.mark.parametrize("path", ["/", "/demo", "/web"])
def test_the_short_addresses_lead_to_the_page(app: FastAPI, path: str) -> None:
    reply = TestClient(app).get(path, follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (307, "/web/")


def test_the_redirect_keeps_a_proxys_prefix(app: FastAPI) -> None:
    reply = TestClient(app, root_path="/spaces/me").get("/spaces/me/web", follow_redirects=False)
    assert reply.headers["location"] == "/spaces/me/web/"


def test_the_page_has_our_tab_first_and_openenvs_beside_it(app: FastAPI) -> None:
    html = TestClient(app).get("/web/").text
    assert html.index('"label":"Serve"') < html.index('"label":"Playground"')


def test_behind_a_proxy_the_page_addresses_its_public_host(app: FastAPI) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "me-llmserve.hf.space", "Host": "10.0.0.7"}
    config = TestClient(app).get("/web/config", headers=headers).json()
    assert config["root"] == "https://me-llmserve.hf.space/web"


def test_page_and_theme_name_no_other_host(app: FastAPI) -> None:
    client = TestClient(app)
    page = client.get("/web/").text
    theme = client.get("/web/theme.css").text
    assert "@font-face" in theme
    named = [url for url in re.findall(r"https?://[^\s\"'\\)<>]+", page + theme) if not OWN.match(url)]
    assert [url for url in named if not url.startswith(MENTIONED)] == []


def test_nothing_is_told_to_gradios_makers_and_nothing_can_be_uploaded(app: FastAPI) -> None:
    client = TestClient(app)
    assert client.get("/web/config").json()["analytics_enabled"] is False
    reply = client.post("/web/gradio_api/upload", files={"files": ("big.bin", b"x" * 4096)})
    assert reply.status_code == 413


def test_the_icon_is_served_from_here(app: FastAPI) -> None:
    reply = TestClient(app).get("/favicon.ico")
    assert reply.headers["content-type"].startswith("image/svg+xml")


def test_a_setting_turns_the_page_off(registry: SessionRegistry) -> None:
    app = FastAPI()
    ui.mount(app, registry, Settings(web=False))
    assert TestClient(app).get("/web/").status_code == 404


def test_monitors_may_ask_for_the_head_of_the_page() -> None:
    client = TestClient(create_app(Settings(store_url="sqlite://", engine="python")))
    for path, status in (("/", 307), ("/web", 307), ("/web/", 200)):
        reply = client.head(path, follow_redirects=False)
        assert (reply.status_code, reply.content) == (status, b"")


def test_the_page_is_on_without_any_setting() -> None:
    assert Settings().web
