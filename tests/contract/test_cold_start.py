"""A machine on which the kernel was never compiled: nobody waits for the compiler, and nobody can tell from the answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from llmserve_sim.engine.kernel import compiled
from llmserve_sim.env import ServingEnv

ACTIONS: list[dict[str, Any]] = [
    {"batch_cap": 64, "speculation_depth": 2},
    {"batch_cap": 256, "quantization_tier": "INT8", "priority_routing": True},
    {"kv_budget_fraction": 0.6, "prefill_decode_split": True},
]
COMPILED_S = 1200.0
"""Compiling takes half a minute on an idle machine."""
MESSAGE_S = 60.0
"""How long OpenEnv's clients wait for an answer."""


@pytest.mark.skipif(not compiled.available(), reason="needs numba (extra fast)")
def test_the_first_steps_on_a_new_machine_are_answered_while_the_kernel_compiles(
    start_server: Callable[..., Any], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    server = start_server(NUMBA_CACHE_DIR=str(cache))
    address = server.url.replace("http", "ws", 1) + "/ws"
    with connect(address, compression=None, max_size=2**24) as socket:

        def ask(kind: str, data: dict[str, Any]) -> dict[str, Any]:
            socket.send(json.dumps({"type": kind, "data": data}))
            return dict(json.loads(socket.recv(timeout=MESSAGE_S))["data"])

        env = ServingEnv("static_workload")
        started = time.monotonic()
        observation = env.reset(7)
        assert _same(ask("reset", {"task_id": "static_workload", "seed": 7}), observation)
        step = 0
        slowest_s = 0.0
        while time.monotonic() - started < COMPILED_S and not _is_compiled(cache):
            if step >= env.episode_length // 2:  # the second half is for the compiled kernel
                time.sleep(0.2)
                continue
            began = time.monotonic()
            answer = ask("step", ACTIONS[step % len(ACTIONS)])
            slowest_s = max(slowest_s, time.monotonic() - began)
            assert step > 0 or not _is_compiled(cache), "the first step waited for the compiler"
            observation = env.step(ACTIONS[step % len(ACTIONS)])
            assert _same(answer, observation)
            step += 1
        assert slowest_s < MESSAGE_S / 2
        assert _is_compiled(cache)
        while not observation.done:
            answer = ask("step", ACTIONS[step % len(ACTIONS)])
            observation = env.step(ACTIONS[step % len(ACTIONS)])
            assert _same(answer, observation)
            step += 1
    assert server.stop() == 0


def _is_compiled(cache: Path) -> bool:
    return any(cache.rglob("fleet.run_window*.nbc"))


def _same(answer: dict[str, Any], observation: Any) -> bool:
    truth = observation.model_dump(mode="json")
    beside = {"reward": answer["reward"], "done": answer["done"]}
    return json.dumps(answer["observation"] | beside, sort_keys=True) == json.dumps(truth, sort_keys=True)
