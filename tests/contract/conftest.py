"""A really running server, and every way to it: the contract is what all of them agree on.

A `Way` plays one session and knows nothing of the others. The raw ones use no code of ours but the schema, so that the
server cannot hide behind its own client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade
from llmserve_sim.schema import ServeAction, ServeObservation

pytest.importorskip("llmserve_server", reason="the contract is tried on the server: install llmserve-server")
pytest.importorskip("openenv", reason="OpenEnv's own clients take part: install openenv")

from llmserve_client import AsyncLLMServeEnv, LLMServeEnv

_START_S: Final = 300.0
"""A first start compiles the simulator's kernel; generous, since nothing here is timed."""


class Server:
    """A server process on a port of its own, over a store of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        self._environment = os.environ | {
            "LLMSERVE_STORE_URL": f"sqlite:///{folder / 'episodes.db'}",
            "LLMSERVE_MAX_CONCURRENT_ENVS": "512",
            "LLMSERVE_WEB": "false",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is healthy."""
        command = [sys.executable, "-m", "llmserve_server", "--host", "127.0.0.1", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):  # noqa: S310
                return
            time.sleep(0.1)
        self.kill()
        pytest.fail(f"the server did not start:\n{self._log.read_text()[-3000:]}")

    def stop(self) -> int:
        """Ask it to stop, as a container does; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=30)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share; it must leave as asked when they are through."""
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start further servers, with other settings."""
    started: list[Server] = []

    def start(**settings: str) -> Server:
        running = Server(tmp_path_factory.mktemp("server"), **settings)
        started.append(running)
        running.start()
        return running

    yield start
    for running in started:
        running.kill()


class Refused(Exception):  # noqa: N818 - not an error of the test
    """What a raw way was told: `error` as it stood in the answer."""

    def __init__(self, status: int | None, error: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = dict(error)
        self.body = body


def ask(url: str, path: str, body: object = None, *, session: str | None = None, method: str | None = None) -> Any:
    """Ask over HTTP with nothing but the standard library; raises `Refused`."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({} if session is None else {"X-Session-Id": session})
    request = urllib.request.Request(url + path, data, headers, method=method)  # noqa: S310 - to this machine
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - as above
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            content = json.load(error)
        raise Refused(error.code, content["error"], content) from None


def rebuilt(content: Mapping[str, Any]) -> ServeObservation:
    """Put reward and done back into the observation, where OpenEnv takes them out."""
    beside = {name: content[name] for name in ("reward", "done")}
    return ServeObservation.model_validate({**beside, **content["observation"]})


class Way:
    """One way to play an episode."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.open()

    def open(self) -> None:
        """Connect, where that is a step of its own."""

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        """Start an episode."""
        raise NotImplementedError

    def step(self, action: ServeAction) -> ServeObservation:
        """Run a window."""
        raise NotImplementedError

    def session_id(self) -> str:
        """The session's id, as the server told this way."""
        raise NotImplementedError

    def report(self) -> Any:
        """The episode's grade."""
        return ask(self.url, "/grader", session=self.session_id(), method="POST")

    def close(self) -> None:
        """Leave."""


class InProcess(Way):
    """No server at all."""

    def open(self) -> None:
        self._env = ServingEnv()

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        return self._env.reset(seed, task_id)

    def step(self, action: ServeAction) -> ServeObservation:
        return self._env.step(action)

    def report(self) -> Any:
        return grade(self._env.episode_log()).model_dump(mode="json")


class RawHttp(Way):
    """The standard library's HTTP."""

    _session = ""

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        return self._seen(ask(self.url, "/reset", {"task_id": task_id, "seed": seed}))

    def step(self, action: ServeAction) -> ServeObservation:
        return self._seen(ask(self.url, "/step", {"session_id": self._session, "action": action.model_dump()}))

    def session_id(self) -> str:
        return self._session

    def _seen(self, reply: Mapping[str, Any]) -> ServeObservation:
        assert reply.keys() == {"session_id", "observation", "reward", "done", "metadata"}
        self._session = reply["session_id"]
        seen = ServeObservation.model_validate(reply["observation"])
        assert (reply["reward"], reply["done"], reply["metadata"]) == (seen.reward, seen.done, seen.metadata)
        return seen


class RawSocket(Way):
    """The websockets library and OpenEnv's messages."""

    def open(self) -> None:
        from websockets.sync.client import connect

        self._opening = connect(self.url.replace("http", "ws", 1) + "/ws", proxy=None)
        self._socket = self._opening.__enter__()

    def say(self, kind: str, data: object = None) -> Any:
        """Send a message; return its answer's data, or raise `Refused`."""
        self._socket.send(json.dumps({"type": kind} | ({} if data is None else {"data": data})))
        answer = json.loads(self._socket.recv(timeout=60))
        if answer["type"] == "error":
            raise Refused(None, answer["data"]["error"], answer["data"])
        return answer["data"]

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        return rebuilt(self.say("reset", {"task_id": task_id, "seed": seed}))

    def step(self, action: ServeAction) -> ServeObservation:
        return rebuilt(self.say("step", action.model_dump()))

    def session_id(self) -> str:
        return str(self.say("state")["session_id"])

    def close(self) -> None:
        self._opening.__exit__(None, None, None)


class OpenEnvGeneric(Way):
    """OpenEnv's `GenericEnvClient`, from synchronous code."""

    def open(self) -> None:
        from openenv.core import GenericEnvClient

        self._env = GenericEnvClient(base_url=self.url).sync()
        self._env.connect()

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        return self._seen(self._env.reset(task_id=task_id, seed=seed))

    def step(self, action: ServeAction) -> ServeObservation:
        return self._seen(self._env.step(action.model_dump()))

    def session_id(self) -> str:
        return str(self._env.state()["session_id"])

    def close(self) -> None:
        self._env.close()

    def _seen(self, result: Any) -> ServeObservation:
        return rebuilt({"observation": result.observation, "reward": result.reward, "done": result.done})


class OpenEnvAsync(OpenEnvGeneric):
    """OpenEnv's `EnvClient`, awaited."""

    def open(self) -> None:
        from openenv.core import GenericEnvClient

        self._runner = asyncio.Runner()
        self._client = GenericEnvClient(base_url=self.url)
        self._wait(self._client.connect)

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        return self._seen(self._wait(lambda: self._client.reset(task_id=task_id, seed=seed)))

    def step(self, action: ServeAction) -> ServeObservation:
        return self._seen(self._wait(lambda: self._client.step(action.model_dump())))

    def session_id(self) -> str:
        return str(self._wait(self._client.state)["session_id"])

    def close(self) -> None:
        self._wait(self._client.close)
        self._runner.close()

    def _wait(self, call: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return await call()  # called inside, since OpenEnv looks whether a loop is running

        return self._runner.run(run())


class OpenEnvTyped(OpenEnvGeneric):
    """Our typed subclass of OpenEnv's `EnvClient`."""

    def open(self) -> None:
        from llmserve_client.openenv import OpenEnvClient

        self._env = OpenEnvClient(base_url=self.url).sync()
        self._env.connect()

    def step(self, action: ServeAction) -> ServeObservation:
        return self._seen(self._env.step(action))

    def report(self) -> Any:
        # The typed state has the simulator's fields only, and the episode's own name finds its grade as well.
        return ask(self.url, "/grader", {"episode_id": self._env.state().episode_id})

    def _seen(self, result: Any) -> ServeObservation:
        seen: ServeObservation = result.observation
        assert (result.reward, result.done) == (seen.reward, seen.done)
        return seen


class Sync(Way):
    """Our client, synchronous."""

    transport = "http"

    def open(self) -> None:
        self.env: Any = LLMServeEnv.from_url(self.url, transport=self.transport)

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        seen: ServeObservation = self.env.reset(task_id, seed)
        assert self.env.transport == self.transport
        return seen

    def step(self, action: ServeAction) -> ServeObservation:
        seen: ServeObservation = self.env.step(action).observation
        return seen

    def session_id(self) -> str:
        return str(self.env.session_id)

    def report(self) -> Any:
        return self.env.grade().model_dump(mode="json")

    def close(self) -> None:
        self.env.close()


class SyncSocket(Sync):
    """The same over a WebSocket."""

    transport = "websocket"


class Async(Way):
    """Our client, awaited."""

    transport = "http"

    def open(self) -> None:
        self._runner = asyncio.Runner()
        self._env = AsyncLLMServeEnv.from_url(self.url, transport=self.transport)

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        return self._runner.run(self._env.reset(task_id, seed))

    def step(self, action: ServeAction) -> ServeObservation:
        return self._runner.run(self._env.step(action)).observation

    def session_id(self) -> str:
        return str(self._env.session_id)

    def report(self) -> Any:
        return self._runner.run(self._env.grade()).model_dump(mode="json")

    def close(self) -> None:
        self._runner.run(self._env.close())
        self._runner.close()


class AsyncSocket(Async):
    """The same over a WebSocket."""

    transport = "websocket"


class Gym(Sync):
    """The Gymnasium wrapper: what it encodes is held against the simulator's own encoding."""

    transport = "websocket"

    def reset(self, task_id: str, seed: int) -> ServeObservation:
        from llmserve_client.gym import RemoteLLMServeEnv

        self._gym = RemoteLLMServeEnv(self.env, task_id, observation="extended", action="dict")
        return self._encoded(self._gym.reset(seed=seed)[0])

    def step(self, action: ServeAction) -> ServeObservation:
        from llmserve_sim.schema import ACTION_FIELDS

        plain = action.model_dump()
        choices = {
            name: row.choices or (False, True) for name, row in ACTION_FIELDS.items() if row.kind in {"enum", "bool"}
        }
        encoded, reward, terminated, truncated, info = self._gym.step(
            {name: choices[name].index(value) if name in choices else value for name, value in plain.items()}
        )
        seen = self._encoded(encoded)
        assert (reward, terminated, truncated) == (seen.reward, False, seen.done)
        assert info["reward_terms"] == seen.metadata["reward_terms"]
        return seen

    def _encoded(self, encoded: Any) -> ServeObservation:
        import numpy as np

        from llmserve_sim.observation import vector

        seen: ServeObservation = self.env.observation
        assert encoded.tobytes() == np.array(vector(seen, "extended"), dtype=np.float32).tobytes()
        return seen


REMOTE: Final[dict[str, type[Way]]] = {
    "raw HTTP": RawHttp,
    "raw WebSocket": RawSocket,
    "OpenEnv GenericEnvClient": OpenEnvGeneric,
    "OpenEnv EnvClient, awaited": OpenEnvAsync,
    "our OpenEnv client": OpenEnvTyped,
    "our client over HTTP": Sync,
    "our client over WebSocket": SyncSocket,
    "our async client over HTTP": Async,
    "our async client over WebSocket": AsyncSocket,
    "our Gymnasium wrapper": Gym,
}


@pytest.fixture(params=REMOTE)
def way(request: pytest.FixtureRequest, server: Server) -> Iterator[Way]:
    """Each way to the shared server in turn."""
    made = REMOTE[request.param](server.url)
    yield made
    made.close()


@pytest.fixture
def raw_socket(server: Server) -> Iterator[RawSocket]:
    """A WebSocket with no client around it."""
    made = RawSocket(server.url)
    yield made
    made.close()


@pytest.fixture(params=["http", "websocket"])
def env(request: pytest.FixtureRequest, server: Server) -> Iterator[LLMServeEnv]:
    """Our client over either transport."""
    with LLMServeEnv.from_url(server.url + "/", transport=request.param) as client:
        yield client


@pytest.fixture(name="ask", scope="session")
def ask_fixture() -> Callable[..., Any]:
    """Plain HTTP."""
    return ask


@pytest.fixture(name="refused", scope="session")
def refused_fixture() -> type[Refused]:
    """What plain HTTP and a plain socket raise."""
    return Refused


@pytest.fixture(scope="module")
def port() -> int:
    """A port where nobody listens yet."""
    return free_port()
