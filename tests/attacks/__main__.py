"""`python -m tests.attacks` from the repository's root; `nox -s attacks` runs it.

Each attack runs in a process of its own against one server on loopback, which has the default settings and a key for a
paid endpoint. Meanwhile the server's memory and the time of `GET /health` are measured. A bar is missed where memory
exceeds 1.3 times the idle server's, where `GET /health` takes more than 100 ms at the 99th percentile, where a file is
left, or where a request reaches the paid endpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final
from urllib.parse import urlsplit

from tests.attacks.attacks import ATTACKS, visit
from tests.attacks.measure import FAILED, Watch, memory_mb, run_apart

import local_server

_MOST_MEMORY: Final = 1.3
_MOST_WAIT_MS: Final = 100.0


def main() -> int:
    """Start, attack, report; return 1 if a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__.partition("\n")[0])
    parser.add_argument("attacks", nargs="*", help=f"some of: {', '.join(attack.__name__ for attack in ATTACKS)}")
    options = parser.parse_args()
    chosen = [attack for attack in ATTACKS if not options.attacks or attack.__name__ in options.attacks]
    with tempfile.TemporaryDirectory() as name, _endpoint() as (endpoint, spent):
        folder = Path(name)
        (folder / "tmp").mkdir()
        env = {
            "LLMSERVE_WEB": "true",
            "OPENAI_API_KEY": "sk-attacked",
            "OPENAI_BASE_URL": endpoint,
            "TMPDIR": str(folder / "tmp"),
        }
        with local_server.running(folder, env=env) as server:
            return _attack(chosen, server, folder, spent)


def _attack(chosen: list[Callable[[int], str]], server: local_server.Running, folder: Path, spent: list[str]) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    _warm(server.url, port)
    idle = memory_mb(server.process.pid)
    missed = 0
    print(f"idle: {idle:.0f} MB")
    print("| attack | what came of it | peak, MB | of idle | after | /health p99, ms | ok |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for attack in chosen:
        with Watch(server.process.pid, port) as watch:
            outcome = run_apart(attack, port)
            time.sleep(0.5)
        left = [path for path in (folder / "tmp").rglob("*") if path.is_file()]
        ratio = watch.peak_mb / idle
        is_ok = (
            ratio <= _MOST_MEMORY
            and watch.p99_ms() <= _MOST_WAIT_MS
            and not left
            and not spent
            and not watch.failed
            and outcome != FAILED
        )
        missed += not is_ok
        after = memory_mb(server.process.pid)
        extra = "".join((f"; {len(left)} files left" if left else "", f"; {len(spent)} paid requests" if spent else ""))
        print(
            f"| {attack.__name__} | {outcome}{extra} | {watch.peak_mb:.0f} | {ratio:.2f} | {after:.0f} "
            f"| {watch.p99_ms():.0f} | {'yes' if is_ok else 'NO'} |",
            flush=True,
        )
    return int(missed > 0)


def _warm(url: str, port: int) -> None:
    """Play an episode and draw the page, as a server has done that has been up for a while.

    The first drawing imports Matplotlib and pandas, which any visitor pays for once; an attack that does no more than
    that has gained nothing.
    """
    visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    for path, content in (("/reset", {"seed": 1}), *[("/step", {"action": {}})] * 120, ("/grader", {})):
        visitor.open(f"{url}{path}", json.dumps(content).encode(), timeout=120).close()
    for path in ("/web/", "/web/config", "/openapi.json", "/metrics"):
        visitor.open(f"{url}{path}", timeout=120).close()
    visit(port, ["first"])
    time.sleep(2.0)  # the page is drawn after the answer


@contextmanager
def _endpoint() -> Iterator[tuple[str, list[str]]]:
    """Run a paid endpoint; yields its base URL, and the list of what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(500)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main())
