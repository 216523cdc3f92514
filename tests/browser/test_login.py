"""A server with a token asks a visitor for it once, in the browser; a page elsewhere gets nothing from it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOKEN = "correct-horse-battery"  # noqa: S105 - of a server that lives as long as its tests


@pytest.fixture(scope="module")
def guarded(make_server: Callable[..., Any]) -> str:
    """Where a server with a token is."""
    return str(make_server(LLMSERVE_API_TOKEN=TOKEN).url)


def test_the_token_is_asked_for_once_and_the_page_works(browser: Browser, guarded: str, expect: Any) -> None:
    context = browser.new_context()
    context.set_default_timeout(60_000)
    page = context.new_page()
    addresses: list[str] = []
    page.on("request", lambda sent: addresses.append(sent.url))
    page.goto(f"{guarded}/web/")
    expect(page.get_by_label("Token")).to_be_visible()
    page.fill("#token", "wrong-horse-battery")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("That is not the token.")
    page.fill("#token", TOKEN)
    page.get_by_role("button", name="Open the page").click()
    page.wait_for_selector("#ls-start")
    page.fill("#ls-seed :is(input, textarea)", "2000001")
    page.click("#ls-start")
    expect(page.locator("#ls-status")).to_contain_text("2000001")
    page.click("#ls-step")
    page.wait_for_function("Number(document.querySelector('#ls-status progress')?.value ?? -1) >= 1")
    page.reload()
    expect(page.locator("#ls-status")).to_contain_text("2000001")
    cookie = next(found for found in context.cookies() if found["name"] == "llmserve_access")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]
    assert not [address for address in addresses if TOKEN in address]
    context.close()


@pytest.fixture
def elsewhere() -> Iterator[Callable[[str], str]]:
    """Serve a page of another origin; call it with the page, and it returns the address."""
    content = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(page: str) -> str:
        nonlocal content
        content = page.encode()
        return f"http://localhost:{server.server_address[1]}/"

    yield serve
    server.shutdown()
    server.server_close()


_ATTACK = """async (server) => {
  const socket = new Promise((done) => {
    const open = new WebSocket(server.replace("http", "ws") + "/ws");
    open.onopen = () => done("open");
    open.onerror = () => done("refused");
  });
  const simple = { method: "POST", mode: "no-cors", credentials: "include", headers: { "Content-Type": "text/plain" } };
  await fetch(server + "/step", { ...simple, body: '{"action":{}}' }).catch(() => null);
  const read = await fetch(server + "/state", { credentials: "include" }).then((r) => r.text()).catch(() => "unread");
  return [await socket, read];
}"""


def test_a_page_elsewhere_neither_steps_nor_reads_nor_opens_a_socket(
    browser: Browser, url: str, elsewhere: Callable[[str], str]
) -> None:
    """With the visitor's cookie in the browser."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/health")
    page.evaluate("fetch('/reset', {method: 'POST'})")
    page.wait_for_function("fetch('/state').then((r) => r.ok)")
    other = context.new_page()
    other.goto(elsewhere("<h1>elsewhere</h1>"))
    assert other.evaluate(_ATTACK, url) == ["refused", "unread"]
    assert page.evaluate("fetch('/state').then((r) => r.json()).then((s) => s.step_count)") == 0
    context.close()
