"""Clients on broken connections: they retry what is safe, resume, apply no step twice, and give up in time."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_client import (
    AnswerError,
    AtCapacityError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    EpisodeStateError,
    Retries,
    ServerFailureError,
    Timeouts,
    TransportError,
    UnauthorizedError,
    WebSocketUnavailableError,
)
from llmserve_client.testing import LocalServer
from llmserve_sim.env import ServingEnv

ACTION = {"batch_cap": 64}
MISFORTUNES = ("lose_answer", "lose_request", "restart", "refuse_connections")


def reference(steps: int) -> list[str]:
    """The observations that an undisturbed episode has."""
    env = ServingEnv("static_workload", engine="python")
    return [env.reset(7).model_dump_json(), *(env.step(ACTION).model_dump_json() for _ in range(steps))]


@pytest.mark.parametrize("misfortune", MISFORTUNES)
def test_a_step_whose_connection_broke_is_applied_once(env: Any, server: LocalServer, misfortune: str) -> None:
    seen = [env.reset("static_workload", 7)]
    for _ in range(3):
        getattr(server, misfortune)()
        seen.append(env.step(ACTION).observation)
    assert [item.model_dump_json() for item in seen] == reference(3)
    assert env.state().step_count == 3


@pytest.mark.parametrize("misfortune", MISFORTUNES)
@pytest.mark.parametrize("verb", ["state", "tasks", "grade", "episode_log", "resume"])
def test_reads_are_asked_for_again(env: Any, server: LocalServer, verb: str, misfortune: str) -> None:
    env.reset("static_workload", 7)
    before = getattr(env, verb)()
    getattr(server, misfortune)()
    assert getattr(env, verb)() == before


@settings(max_examples=25, deadline=None)
@given(plan=st.lists(st.sampled_from((None, None, *MISFORTUNES)), min_size=1, max_size=12), websocket=st.booleans())
def test_any_run_of_misfortunes_leaves_the_episode_as_it_would_have_been(
    plan: list[str | None], *, websocket: bool
) -> None:
    server = LocalServer(websocket=websocket)
    with server.client() as env:
        seen = [env.reset("static_workload", 7)]
        for misfortune in plan:
            if misfortune is not None:
                getattr(server, misfortune)()
            seen.append(env.step(ACTION).observation)
        assert [item.model_dump_json() for item in seen] == reference(len(plan))
        assert env.grade().verified


def test_a_reset_whose_answer_was_lost_is_not_repeated(env: Any, server: LocalServer) -> None:
    server.lose_answer()
    with pytest.raises(ConnectionLostError):
        env.reset("static_workload", 7)
    assert sum(call in {"POST /reset", "ws reset"} for call in server.calls) == 1
    assert env.reset("static_workload", 7).step_index == 0


@pytest.mark.parametrize("misfortune", ["lose_answer", "stall"])
def test_no_step_meets_the_wrong_episode_after_a_reset_of_unknown_outcome(
    env: Any, server: LocalServer, misfortune: str
) -> None:
    env.reset("static_workload", 7)
    getattr(server, misfortune)()
    with pytest.raises(TransportError):
        env.reset("bursty_workload", 8)
    with pytest.raises(EpisodeStateError, match="reset first"):
        env.step(ACTION)
    assert env.resume().task_id == "bursty_workload"
    assert env.step(ACTION).observation.step_index == 1


def test_a_reset_that_was_not_sent_is_sent(env: Any, server: LocalServer) -> None:
    env.reset("static_workload", 7)
    server.restart()
    server.refuse_connections(2)
    assert env.reset("static_workload", 7).step_index == 0


def test_a_fork_whose_answer_was_lost_is_not_repeated(env: Any, server: LocalServer) -> None:
    env.reset("static_workload", 7)
    server.lose_answer()
    with pytest.raises(ConnectionLostError):
        env.fork()
    assert server.calls.count("POST /fork") == 1


def test_a_run_on_the_owners_key_is_asked_for_once(clients: Any) -> None:
    server = LocalServer(baseline=dict)
    env = clients.of(server)
    server.lose_answer()
    assert env.baseline() == {}
    server.lose_answer()
    with pytest.raises(ConnectionLostError):
        env.baseline(use_openai=True)


def test_a_step_that_took_too_long_may_be_repeated(env: Any, server: LocalServer) -> None:
    env.reset("static_workload", 7)
    server.stall()
    with pytest.raises(DeadlineError) as late:
        env.step(ACTION)
    assert isinstance(late.value, TimeoutError)
    assert env.step(ACTION).observation.model_dump_json() == reference(1)[-1]
    assert env.state().step_count == 1


def test_tries_are_bounded_and_their_pauses_double(clients: Any, server: LocalServer) -> None:
    env = clients.of(server, retries=Retries(attempts=4, pause_s=1.0, pause_max_s=3.0))
    server.refuse_connections(100)
    with pytest.raises(ConnectError) as failed:
        env.reset("static_workload", 7)
    assert isinstance(failed.value, ConnectionError)
    assert server.pauses == [1.0, 2.0, 3.0, 3.0]


def test_a_connection_that_keeps_breaking_is_given_up(env: Any, server: LocalServer) -> None:
    env.reset("static_workload", 7)
    server.lose_request(100)
    with pytest.raises(ConnectionLostError):
        env.step(ACTION)
    assert len(server.pauses) == Retries().attempts


@pytest.mark.parametrize("verb", ["reset", "tasks"])
def test_an_address_where_nothing_ever_answered_is_given_up_sooner(env: Any, server: LocalServer, verb: str) -> None:
    server.refuse_connections(100)
    with pytest.raises(ConnectError):
        getattr(env, verb)()
    assert len(server.pauses) == Retries().first_attempts


@pytest.mark.parametrize("verb", ["state", "tasks"])
def test_a_server_that_was_met_is_waited_for(env: Any, server: LocalServer, verb: str) -> None:
    env.reset("static_workload", 7)
    server.restart()
    server.refuse_connections(Retries().attempts - 1)
    getattr(env, verb)()
    patience = list(Retries().pauses())
    assert server.pauses in (patience, patience[:-1])  # a socket has one more to lose: the connection it had


def test_a_fork_has_met_its_server(server: LocalServer) -> None:
    with server.client() as env:
        env.reset("static_workload", 7)
        with env.fork() as fork:
            server.restart()
            server.refuse_connections(Retries().attempts - 1)
            assert fork.step(ACTION).observation.step_index == 1


def test_no_retries_means_none(clients: Any, server: LocalServer) -> None:
    env = clients.of(server, retries=Retries(attempts=0))
    env.reset("static_workload", 7)
    server.lose_answer()
    with pytest.raises(TransportError):
        env.step(ACTION)
    assert server.pauses == []


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_without_its_server_is_asked_again(server: LocalServer, status: int) -> None:
    with server.client(transport="http") as env:
        env.reset("static_workload", 7)
        server.fail(status, times=2)
        assert env.step(ACTION).observation.step_index == 1
        server.fail(status, times=100)
        with pytest.raises(ServerFailureError) as failed:
            env.state()
        assert failed.value.status == status


def test_a_broken_server_is_not_asked_again(server: LocalServer) -> None:
    with server.client(transport="http") as env:
        server.fail(500)
        with pytest.raises(ServerFailureError):
            env.reset("static_workload", 7)
        assert server.pauses == []


def test_a_cancelled_step_may_be_repeated(server: LocalServer) -> None:
    async def play() -> str:
        env = server.async_client(sleep=asyncio.sleep, retries=Retries(attempts=5, pause_s=30.0, pause_max_s=30.0))
        async with env:
            await env.reset("static_workload", 7)
            server.lose_answer()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(env.step(ACTION), 0.05)
            return (await env.step(ACTION)).observation.model_dump_json()

    assert asyncio.run(play()) == reference(1)[-1]


class _Interrupting:
    """A transport's socket in which Ctrl-C is pressed while an answer is on its way."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.pressed = False

    def send(self, text: str) -> None:
        self._socket.send(text)

    def receive(self, timeout_s: float) -> str:
        if self.pressed:
            self.pressed = False
            raise KeyboardInterrupt
        return str(self._socket.receive(timeout_s))

    def close(self) -> None:
        self._socket.close()


def test_an_answer_that_comes_after_ctrl_c_meets_no_other_question(server: LocalServer) -> None:
    sockets: list[_Interrupting] = []

    def dial(*arguments: Any) -> _Interrupting:
        sockets.append(_Interrupting(server.dial(*arguments)))
        return sockets[-1]

    with server.client(dial=dial) as env:
        env.reset("static_workload", 7)
        sockets[0].pressed = True
        with pytest.raises(KeyboardInterrupt):
            env.step(ACTION)
        assert env.step(ACTION).observation.model_dump_json() == reference(1)[-1]
        assert len(sockets) == 2


def test_auto_takes_the_websocket_where_it_is_offered_and_says_so(server: LocalServer) -> None:
    with server.client(transport="auto") as env:
        assert env.transport is None
        env.reset("static_workload", 7)
        assert env.transport == "websocket"
        assert "over websocket" in repr(env)


def test_auto_takes_http_where_no_websocket_is_offered_and_asks_once() -> None:
    server = LocalServer(websocket=False)
    with server.client(transport="auto") as env:
        env.reset("static_workload", 7)
        env.step(ACTION)
        assert env.transport == "http"
        assert server.calls.count("GET /ws") == 1


def test_auto_does_not_hide_a_server_that_is_down_or_wants_a_token() -> None:
    server = LocalServer(token="sesame")  # noqa: S106 - a test's own
    with server.client(token=None) as env, pytest.raises(UnauthorizedError):
        env.reset()
    server.refuse_connections(100)
    with server.client() as env, pytest.raises(ConnectError):
        env.reset()


def test_websocket_where_none_is_offered_is_an_error() -> None:
    with LocalServer(websocket=False).client(transport="websocket") as env:
        with pytest.raises(WebSocketUnavailableError) as refused:
            env.reset()
        assert refused.value.status == 404


@pytest.mark.parametrize(
    "body", ["<html>", "[]", '{"observation": {}}', '{"observation": {"queue_depth": -1}}', "\xff"]
)
def test_an_answer_of_another_service_is_named_as_such(body: str) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, text=body))
    with LocalServer().client(transport="http", http_transport=transport) as env, pytest.raises(AnswerError):
        env.reset()


def test_a_moved_server_names_its_new_address() -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(301, headers={"Location": "https://there/"}))
    with (
        LocalServer().client(transport="http", http_transport=transport) as env,
        pytest.raises(AnswerError, match="https://there/"),
    ):
        env.tasks()


def test_a_reset_waits_for_a_place_as_long_as_the_server_says_and_gets_it(clients: Any) -> None:
    server = LocalServer(capacity=1)
    first = clients.of(server, transport="http")
    first.reset("static_workload", 7)

    def sleep(seconds: float) -> None:
        server.pauses.append(seconds)
        if len(server.pauses) == 3:
            server.sessions.release(first.session_id)

    async def sleep_async(seconds: float) -> None:
        sleep(seconds)

    env = clients.of(server, sleep=sleep if clients.colour == "sync" else sleep_async)
    assert env.reset("static_workload", 7).step_index == 0
    assert server.pauses == [5.0, 5.0, 5.0]


def test_the_wait_for_a_place_is_bounded_by_the_answers_timeout_and_can_be_turned_off(clients: Any) -> None:
    server = LocalServer(capacity=1)
    clients.of(server).reset("static_workload", 7)
    for options, pauses in (
        ({"timeouts": Timeouts(answer_s=12.0)}, [5.0, 5.0]),
        ({"retries": Retries(wait_for_place=False)}, []),
    ):
        server.pauses.clear()
        with pytest.raises(AtCapacityError) as full:
            clients.of(server, **options).reset("static_workload", 7)
        assert full.value.retry_after_s == 5.0
        assert server.pauses == pauses


@pytest.mark.parametrize("verb", ["step", "resume", "fork"])
def test_other_calls_that_need_a_place_wait_for_it_too(server: LocalServer, verb: str) -> None:
    server = LocalServer(capacity=1)
    with server.client(transport="http") as env, server.client(transport="http") as other:
        env.reset("static_workload", 7)
        if verb != "fork":
            server.sessions.release(env.session_id)
            other.reset("static_workload", 8)
        with pytest.raises(AtCapacityError):
            getattr(env, verb)(*([{}] if verb == "step" else []))
        assert sum(server.pauses) == Timeouts().answer_s


def test_seventy_short_visits_over_http_leave_no_place_taken(clients: Any) -> None:
    server = LocalServer(capacity=3)
    for _ in range(70):
        env = clients.of(server, transport="http")
        env.reset("static_workload", 7)
        env.fork().close()
        env.close()
    assert server.pauses == []


def test_a_closed_session_can_be_resumed_by_its_id(clients: Any) -> None:
    server = LocalServer(capacity=1)
    env = clients.of(server, transport="http")
    env.reset("static_workload", 7)
    env.step(ACTION)
    env.close()
    again = clients.of(server, transport="http")
    assert again.resume(env.session_id).step_index == 1
    assert again.step(ACTION).observation.model_dump_json() == reference(2)[-1]


def test_closing_frees_only_sessions_that_this_client_began_over_http(clients: Any, server: LocalServer) -> None:
    owner = clients.of(server)
    owner.reset("static_workload", 7)
    guest = clients.of(server, transport="http")
    guest.resume(owner.session_id)
    guest.close()
    assert "DELETE /session" not in server.calls
    owner.close()
    owner.close()
    assert server.calls.count("DELETE /session") == (1 if clients.transport == "http" else 0)


@pytest.mark.parametrize("status", [401, 404, 405, 500, 503])
def test_a_server_that_knows_no_closing_of_sessions_is_left_all_the_same(clients: Any, status: int) -> None:
    server = LocalServer()
    env = clients.of(server, transport="http")
    env.reset("static_workload", 7)
    server.fail(status)
    env.close()
    assert env.closed
    assert server.calls.count("DELETE /session") == 1
    assert server.pauses == []


@pytest.mark.parametrize("misfortune", MISFORTUNES)
def test_closing_after_the_server_has_gone_raises_nothing(clients: Any, misfortune: str) -> None:
    server = LocalServer()
    env = clients.of(server)
    env.reset("static_workload", 7)
    getattr(server, misfortune)()
    env.close()
    assert env.closed
    assert server.pauses == []
