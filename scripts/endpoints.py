"""Calls every endpoint that the specification requires, on any server with a URL.

`python scripts/endpoints.py URL` prints a line for each endpoint and exits with 1 if one fails. Without an argument it
reads the URL from `BASE_URL`, which the image's check sets. It uses HTTP and WebSocket only, no code of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.sync.client import connect

TASKS = {"static_workload", "bursty_workload", "adversarial_multitenant"}


@dataclass(frozen=True)
class Finding:
    """The result of one endpoint; `problem` is empty if it works."""

    endpoint: str
    problem: str
    seconds: float


class _Visit:
    """One visit to all endpoints, in an order in which each finds what it needs."""

    def __init__(self, client: httpx.Client, token: str | None) -> None:
        self.client = client
        self.token = token
        self.session = ""

    def health(self) -> None:
        _expect(self._get("/health")["status"] == "healthy", "the status is not `healthy`")

    def reset(self) -> None:
        reply = self._post("/reset", {"seed": 1})
        self.session = reply["session_id"]
        _expect(reply["observation"]["task_id"] == "static_workload", "the default task is not static_workload")
        _expect(reply["observation"]["step_index"] == 0, "a fresh episode does not begin with step 0")

    def step(self) -> None:
        reply = self._post("/step", {"session_id": self.session, "action": {"batch_cap": 64}})
        _expect(isinstance(reply["reward"], float), "the reward is no number")
        _expect(reply["observation"]["step_index"] == 1, "the step was not counted")

    def state(self) -> None:
        state = self._get("/state", headers={"X-Session-Id": self.session})
        _expect(state["step_count"] == 1, f"step_count is {state['step_count']}, not 1")

    def metadata(self) -> None:
        metadata = self._get("/metadata")
        _expect(metadata["name"] and metadata["description"], "name or description is empty")

    def schema(self) -> None:
        schema = self._get("/schema")
        _expect("batch_cap" in schema["action"]["properties"], "the action's schema does not name batch_cap")
        _expect(
            "p99_ttft_ms" in json.dumps(schema["observation"]), "the observation's schema does not name p99_ttft_ms"
        )

    def tasks(self) -> None:
        found = {task["id"] for task in self._get("/tasks")["tasks"]}
        _expect(found >= TASKS, f"missing: {', '.join(sorted(TASKS - found))}")

    def grader(self) -> None:
        report = self._post("/grader", None, headers={"X-Session-Id": self.session})
        _expect(0 <= report["score"] <= 1, f"the score {report['score']} is not in [0, 1]")
        _expect(report["verified"], "the server does not verify its own episode")

    def baseline(self) -> None:
        report = self.client.get("/baseline", timeout=300).raise_for_status().json()
        _expect(isinstance(report, dict), "no report")
        _expect(all(task in json.dumps(report) for task in TASKS), "the report does not name all three tasks")

    def web(self) -> None:
        page = self.client.get("/web", follow_redirects=True).raise_for_status()
        _expect("html" in page.headers["content-type"], f"it serves {page.headers['content-type']}")

    def demo(self) -> None:
        answer = self.client.get("/demo")
        _expect(answer.is_redirect, f"it answers {answer.status_code}, no redirect")
        _expect("/web" in answer.headers["location"], f"it redirects to {answer.headers['location']}")

    def socket(self) -> None:
        url = str(self.client.base_url).rstrip("/").replace("http", "ws", 1) + "/ws"
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        with connect(url, additional_headers=headers, open_timeout=20, max_size=2**24) as socket:
            for message in ({"type": "reset", "data": {"seed": 1}}, {"type": "step", "data": {"batch_cap": 64}}):
                socket.send(json.dumps(message))
                reply = json.loads(socket.recv(timeout=60))
                _expect(reply["type"] == "observation", f"{message['type']} is answered with {reply}")

    def _get(self, path: str, headers: dict[str, str] | None = None) -> Any:
        return self.client.get(path, headers=headers).raise_for_status().json()

    def _post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Any:
        return self.client.post(path, json=body, headers=headers).raise_for_status().json()


def check(url: str, *, token: str | None = None) -> list[Finding]:
    """Call the endpoints of the server at `url` and return the findings; never raises for an answer of the server."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        visit = _Visit(client, token)
        walk: list[tuple[str, Callable[[], None]]] = [
            ("GET /health", visit.health),
            ("POST /reset", visit.reset),
            ("POST /step", visit.step),
            ("GET /state", visit.state),
            ("GET /metadata", visit.metadata),
            ("GET /schema", visit.schema),
            ("GET /tasks", visit.tasks),
            ("POST /grader", visit.grader),
            ("GET /baseline", visit.baseline),
            ("GET /web", visit.web),
            ("GET /demo", visit.demo),
            ("WS /ws", visit.socket),
        ]
        return [_try(endpoint, look) for endpoint, look in walk]


def _expect(met: object, otherwise: str) -> None:
    if not met:
        raise ValueError(otherwise)


def _try(endpoint: str, look: Callable[[], None]) -> Finding:
    start = time.perf_counter()
    problem = ""
    try:
        look()
    except KeyError as error:
        problem = f"the answer has no {error}"
    except Exception as error:  # noqa: BLE001 - whatever a foreign server makes happen here is the finding
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Finding(endpoint, problem, time.perf_counter() - start)


def main() -> int:
    """Print the findings; return 1 if an endpoint failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "url", nargs="?", default=os.environ.get("BASE_URL"), help="server to visit (default: BASE_URL)"
    )
    parser.add_argument("--first-step-within", type=float, metavar="SECONDS", help="bound on the first step's time")
    options = parser.parse_args()
    if not options.url:
        parser.error("name a URL, or set BASE_URL")
    findings = check(options.url, token=os.environ.get("LLMSERVE_API_TOKEN"))
    for finding in findings:
        print(f"{finding.endpoint:<15} {finding.seconds:7.2f} s  {finding.problem or 'ok'}")
    first = next(finding.seconds for finding in findings if finding.endpoint == "POST /step")
    slow = options.first_step_within is not None and first > options.first_step_within
    if slow:
        print(
            f"the first step took {first:.1f} s, more than {options.first_step_within:g} s: was the kernel compiled again?"
        )
    return int(slow or any(finding.problem for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
