"""What the simulator answers behind a session is what it answers in the caller's own process."""

from __future__ import annotations

import gc
import random
import threading
from pathlib import Path

import pytest

from llmserve_server.backends import Backend, SimulatedBackend, StoredStep
from llmserve_server.backends.kernel import Kernel
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError, UnknownTaskError
from llmserve_sim.schema import ServeAction, ServeObservation

ACTIONS = [
    ServeAction(batch_cap=8),
    ServeAction(quantization_tier="INT8", speculation_depth=3),
    ServeAction(kv_budget_fraction=0.35, priority_routing=True),
    ServeAction(batch_cap=256, prefill_decode_split=True),
]


def _bytes(observation: ServeObservation) -> str:
    return observation.model_dump_json()


def test_the_simulated_backend_is_a_backend() -> None:
    backend: Backend = SimulatedBackend()
    assert backend.replayable


def test_an_episode_has_the_bytes_of_a_plain_environments() -> None:
    env, backend = ServingEnv("bursty_workload"), SimulatedBackend()
    assert _bytes(backend.reset("bursty_workload", 7, "mine")) == _bytes(env.reset(7, episode_id="mine"))
    for action in ACTIONS:
        expected = env.step(action)
        assert _bytes(backend.step(action)) == _bytes(expected)
        assert _bytes(backend.observation()) == _bytes(expected)
    assert backend.state() == env.state()
    assert backend.log() == env.episode_log()
    assert backend.grade(backend.log()).verified


def test_a_restored_episode_stands_where_the_first_stood() -> None:
    first, second = SimulatedBackend(), SimulatedBackend()
    first.reset("static_workload", 3, "mine")
    for action in ACTIONS:
        first.step(action)
    second.restore("static_workload", 3, "mine", [StoredStep(action, None) for action in ACTIONS])
    assert second.state() == first.state()
    assert _bytes(second.observation()) == _bytes(first.observation())
    assert _bytes(second.step(ACTIONS[0])) == _bytes(first.step(ACTIONS[0]))
    assert second.log() == first.log()


def test_a_fork_goes_its_own_way() -> None:
    backend = SimulatedBackend()
    backend.reset("static_workload", 3, "mine")
    backend.step(ACTIONS[0])
    before = backend.state()
    fork = backend.fork()
    fork.step(ACTIONS[1])
    assert backend.state() == before
    assert fork.state().episode_id != "mine"
    assert _bytes(backend.step(ACTIONS[1])) == _bytes(fork.observation())


def test_a_refused_reset_leaves_the_episode_that_runs() -> None:
    backend = SimulatedBackend()
    backend.reset("static_workload", 3, "mine")
    before = backend.state()
    with pytest.raises(UnknownTaskError):
        backend.reset("no_such_task", 3, "other")
    with pytest.raises(InvalidInputError):
        backend.reset("static_workload", -1, "other")
    assert backend.state() == before


def test_a_task_id_from_outside_never_opens_a_file(tmp_path: pytest.TempPathFactory) -> None:
    backend = SimulatedBackend()
    with pytest.raises(UnknownTaskError):
        backend.reset(f"{tmp_path}/task.toml", 3, "mine")


def test_without_an_episode_every_question_is_refused() -> None:
    backend = SimulatedBackend()
    backend.reset("static_workload", 3, "mine")
    backend.close()
    backend.close()
    for ask in (backend.state, backend.log, backend.observation, backend.fork):
        with pytest.raises(EpisodeStateError, match="reset first"):
            ask()


def test_warming_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cold = SimulatedBackend()
    expected = [cold.reset("static_workload", 0, "mine"), cold.step(ServeAction())]
    before = _alive(), threading.active_count(), random.getstate()

    Kernel().settled()

    assert (_alive(), threading.active_count(), random.getstate()) == before
    assert not list(tmp_path.iterdir())
    after = SimulatedBackend()
    assert [after.reset("static_workload", 0, "mine"), after.step(ServeAction())] == expected


def _alive() -> int:
    """Return how many environments and backends are alive."""
    gc.collect()
    return sum(isinstance(one, ServingEnv | SimulatedBackend) for one in gc.get_objects())
