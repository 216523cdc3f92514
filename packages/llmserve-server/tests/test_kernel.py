"""Until the kernel is compiled, episodes run in plain Python with the same bytes, and nobody waits for the compiler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llmserve_server.app import create_app
from llmserve_server.backends import SimulatedBackend
from llmserve_server.backends.kernel import Kernel
from llmserve_server.settings import Settings
from llmserve_sim.engine.kernel import compiled
from llmserve_sim.env import ServingEnv

pytestmark = pytest.mark.skipif(not compiled.available(), reason="needs numba (extra fast)")
ACTIONS: list[dict[str, Any]] = [
    {"batch_cap": 64, "speculation_depth": 2},
    {"batch_cap": 256, "quantization_tier": "INT8", "priority_routing": True},
    {"kv_budget_fraction": 0.6, "prefill_decode_split": True},
    {},
]


class Compiler:
    """A compiler that is done when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self.done = threading.Event(), threading.Event()
        monkeypatch.setattr(compiled, "is_loaded", lambda: False)
        monkeypatch.setattr(compiled, "is_cached", lambda: False)
        monkeypatch.setattr(Kernel, "_compile_elsewhere", lambda _: self._compile())

    def _compile(self) -> None:
        self.started.set()
        assert self.done.wait(60)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """A new machine: the kernel is not compiled yet."""
    return Compiler(monkeypatch)


def _soon(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def _settings() -> Settings:
    return Settings(store_url="sqlite://", web=False)


def test_an_episode_goes_on_with_the_same_bytes_when_the_kernel_is_ready(compiler: Compiler) -> None:
    kernel = Kernel()
    threading.Thread(target=kernel.settled, daemon=True).start()
    assert compiler.started.wait(60)
    backend, env = SimulatedBackend(kernel), ServingEnv("bursty_workload", engine="reference")
    assert backend.reset("bursty_workload", 7, "mine") == env.reset(7)
    for action in ACTIONS:
        assert backend.step(action).model_dump_json() == env.step(action).model_dump_json()
    assert (kernel.engine, kernel.is_fast) == ("python", False)
    fork = backend.fork()
    compiler.done.set()
    assert kernel.settled() == "auto"
    for action in ACTIONS:
        expected = env.step(action).model_dump_json()
        assert backend.step(action).model_dump_json() == expected
        assert fork.step(action).model_dump_json() == expected
    assert backend._running().engine == fork._running().engine == "auto"
    assert backend.log().steps == env.episode_log().steps


def test_a_refused_reset_leaves_an_episode_that_still_changes_over(compiler: Compiler) -> None:
    kernel = Kernel()
    backend = SimulatedBackend(kernel)
    backend.reset("static_workload", 7, "mine")
    compiler.done.set()
    kernel.settled()
    with pytest.raises(Exception, match="seed"):
        backend.reset("static_workload", -1, "other")
    backend.step({})
    assert backend._running().engine == "auto"


def test_a_socket_steps_while_the_kernel_compiles_and_in_the_event_loop_afterwards(compiler: Compiler) -> None:
    app: Any = create_app(_settings())
    with TestClient(app) as client, client.websocket_connect("/ws") as socket:
        assert compiler.started.wait(60)
        env = ServingEnv("static_workload")
        socket.send_json({"type": "reset", "data": {"seed": 7}})
        first = env.reset(7).model_dump(mode="json")
        assert socket.receive_json()["data"]["observation"] == _inside(first)
        for action in ACTIONS * 2:
            socket.send_json({"type": "step", "data": action})
            answer = socket.receive_json()["data"]
            truth = env.step(action).model_dump(mode="json")
            assert (answer["observation"], answer["reward"]) == (_inside(truth), truth["reward"])
            if env.state().step_count == len(ACTIONS):
                assert not app.state.dispatcher.inline_steps
                compiler.done.set()
                assert _soon(lambda: app.state.dispatcher.inline_steps)


def _inside(observation: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in observation.items() if name not in {"reward", "done"}}


def test_closing_stops_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "is_loaded", lambda: False)
    monkeypatch.setattr(compiled, "is_cached", lambda: False)
    monkeypatch.setattr("llmserve_server.backends.kernel._COMPILE", "import time; time.sleep(600)")
    loads: list[int] = []
    monkeypatch.setattr(compiled, "load", lambda: loads.append(1))
    kernel = Kernel()
    waiting = threading.Thread(target=kernel.settled, daemon=True)
    waiting.start()
    assert _soon(lambda: kernel._child is not None)
    kernel.close()
    waiting.join(60)
    assert not waiting.is_alive()
    assert loads == []
    assert kernel.engine == "python"


@pytest.mark.parametrize("fault", ["compiler", "kernel"])
def test_a_compiler_that_fails_is_logged_and_the_server_serves(
    fault: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "is_loaded", lambda: False)
    monkeypatch.setattr(compiled, "is_cached", lambda: False)
    monkeypatch.setattr("llmserve_server.backends.kernel._COMPILE", "import sys; sys.exit('no space left')")
    if fault == "kernel":

        def fail() -> None:
            raise OSError("no space left")

        monkeypatch.setattr(compiled, "load", fail)
    kernel = Kernel()
    kernel.settled()
    assert kernel.engine == ("python" if fault == "kernel" else "auto")
    said = "".join(capfd.readouterr())
    assert "kernel_compiler_failed" in said
    assert "no space left" in said
    assert ("kernel_failed" in said) == (fault == "kernel")
    assert SimulatedBackend(kernel).reset("static_workload", 7, "mine").step_index == 0


@pytest.mark.parametrize("engine", ["numba", "python", "reference"])
def test_an_engine_that_is_named_is_used_from_the_first_step_on(engine: Any) -> None:
    assert Kernel(engine).engine == engine


def test_compiling_in_another_process_fills_the_cache_that_this_one_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    monkeypatch.setattr(compiled, "is_loaded", lambda: False)
    kernel._compile_elsewhere()
    assert compiled.is_cached()
