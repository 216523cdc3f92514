"""Nobody reaches a session that they cannot name, and every session has an id that the server made."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llmserve_server.routes.episodes import COOKIE, HEADER

Serve = Callable[..., TestClient]
NAMELESS: list[tuple[str, str, Any]] = [
    ("GET", "/state", None),
    ("GET", "/log", None),
    ("POST", "/step", {"action": {}}),
    ("POST", "/fork", {}),
    ("POST", "/grader", {}),
    ("DELETE", "/session", None),
]
PROXIED = [{"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}, {"X-Real-IP": "::1"}, {"Via": "1.1 me"}]


def _code(response: Any) -> str:
    return str(response.json()["error"]["code"])


@pytest.mark.parametrize("way", ["another address", *range(len(PROXIED))])
def test_a_call_of_the_network_without_an_id_reaches_no_session(serve: Serve, way: str | int) -> None:
    client = serve(address="10.0.0.1" if isinstance(way, str) else "127.0.0.1")
    client.headers.update({} if isinstance(way, str) else PROXIED[way])
    assert client.get("/state").json() == {"episode_id": None, "step_count": 0}
    assert _code(client.post("/step", json={"action": {}})) == "not_reset"
    session_id = client.post("/reset", json={"seed": 1}).json()["session_id"]
    client.cookies.clear()
    for method, path, body in NAMELESS:
        answer = client.request(method, path, json=body)
        assert (answer.status_code, _code(answer)) == (409, "ambiguous_session"), path
        assert "session_id" in answer.json()["error"]["message"]
        assert session_id not in answer.text + repr(answer.headers)
    assert client.post("/reset", json={"seed": 2}).json()["session_id"] != session_id
    named = client.get("/state", headers={HEADER: session_id}).json()
    assert (named["step_count"], named["seed"]) == (0, 1)


@pytest.mark.parametrize("is_stepped", [False, True])
def test_on_this_machine_two_callers_without_ids_must_name_their_sessions(serve: Serve, is_stepped: bool) -> None:
    client = serve()
    first = client.post("/reset", json={"seed": 1}).json()["session_id"]
    client.cookies.clear()
    assert client.get("/state").json()["session_id"] == first
    client.post("/reset", json={"seed": 2})
    client.cookies.clear()
    if is_stepped:
        client.post("/step", json={"action": {}, "session_id": first})
    for method, path, body in NAMELESS:
        answer = client.request(method, path, json=body)
        assert (answer.status_code, _code(answer)) == (409, "ambiguous_session"), path
    client.delete("/session", params={"session_id": first})
    assert client.get("/state").json()["seed"] == 2


def test_of_many_threads_without_ids_none_steps_anothers_session(serve: Serve) -> None:
    client, barrier = serve(), Barrier(8)

    def play(number: int) -> list[tuple[int, str]]:
        barrier.wait()
        own = client.post("/reset", json={"seed": number}, headers={"Cookie": ""}).json()["session_id"]
        answers = [client.post("/step", json={"action": {}}, headers={"Cookie": ""}) for _ in range(5)]
        return [(answer.status_code, answer.json().get("session_id", own)) for answer in answers if own]

    client.cookies.clear()
    with ThreadPoolExecutor(8) as threads:
        plays = list(threads.map(play, range(8)))
    for index, answers in enumerate(plays):
        state = {session for status, session in answers if status == 200}
        assert len(state) <= 1, index
        assert {status for status, _ in answers} <= {200, 409}


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("chosen", ["nobody", "A" * 32, "a" * 200, "not/one"])
def test_an_id_that_a_caller_made_up_is_never_adopted(serve: Serve, chosen: str, is_resumed: bool) -> None:
    client = serve()
    body = {"resume": True} if is_resumed else {"seed": 1}
    for told in (
        client.post("/reset", json=body | {"session_id": chosen}),
        client.post("/reset", json=body, headers={HEADER: chosen}),
    ):
        assert (told.status_code, _code(told)) == (404, "unknown_session")
    answer = client.post("/reset", json=body, headers={"Cookie": f"{COOKIE}={chosen}"})
    if is_resumed:
        assert (answer.status_code, _code(answer)) == (404, "unknown_session")
    else:
        assert answer.json()["session_id"] not in {chosen, None}
        assert answer.cookies[COOKIE] == answer.json()["session_id"]
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "reset", "data": body | {"session_id": chosen}})
        assert socket.receive_json()["data"]["error"]["code"] == "unknown_session"
    for path in ("/state", "/log"):
        assert client.get(path, params={"session_id": chosen}).status_code == 404


def test_a_planted_cookie_does_not_show_its_planter_what_follows(serve: Serve) -> None:
    client = serve()
    planted = client.post("/reset", json={"seed": 1}).json()["session_id"]
    client.cookies.clear()
    victim = client.post("/reset", json={"seed": 2}, headers={"Cookie": f"{COOKIE}={planted}"})
    assert victim.json()["session_id"] != planted
    assert victim.cookies[COOKIE] == victim.json()["session_id"]
    assert client.get("/state", params={"session_id": planted}).json()["seed"] == 1


def test_ten_thousand_guesses_find_nothing(serve: Serve) -> None:
    client = serve(address="10.0.0.1")
    session_id = client.post("/reset", json={"seed": 1}).json()["session_id"]
    client.cookies.clear()
    registry = client.app.state.registry  # type: ignore[attr-defined]
    near = [session_id[:-1] + letter for letter in "abcdefgh" if letter != session_id[-1]]
    for guess in (*near, session_id[1:], session_id.swapcase(), f"{session_id}a", f" {session_id}"):
        assert client.get("/state", params={"session_id": guess}).status_code == 404
    made = {registry._new_id() for _ in range(10_000)}
    assert len(made) == 10_000
    assert session_id not in made
    assert min(map(len, made)) == 32
