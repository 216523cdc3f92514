"""A client in a forked process connects for itself; copies and pickles of a client are refused."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle
import pytest
from websockets.sync.server import ServerConnection, serve

from llmserve_client import AsyncLLMServeEnv, LLMServeEnv, Retries, Timeouts
from llmserve_client.testing import LocalServer

COPIERS: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickle.dumps, cloudpickle.dumps]
LIMITS: dict[str, Any] = {"timeouts": Timeouts(answer_s=20.0), "retries": Retries(attempts=1)}


class _Contract:
    """A WebSocket server with the sessions of a `LocalServer`, and a count of its connections."""

    def __init__(self) -> None:
        self.local = LocalServer()
        self.connections = 0

    def __call__(self, connection: ServerConnection) -> None:
        self.connections += 1
        socket = self.local.dial(*_ANYWHERE)
        for text in connection:
            socket.send(str(text))
            connection.send(socket.receive(1.0))

    @contextmanager
    def serving(self) -> Iterator[str]:
        with serve(self, "127.0.0.1", 0) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
            server.shutdown()
            thread.join()


_ANYWHERE: Any = (LLMServeEnv("http://h")._endpoint, {}, 1.0)


def _step_in_child(env: LLMServeEnv, answer: Any) -> None:
    answer.send(env.step({"batch_cap": 64}).observation.step_index)
    env.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore::ResourceWarning")
def test_a_websocket_client_used_by_its_parent_works_in_a_forked_child_and_the_parent_goes_on() -> None:
    contract = _Contract()
    context = multiprocessing.get_context("fork")
    with contract.serving() as url, LLMServeEnv(url, transport="websocket", **LIMITS) as env:
        env.reset("static_workload", 7)
        env.step({})
        here, there = context.Pipe()
        child = context.Process(target=_step_in_child, args=(env, there))
        child.start()
        assert here.poll(30)
        assert here.recv() == 2
        child.join(30)
        assert child.exitcode == 0
        assert env.state().step_count == 2  # the parent's connection is whole, and is still the first one
        assert contract.connections == 2
        assert env.resume().step_index == 2
        assert env.step({}).observation.step_index == 3


def _step_locked(env: LLMServeEnv) -> None:
    env.step({})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_a_child_forked_during_another_threads_call_does_not_wait_for_that_thread(transport: Any) -> None:
    env = LocalServer().client(transport=transport)
    env.reset("static_workload", 7)
    with env._lock:  # as another thread of the parent would hold it
        child = multiprocessing.get_context("fork").Process(target=_step_locked, args=(env,))
        child.start()
    child.join(30)
    assert child.exitcode == 0
    env.close()


@pytest.mark.parametrize("copier", COPIERS)
@pytest.mark.parametrize("kind", [LLMServeEnv, AsyncLLMServeEnv])
def test_a_client_refuses_to_be_copied_and_says_what_to_do_instead(kind: Any, copier: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"holds a connection: make another client and resume\(session_id\)"):
        copier(kind("http://h"))


@pytest.mark.parametrize("copier", COPIERS)
def test_a_remote_gymnasium_environment_refuses_to_be_copied_as_its_client_does(copier: Callable[[Any], Any]) -> None:
    pytest.importorskip("gymnasium")
    from llmserve_client.gym import RemoteLLMServeEnv

    with pytest.raises(TypeError, match="holds a connection"):
        copier(RemoteLLMServeEnv("http://h"))


def test_a_copied_local_server_goes_on_by_itself() -> None:
    server = LocalServer()
    env = server.client(transport="http")
    env.reset("static_workload", 7)
    twin = copy.deepcopy(server).client(transport="http")
    assert twin.resume(env.session_id).step_index == 0
    assert twin.step({}).observation == env.step({}).observation
    twin.step({})
    assert env.state().step_count == 1
