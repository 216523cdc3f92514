"""schemathesis over the server's own OpenAPI document: requests that fit it, and requests that do not."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

import hypothesis
import hypothesis.strategies as st
import requests
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.fuzz.findings import Findings

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
#: Cases of an operation that does much for one request: enough to see that it refuses what it should.
FEW = {"GET /baseline": 40, "POST /baseline": 40, "GET /web": 40, "GET /docs": 5, "GET /openapi.json": 5}
SLOWEST_S = 30.0


class HttpFuzz:
    """Sends cases, looks at the answers, and remembers the sessions that were opened on the way."""

    def __init__(self, url: str, headers: dict[str, str], findings: Findings) -> None:
        self._url = url
        self._findings = findings
        self._http = requests.Session()
        self._http.headers.update(headers)
        self._headers = headers
        self.sessions: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.sent = 0
        self.slowest_s = 0.0

    def run(self, cases: int, seed: int) -> None:
        """Send about `cases` cases, shared out among the operations of the document."""
        schema = schemathesis.openapi.from_url(f"{self._url}/openapi.json", headers=dict(self._headers))
        operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
        few = sum(FEW.get(operation.label, 0) for operation in operations)
        many = [operation for operation in operations if operation.label not in FEW]
        each = max(1, (cases - few) // len(many))
        for number, operation in enumerate(operations):
            share = min(FEW.get(operation.label, each), each)
            for mode in GenerationMode:
                self._fuzz(operation, mode, max(1, share // 2), seed + number)

    def _fuzz(self, operation: Any, mode: GenerationMode, cases: int, seed: int) -> None:
        def send(case: Case[Any], known: int | None) -> None:
            self._send(case, known)

        strategies = (operation.as_strategy(generation_mode=mode), st.none() | st.integers(0, 1000))
        test = hypothesis.given(*strategies)(send)
        test = hypothesis.seed(seed)(
            hypothesis.settings(
                max_examples=cases,
                database=None,
                deadline=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )(test)
        )
        try:
            test()
        except hypothesis.errors.Unsatisfiable:
            return  # an operation without parameters has no request that does not fit it

    def _send(self, case: Case[Any], known: int | None) -> None:
        """Send one case, half of the time about a session that exists: made-up ids would all end at 404."""
        if known is not None and self.sessions:
            session = self.sessions[known % len(self.sessions)]
            if isinstance(case.body, dict) and case.path in {"/step", "/reset", "/fork"}:
                case.body["session_id"] = session
            else:
                case.headers["X-Session-Id"] = session
        sent = f"{case.method} {case.path} query={case.query!r} headers={dict(case.headers)!r} body={case.body!r}"
        start = time.monotonic()
        try:
            response = case.call(base_url=self._url, session=self._http, headers=dict(self._headers), timeout=SLOWEST_S)
        except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError):
            return  # the client refuses to send it
        except requests.exceptions.Timeout:
            self._findings.add(f"no answer within {SLOWEST_S:g} s to {sent}")
            return
        except requests.exceptions.ConnectionError as error:
            self._findings.add(f"the connection broke ({error}) after {sent}")
            return
        self.sent += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - start)
        self.statuses[response.status_code] += 1
        if response.status_code >= 500 and not (response.status_code == 502 and case.path == "/baseline"):
            # 502 is the endpoint's doing, whose refusal of the key the server passes on.
            self._findings.add(f"{response.status_code} {response.text[:300]}\n    to {sent}")
        self._findings.look(response.text + repr(response.headers), sent)
        self._conforms(case, response, sent)
        if case.path in {"/reset", "/fork"} and response.status_code == 200:
            self._remember(response.json()["session_id"])

    def _conforms(self, case: Case[Any], response: Any, sent: str) -> None:
        """Hold the answer against the document: its status, its content type and its body are announced there."""
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                self._findings.add(f"not as documented: {str(failure)[:600]}\n    to {sent}")

    def _remember(self, session: str) -> None:
        if session in self.sessions:
            return
        if len(self.sessions) < 100:
            self.sessions.append(session)
        else:
            self.sessions[random.Random(self.sent).randrange(100)] = session
