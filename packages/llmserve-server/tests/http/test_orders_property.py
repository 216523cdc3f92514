"""In every order of calls, by callers with and without cookies behind one address, each reaches only their own sessions."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from llmserve_server.app import create_app
from llmserve_server.routes.episodes import COOKIE, HEADER
from llmserve_server.settings import Settings

CALLERS = {"cookies": ("ann", "bob"), "header": ("cid", "dee"), "body": ("eve",), "nothing": ("fay", "gus")}
"""By how they name their session: the callers."""
WAYS = {name: way for way, names in CALLERS.items() for name in names}
NAMES = st.sampled_from(sorted(WAYS))
EMPTY = {"episode_id": None, "step_count": 0}


class Orders(RuleBasedStateMachine):
    """Callers of one server, all with one address and one program."""

    base: ClassVar[dict[str, str]] = {}
    """Headers of every call."""
    address: ClassVar[str] = "10.0.0.1"
    is_local: ClassVar[bool] = False
    client: ClassVar[TestClient]

    def __init__(self) -> None:
        super().__init__()
        self.agent = uuid.uuid4().hex
        """Each example has its own program, so that the examples do not see each other."""
        self.own: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in WAYS}
        """By caller: their sessions, each with its seed and its number of steps."""
        self.current: dict[str, str | None] = dict.fromkeys(WAYS)
        """By caller: the session that they name, or would if they named one."""
        self.number = 0

    @initialize()
    def begin(self) -> None:
        """Nobody has a session yet."""
        for name in WAYS:
            assert self._call(name, "GET", "/state")[1] == EMPTY

    def _call(self, name: str, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        way, session = WAYS[name], self.current[name]
        headers = self.base | {"User-Agent": self.agent}
        params = {}
        if session is not None and way == "cookies":
            headers["Cookie"] = f"{COOKIE}={session}"
        elif session is not None and (way == "header" or (way == "body" and path == "/reset")):
            headers[HEADER] = session
        elif session is not None and way == "body" and body is None:
            params["session_id"] = session
        elif session is not None and way == "body":
            body = {**(body or {}), "session_id": session}
        self.client.cookies.clear()
        answer = self.client.request(method, path, json=body, headers=headers, params=params)
        assert answer.status_code < 500, answer.text
        strangers = {session for other, owned in self.own.items() if other != name for session in owned}
        shown = answer.text + repr(answer.headers)
        assert not any(session in shown for session in strangers), "the id of somebody else's session"
        return answer.status_code, answer.json() if answer.content else None

    def _is_out(self, name: str) -> bool:
        """Return whether the caller has no session on this machine: the only one there would be taken for theirs."""
        return self.is_local and self.current[name] is None

    def _is_refused(self, name: str, status: int, content: Any) -> bool:
        """Return whether a call was rightly refused because it names no session; else it must have been answered."""
        is_named = WAYS[name] != "nothing" and self.current[name] is not None
        if is_named or (self.is_local and status == 200):
            assert status == 200, content
            return False
        assert (status, content["error"]["code"]) in {(409, "ambiguous_session"), (409, "not_reset")}
        return True

    @rule(name=NAMES)
    def reset(self, name: str) -> None:
        """Begin an episode; a cookie's, or nobody's, is in a session with a new id."""
        self.number += 1
        seed = 1000 + self.number
        status, content = self._call(name, "POST", "/reset", {"seed": seed})
        assert status == 200, content
        session = content["session_id"]
        if WAYS[name] in {"header", "body"} and self.current[name] is not None:
            assert session == self.current[name]
        else:
            assert all(session not in owned for owned in self.own.values())
        self.own[name][session] = (seed, 0)
        self.current[name] = session

    @rule(name=NAMES)
    def step(self, name: str) -> None:
        """Step: one's own session or none."""
        if self._is_out(name):
            return
        status, content = self._call(name, "POST", "/step", {"action": {}})
        if not self._is_refused(name, status, content):
            session = content["session_id"]
            assert session == self.current[name]
            seed, steps = self.own[name][session]
            self.own[name][session] = (seed, steps + 1)
            assert content["observation"]["step_index"] == steps + 1

    @rule(name=NAMES)
    def state(self, name: str) -> None:
        """Look."""
        if self._is_out(name):
            return
        status, content = self._call(name, "GET", "/state")
        if content == EMPTY:
            assert self.current[name] is None
        elif not self._is_refused(name, status, content):
            session = self.current[name]
            assert session is not None
            assert (content["session_id"], (content["seed"], content["step_count"])) == (
                session,
                self.own[name][session],
            )

    @rule(name=NAMES, path=st.sampled_from(["/log", "/grader"]))
    def read(self, name: str, path: str) -> None:
        """Read the log, or a grade."""
        if self._is_out(name):
            return
        status, content = self._call(name, "GET" if path == "/log" else "POST", path, None if path == "/log" else {})
        if not self._is_refused(name, status, content):
            assert content["seed"] == self.own[name][str(self.current[name])][0]

    @rule(name=NAMES)
    def fork(self, name: str) -> None:
        """Fork; the copy is the caller's as well."""
        if self._is_out(name):
            return
        status, content = self._call(name, "POST", "/fork", {})
        if not self._is_refused(name, status, content):
            session = self.current[name]
            assert session is not None
            assert all(content["session_id"] not in owned for owned in self.own.values())
            self.own[name][content["session_id"]] = self.own[name][session]

    @rule(name=NAMES)
    def close(self, name: str) -> None:
        """Leave; the session is the caller's own."""
        if self._is_out(name):
            return
        status, content = self._call(name, "DELETE", "/session")
        if status == 204:
            assert self.current[name] is not None
            self.current[name] = None
        else:
            assert self._is_refused(name, status, content)


class Below:
    """A proxy's prefix around an application, and its word about the caller."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Take the prefix off."""
        if scope["type"] == "http":
            path = scope["path"].removeprefix("/envs/llm")
            headers = [*scope["headers"], (b"x-forwarded-for", b"203.0.113.7")]
            scope = {**scope, "path": path, "raw_path": path.encode(), "headers": headers}
        await self.app(scope, receive, send)


def _served(app: Any, address: str) -> TestClient:
    return TestClient(app, base_url="http://localhost:7860", client=(address, 50_000))


def _application() -> Any:
    return create_app(
        Settings(
            store_url="sqlite://",
            web=False,
            engine="python",
            max_concurrent_envs=50_000,
            max_sessions_per_address=50_000,
            log_level="error",
        )
    )


class FromTheNetwork(Orders):
    """Callers who have one address of the network, as behind a router."""

    client = _served(_application(), "10.0.0.1")


class BehindAProxy(Orders):
    """Callers behind a proxy on this machine that takes a prefix off."""

    client = _served(Below(_application()), "127.0.0.1")


BOUNDS = settings(max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
FromTheNetwork.TestCase.settings = BOUNDS
BehindAProxy.TestCase.settings = BOUNDS
TestFromTheNetwork = FromTheNetwork.TestCase
TestBehindAProxy = BehindAProxy.TestCase


class OnThisMachine(Orders):
    """Callers on this machine, who may leave out the id of an only session."""

    is_local = True
    client = _served(_application(), "127.0.0.1")


OnThisMachine.TestCase.settings = BOUNDS
TestOnThisMachine = OnThisMachine.TestCase
