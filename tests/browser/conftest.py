"""A browser and a server: the one at BASE_URL, or one that the tests start.

The tests need only Playwright and a Chromium beside a running server, so they also check the page of an image. No
request may go to another host, and the browser's console must stay free of warnings: each test fails otherwise.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT: Final = Path(__file__).parents[2]
_START_S: Final = 180.0
"""A first start imports Gradio and compiles the simulator's kernel beside it."""


class Server:
    """A server process over a store of its own, on a port that it keeps when it is started again."""

    def __init__(self, folder: Path, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = folder / "server.log"
        self._environment = os.environ | {"LLMSERVE_STORE_URL": f"sqlite:///{folder / 'episodes.db'}"} | settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is healthy."""
        command = [sys.executable, "-m", "llmserve_server", "--host", "127.0.0.1", "--port", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not _is_healthy(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.25)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:  # noqa: S310 - the tests' own server
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start a server of one's own; arguments are variables of its environment."""
    if find_spec("llmserve_server") is None:
        pytest.skip("there is no server to start: install llmserve-server, or give the address of one in BASE_URL")
    servers: list[Server] = []

    def make(**settings: str) -> Server:
        servers.append(Server(tmp_path_factory.mktemp("server"), **settings))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest) -> str:
    """Where the server is that all tests share."""
    given = os.environ.get("BASE_URL")
    return given.rstrip("/") if given else str(request.getfixturevalue("make_server")().url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window and without a network but the machine's own."""
    api = pytest.importorskip("playwright.sync_api", reason="the page is tried with Playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    # Root has no sandbox in a container.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*options, "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Callable[..., Page]]:
    """Come to the page as another visitor; what went wrong in any visit fails the test at its end."""
    contexts, wrong, own = [], list[str](), urlsplit(url).netloc

    def watch(page: Page) -> None:
        def leaves(address: str) -> bool:
            return urlsplit(address).scheme in ("http", "https", "ws", "wss") and urlsplit(address).netloc != own

        page.on("request", lambda sent: wrong.append(f"left the machine: {sent.url}") if leaves(sent.url) else None)
        page.on(
            "websocket", lambda opened: wrong.append(f"left the machine: {opened.url}") if leaves(opened.url) else None
        )
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)

    def come(
        address: str = url, *, width: int = 1280, height: int = 900, dark: bool = False, calm: bool = True
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        if calm:
            watch(page)
        page.goto(f"{address}/web/")
        page.wait_for_selector("#ls-start")
        page.wait_for_function("document.fonts.status === 'loaded'")
        return page

    yield come
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def artifacts() -> Path:
    """Where pictures go."""
    folder = Path(os.environ.get("LLMSERVE_ARTIFACTS", ROOT / "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def expect() -> Any:
    """Playwright's patient assertions."""
    api = pytest.importorskip("playwright.sync_api", reason="the page is tried with Playwright: pip install playwright")
    api.expect.set_options(timeout=60_000)
    return api.expect
