"""A process that is killed between steps loses none that it answered (`nox -s crash` does it to the server)."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from llmserve_server.sessions.registry import SessionRegistry
from llmserve_sim.env import ServingEnv

PROGRAM = """
import sys
from llmserve_server.backends import SimulatedBackend
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.settings import Settings
from llmserve_server.store.episodes import EpisodeStore

registry = SessionRegistry(settings=Settings(), store=EpisodeStore(sys.argv[1]), backend_factory=SimulatedBackend)
session = registry.reset(seed=5).session_id
print(session, flush=True)
while True:
    reply = registry.step(session, {"batch_cap": 1 + registry.state(session).step_count % 512})
    print(reply.observation.step_index, flush=True)
    if reply.observation.done:
        registry.reset(seed=5, session_id=session)
"""


@pytest.mark.parametrize("answers", [1, 50, 200])
def test_what_a_killed_process_answered_is_there(
    store_url: str, make_registry: Callable[..., SessionRegistry], answers: int
) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, store_url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        session = process.stdout.readline().strip()
        for _ in range(answers):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        printed = process.stdout.read().split()
    assert process.returncode == -signal.SIGKILL

    length = ServingEnv().episode_length
    last = (answers + len(printed) - 1) % length + 1
    registry = make_registry()
    state = registry.state(session)
    # Beyond what was answered there may be what the process was in: a step, or after the end a reset and a step.
    assert state.step_count in ({last, last + 1} if last < length else {last, 0, 1})
    truth = ServingEnv()
    truth.reset(5)
    for number in range(state.step_count):
        truth.step({"batch_cap": 1 + number})
    assert registry.log(session).steps == truth.episode_log().steps
    assert registry.grade(session).verified
