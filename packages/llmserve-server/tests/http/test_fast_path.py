"""A plain step on a socket takes the short way, and nobody can tell from the answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession

from llmserve_server import fast_path
from llmserve_server.errors import EpisodeState
from llmserve_server.fast_path import FastPath
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ServeAction, ServeObservation

SHORT, LONG = '{"type": "step", "data": %s}', ' {"type": "step", "data": %s}'
"""The same message; the second begins with a blank, which the short way does not know."""
STEPS = [
    {"batch_cap": 64, "quantization_tier": "INT8"},
    {},
    {"speculation_depth": 3, "metadata": {"step_index": 2}},
    {"speculation_depth": 3, "metadata": {"step_index": 2}},  # repeated
    {"batch_cap": 4096},
    {"batch_cap": 8, "metadata": {"step_index": 9}},
    {"batch_cap": 8, "metadata": {"note": "hello"}},
    {"batch_cap": 8, "metadata": None},
    {"surprise": 1},
    {"prefill_decode_split": True},
]


class Walker:
    """An environment that counts who comes this way."""

    def __init__(self) -> None:
        self.env = ServingEnv(engine="python")
        self.env.reset(3)
        self.steps: list[tuple[ServeAction, int | None]] = []

    async def step_now(self, action: ServeAction, step_index: int | None) -> ServeObservation | None:
        """Step."""
        self.steps.append((action, step_index))
        return self.env.step(action)

    async def bring_back(self) -> None:
        """Load nothing."""

    def close(self) -> None:
        """Hold nothing."""


def _warm(serve: Callable[..., TestClient]) -> TestClient:
    """A server whose simulator is compiled, so that steps are short."""
    client = serve(engine="numba")
    app: Any = client.app
    for _ in range(3000):
        if app.state.dispatcher.inline_steps:
            return client
        time.sleep(0.1)
    raise AssertionError("the simulator was not compiled in five minutes")


def _answers(socket: WebSocketTestSession, form: str) -> list[str]:
    socket.send_json({"type": "reset", "data": {"task_id": "static_workload", "seed": 3, "episode_id": "one"}})
    texts = [socket.receive_text()]
    for step in STEPS:
        socket.send_text(form % json.dumps(step))
        texts.append(socket.receive_text())
    return texts


def test_both_ways_give_the_same_bytes_refusals_included(serve: Callable[..., TestClient]) -> None:
    client = _warm(serve)
    with client.websocket_connect("/ws") as one, client.websocket_connect("/ws") as other:
        assert _answers(one, SHORT) == _answers(other, LONG)


def test_the_usual_spellings_take_the_short_way(
    serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, taken = _warm(serve), []
    frame = fast_path._frame
    monkeypatch.setattr(fast_path, "_frame", lambda observation: taken.append(1) or frame(observation))
    with client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "reset", "data": {"seed": 3}})
        socket.receive_json()
        for text in (SHORT % "{}", '{"type":"step","data":{"batch_cap":8}}'):
            socket.send_text(text)
            assert socket.receive_json()["type"] == "observation"
    assert len(taken) == 2


@pytest.mark.anyio
async def test_what_is_unusual_or_refused_is_left_to_openenvs_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    path, walker = FastPath(), Walker()
    assert await path.answer(SHORT % "{}") is None, "no episode yet"
    path.environment = walker
    for text in (
        LONG % "{}",
        SHORT % "[]",
        SHORT % '{"batch_cap": 0}',
        SHORT % '{"metadata": 5}',
        SHORT % '{"metadata": {"step_index": -1}}',
        SHORT % '{"metadata": {"step_index": true}}',
        '{"type": "step"}',
        '{"type": "step", "data": {}, "more": 1}',
        '{"type": "step", "type": "state", "data": {}}',
        '{"type": "step", "data": {}',
        '{"type": "state"}',
    ):
        assert await path.answer(text) is None, text
    assert walker.steps == []

    async def refuse(*_: Any) -> None:
        raise EpisodeState("the episode ended")

    monkeypatch.setattr(walker, "step_now", refuse)
    assert await path.answer(SHORT % "{}") is None


@pytest.mark.anyio
async def test_now_and_then_openenvs_handler_hears_of_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the socket for idle otherwise."""
    now = 1000.0
    monkeypatch.setattr(fast_path, "monotonic", lambda: now)
    path = FastPath()
    path.environment = Walker()
    assert await path.answer(SHORT % "{}") is not None
    now += 25.0
    assert await path.answer(SHORT % "{}") is None
    assert await path.answer(SHORT % "{}") is not None


@pytest.fixture
def anyio_backend() -> str:
    """The server runs on asyncio."""
    return "asyncio"
