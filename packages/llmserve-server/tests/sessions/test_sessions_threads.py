"""Many threads and several processes at once: each accepted step is applied once, and every log replays."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread
from typing import Any

import pytest

from llmserve_server.backends import SimulatedBackend
from llmserve_server.errors import AtCapacity, Busy, EpisodeState, ServiceError, StepConflict
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_sim.schema import ServeAction, ServeObservation

MakeRegistry = Callable[..., SessionRegistry]
THREADS = 8


def _together(call: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """Return what `call(number)` returned, or the refusal it raised, from threads that start at one moment."""
    barrier = Barrier(threads)

    def run(number: int) -> Any:
        barrier.wait()
        try:
            return call(number)
        except ServiceError as refusal:
            return refusal

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


@pytest.mark.parametrize("processes", [1, 2])
def test_of_many_threads_that_send_one_step_one_applies_it_and_all_get_its_answer(
    make_registry: MakeRegistry, processes: int
) -> None:
    registries = [make_registry() for _ in range(processes)]
    session = registries[0].reset(seed=5).session_id
    for idx in range(12):
        replies = _together(lambda number: registries[number % processes].step(session, {}, step_index=idx))  # noqa: B023
        assert len({reply.observation.model_dump_json() for reply in replies}) == 1
        assert sorted(reply.repeated for reply in replies) == [False] + [True] * (THREADS - 1)
    assert registries[0].state(session).step_count == 12


@pytest.mark.parametrize("processes", [1, 2])
def test_of_many_threads_that_send_different_steps_one_wins(make_registry: MakeRegistry, processes: int) -> None:
    registries = [make_registry() for _ in range(processes)]
    session = registries[0].reset(seed=5).session_id
    for idx in range(6):

        def send(number: int, idx: int = idx) -> Any:
            return registries[number % processes].step(session, {"batch_cap": number + 1}, step_index=idx)

        replies = _together(send)
        assert sum(isinstance(reply, StepConflict) for reply in replies) == THREADS - 1
    log = registries[-1].log(session)
    assert len(log.steps) == 6
    assert registries[0].grade(log=log).verified


@pytest.mark.parametrize("processes", [1, 2])
def test_steps_without_an_index_are_applied_one_after_another(make_registry: MakeRegistry, processes: int) -> None:
    registries = [make_registry() for _ in range(processes)]
    session = registries[0].reset(seed=5).session_id

    def play(number: int) -> list[int]:
        indices: list[int] = []
        while len(indices) < 10:
            try:
                reply = registries[number % processes].step(session, {"batch_cap": number + 1})
            except Busy:
                continue
            indices.append(reply.observation.step_index)
        return indices

    indices = [index for mine in _together(play) for index in mine]
    assert sorted(indices) == list(range(1, 10 * THREADS + 1))
    assert registries[0].grade(session).verified


def test_resets_of_one_session_in_two_processes_leave_one_current_episode(make_registry: MakeRegistry) -> None:
    registries = [make_registry(), make_registry()]
    session = registries[0].reset(seed=5).session_id

    def reset(number: int) -> Any:
        return registries[number % 2].reset(seed=100 + number, session_id=session)

    _together(reset)
    assert registries[0].state(session) == registries[1].state(session)
    for registry in registries:
        registry.step(session, {})
    assert registries[0].grade(session).verified
    assert registries[0].state(session).step_count == 2


def test_sessions_that_keep_pushing_each_other_out_of_memory_lose_nothing(make_registry: MakeRegistry) -> None:
    registry = make_registry(max_concurrent_envs=3, yield_after_s=0)
    sessions: list[str] = []
    while len(sessions) < THREADS:
        sessions.append(registry.reset(seed=len(sessions)).session_id)

    def play(number: int) -> None:
        done = 0
        while done < 15:
            try:
                reply = registry.step(sessions[number], {"batch_cap": number + 1}, step_index=done)
            except AtCapacity:  # three others are in the middle of a step
                continue
            done = reply.observation.step_index

    assert _together(play) == [None] * THREADS
    for session in sessions:
        report = registry.grade(session)
        assert (report.verified, report.steps) == (True, 15)
    assert registry.stats().live <= 3


class _Slow(SimulatedBackend):
    """A backend whose step waits for the test."""

    entered, leave = Event(), Event()

    def step(self, action: ServeAction) -> ServeObservation:
        """Wait."""
        if action.batch_cap == 77:
            self.entered.set()
            assert self.leave.wait(20)
        return super().step(action)


def test_a_session_in_the_middle_of_a_step_is_not_taken_from_memory_and_others_do_not_wait(
    make_registry: MakeRegistry, clock: Any
) -> None:
    registry = make_registry(max_concurrent_envs=2, yield_after_s=1, backend_factory=_Slow)
    slow, other = registry.reset(seed=5).session_id, registry.reset(seed=6).session_id
    thread = Thread(target=registry.step, args=(slow, {"batch_cap": 77}))
    thread.start()
    assert _Slow.entered.wait(20)
    clock.now += 10_000
    assert registry.step(other, {}).observation.step_index == 1
    with pytest.raises(AtCapacity):
        registry.reset(seed=7)
    registry.reap()
    assert {session.session_id for session in registry.open_sessions()} == {slow, other}
    _Slow.leave.set()
    thread.join()
    assert registry.state(slow).step_count == 1


class _SlowToo(_Slow):
    """The same, with events of its own."""

    entered, leave = Event(), Event()


def test_a_session_closed_in_the_middle_of_a_step_leaves_memory_after_it_and_nobody_waits(
    make_registry: MakeRegistry,
) -> None:
    registry = make_registry(backend_factory=_SlowToo)
    session = registry.reset(seed=5).session_id
    thread = Thread(target=registry.step, args=(session, {"batch_cap": 77}))
    thread.start()
    assert _SlowToo.entered.wait(20)
    registry.close(session)
    assert [entry.session_id for entry in registry.open_sessions()] == [session]
    _SlowToo.leave.set()
    thread.join()
    assert registry.open_sessions() == []
    assert registry.state(session).step_count == 1


def test_a_replica_that_is_behind_notices(make_registry: MakeRegistry) -> None:
    behind, ahead = make_registry(), make_registry()
    session = behind.reset(seed=5).session_id
    behind.step(session, {})
    for _ in range(3):
        last = ahead.step(session, {"batch_cap": 9})
    assert behind.state(session).step_count == 4
    ahead.step(session, {"batch_cap": 10})
    with pytest.raises(StepConflict):
        behind.step(session, {"batch_cap": 9}, step_index=4)
    assert behind.step(session, {"batch_cap": 10}, step_index=4).repeated
    assert last.observation.step_index == 4
    ahead.reset(seed=6, session_id=session)
    assert behind.step(session, {}).observation.step_index == 1
    assert behind.state(session).seed == 6
    assert behind.stats().fenced >= 3


def test_an_episode_that_another_replica_began_anew_is_not_over(make_registry: MakeRegistry) -> None:
    one, other = make_registry(), make_registry()
    session = one.reset(seed=5).session_id
    while not one.state(session).done:
        one.step(session, {})
    with pytest.raises(EpisodeState):
        other.step(session, {})
    other.reset(seed=6, session_id=session)
    assert one.step(session, {}).observation.step_index == 1
