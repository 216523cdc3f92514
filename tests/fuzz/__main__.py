"""`python -m tests.fuzz` from the repository's root, with `--cases` and `--seed`; `nox -s fuzz` runs it.

One server on loopback is asked everything, right and wrong, over HTTP and WebSocket, whole and in halves, on our
routes, OpenEnv's, `/mcp` and the page's, while two bystanders go on with their episodes. A fault is a 5xx, a hang, a
lost session, a wrong observation of a bystander, a limit that does not hold, growth of the server's memory, a path,
secret or stack trace in an answer, a secret or an exception in the log.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from tests.fuzz import bounds
from tests.fuzz.bystander import Bystander
from tests.fuzz.findings import Findings
from tests.fuzz.http_cases import HttpFuzz
from tests.fuzz.route_cases import RouteFuzz
from tests.fuzz.socket_cases import SocketFuzz
from tests.fuzz.wire_cases import WireFuzz

import local_server

WARM_UP = 2000
GROWTH = 1.3
"""Most that the server's resident memory may grow by, as a factor."""


def main() -> int:
    """Start, fuzz, look, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=24_000, help="requests, messages and halves of them together")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="seed of both (default: drawn)")
    options = parser.parse_args()
    print(f"seed {options.seed}: the same cases again with --seed {options.seed} --cases {options.cases}", flush=True)
    key, token = f"sk-{secrets.token_hex(24)}", secrets.token_hex(24)
    findings = Findings((key, token))
    headers = {"Authorization": f"Bearer {token}"}
    with tempfile.TemporaryDirectory() as name, bounds.tactless_endpoint() as endpoint:
        env = bounds.SETTINGS | {
            "LLMSERVE_API_TOKEN": token,
            "OPENAI_API_KEY": key,
            "OPENAI_BASE_URL": endpoint,
            "LLMSERVE_LOG_LEVEL": "debug",
            "LLMSERVE_MAX_CONCURRENT_ENVS": "64",
            # Idle sessions make room at once: they leave memory all the time, and must come back as they were.
            "LLMSERVE_YIELD_AFTER_S": "0",
        }
        with local_server.running(Path(name), env=env, within_s=300) as server:
            _run(server, headers, findings, options.cases, options.seed)
        findings.look_at_log(server.log.read_text(encoding="utf-8", errors="replace"))
        if server.process.returncode != 0:
            findings.add(f"the server ended with exit code {server.process.returncode}")
    for fault in findings.faults:
        print(f"FAULT: {fault}")
    print(f"{findings.count} faults" if findings.count else "no fault")
    return int(bool(findings.count))


def _run(server: local_server.Running, headers: dict[str, str], findings: Findings, cases: int, seed: int) -> None:
    bystanders = [Bystander(server.url, headers, findings, over_socket=flag) for flag in (False, True)]
    for bystander in bystanders:
        bystander.start()
    start = time.perf_counter()
    over_http = HttpFuzz(server.url, headers, findings)
    over_socket = SocketFuzz(server.url, headers, findings, seed)
    routes = RouteFuzz(server.url, headers, findings, seed)
    wire = WireFuzz(server.url, headers, findings, seed)
    # A little of everything first: what is made once, on its first use, is no growth.
    _everything(over_http, over_socket, routes, wire, min(cases // 10, WARM_UP), seed + 1)
    before = server.memory_bytes()
    _everything(over_http, over_socket, routes, wire, cases - min(cases // 10, WARM_UP), seed)
    routes.close()
    after = server.memory_bytes()
    print(f"memory of the server: {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after", flush=True)
    if after > GROWTH * before:
        findings.add(f"the server's memory grew from {before / 2**20:.0f} to {after / 2**20:.0f} MiB")
    _report("HTTP", over_http.sent, over_http.statuses, over_http.slowest_s)
    _report("/mcp and the page", routes.sent, routes.statuses, routes.slowest_s)
    _report("WebSocket", over_socket.sent, over_socket.answers)
    _report("half requests", wire.sent, wire.answers)
    print(f"{time.perf_counter() - start:.0f} s so far", flush=True)
    more = bounds.check(server.url, headers, findings) + bounds.spend(server.url, headers, findings)
    kept = sum(_still_there(server.url, headers, session, findings) for session in over_http.sessions)
    for bystander in bystanders:
        bystander.finish()
    total = over_http.sent + over_socket.sent + routes.sent + wire.sent + more
    print(
        f"{total:,} cases in {time.perf_counter() - start:.0f} s; limits, tokens and keys: {more}; "
        f"{kept} of {len(over_http.sessions)} sessions of the fuzz still answer; bystanders: "
        + ", ".join(f"{bystander.steps} steps as the {bystander.name}" for bystander in bystanders),
        flush=True,
    )


def _everything(
    over_http: HttpFuzz, over_socket: SocketFuzz, routes: RouteFuzz, wire: WireFuzz, cases: int, seed: int
) -> None:
    """Send `cases` cases, shared out among the kinds."""
    before = over_http.sent
    over_http.run(cases * 2 // 5, seed)
    routes.run(cases * 3 // 20, page=False)
    routes.run(cases * 3 // 20, page=True)
    wire.run(cases // 10)
    over_socket.run(over_socket.sent + max(0, cases - (over_http.sent - before) - 2 * (cases * 3 // 20) - cases // 10))


def _report(what: str, sent: int, counts: Counter[Any], slowest_s: float | None = None) -> None:
    slowest = "" if slowest_s is None else f"slowest {slowest_s:.1f} s, "
    found = ", ".join(f"{name} x {count:,}" for name, count in sorted(counts.items()))
    print(f"{what}: {sent:,} sent, {slowest}answers {found}", flush=True)


def _still_there(url: str, headers: dict[str, str], session: str, findings: Findings) -> bool:
    answer = httpx.get(f"{url}/state", headers=headers | {"X-Session-Id": session}, timeout=60)
    if answer.status_code != 200:
        findings.add(f"a session of the fuzz is lost: {answer.status_code} {answer.text[:200]}")
    return answer.status_code == 200


if __name__ == "__main__":
    sys.exit(main())
