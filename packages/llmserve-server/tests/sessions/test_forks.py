"""A fork shows the true future only where that is allowed, and every grade says whether it was shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmserve_server.errors import AtCapacity
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade

MakeRegistry = Callable[..., SessionRegistry]
TRAINING, TEST = 7, 2_000_001
ACTION = {"batch_cap": 48, "quantization_tier": "INT8"}
AHEAD = 8


def _arrivals(registry: SessionRegistry, session: str) -> list[tuple[float, ...]]:
    """Return what the next windows bring, as far as no action can change it."""
    seen = []
    for _ in range(AHEAD):
        observation = registry.step(session, ACTION).observation
        seen.append((observation.request_arrival_rate, observation.mean_prompt_length))
    return seen


def _begun(registry: SessionRegistry, seed: int, steps: int = 5, task: str = "bursty_workload") -> str:
    session = registry.reset(task, seed).session_id
    for _ in range(steps):
        registry.step(session, ACTION)
    return session


@pytest.mark.parametrize("seed", [1_000_000, TEST, 3_000_000, 2**62])
@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("task", ["bursty_workload", "adversarial_multitenant"])
def test_a_fork_of_an_episode_that_is_no_training_episode_does_not_show_its_future(
    registry: SessionRegistry, seed: int, steps: int, task: str
) -> None:
    session = _begun(registry, seed, steps, task)
    before = registry.log(session)
    fork = registry.fork(session).session_id
    log = registry.log(fork)
    assert (log.initial_observation, log.steps) == (before.initial_observation, before.steps)
    forecast = _arrivals(registry, fork)
    assert registry.log(session) == before
    assert forecast != _arrivals(registry, session)


@pytest.mark.parametrize(("seed", "settings"), [(TRAINING, {}), (TEST, {"true_forks": True})])
def test_a_training_episode_or_one_that_the_operator_opens_is_copied_with_its_future(
    make_registry: MakeRegistry, seed: int, settings: dict[str, Any]
) -> None:
    registry = make_registry(**settings)
    session = _begun(registry, seed)
    fork = registry.fork(session).session_id
    assert _arrivals(registry, fork) == _arrivals(registry, session)
    assert registry.grade(fork).verified


def test_a_forecast_is_the_same_whenever_it_is_asked_for_and_another_draw_is_another(
    registry: SessionRegistry, make_registry: MakeRegistry
) -> None:
    session = _begun(registry, TEST)
    same = [_arrivals(asked, asked.fork(session, draw=3).session_id) for asked in (registry, make_registry())]
    assert same[0] == same[1]
    assert _arrivals(registry, registry.fork(session, draw=4).session_id) != same[0]


def test_no_draw_gives_the_episodes_own_future(registry: SessionRegistry) -> None:
    session = registry.reset("bursty_workload", TEST).session_id
    forks = [registry.fork(session, draw=draw).session_id for draw in (0, 1, TEST, TEST - 1)]
    futures = [_arrivals(registry, fork) for fork in forks]
    assert _arrivals(registry, session) not in futures


def test_a_forecast_survives_the_process_and_can_be_forked_again(
    registry: SessionRegistry, make_registry: MakeRegistry
) -> None:
    first = registry.fork(_begun(registry, TEST)).session_id
    registry.step(first, ACTION)
    second = registry.fork(first, draw=1).session_id
    registry.step(second, ACTION)
    for session in (first, second):
        again = make_registry()
        assert again.log(session) == registry.log(session)
        expected = again.step(session, ACTION).observation
        assert make_registry().observation(session).observation.model_dump_json() == expected.model_dump_json()
        assert again.state(session).episode_id == registry.state(session).episode_id


def test_a_forecast_is_no_episode_of_the_task_to_the_grader(registry: SessionRegistry) -> None:
    fork = registry.fork(_begun(registry, TEST)).session_id
    report = registry.grade(fork)
    assert (report.verified, report.score, report.foresight) == (False, None, False)
    assert "forecast" in str(report.reason)
    assert registry.grade(episode_id=registry.state(fork).episode_id) == report
    assert grade(registry.log(fork)).verified is False


def test_every_grade_says_whether_the_future_was_shown(
    make_registry: MakeRegistry,
) -> None:
    registry = make_registry(true_forks=True)
    origin, other = _begun(registry, TEST), _begun(registry, TEST)
    assert registry.grade(origin).foresight is False
    fork = registry.fork(origin).session_id
    registry.step(fork, ACTION)
    later = make_registry()  # where nothing is true, and nothing is in memory
    heir = later.fork(fork).session_id
    for session, expected in ((origin, True), (fork, True), (heir, True), (other, False)):
        state, log = later.state(session), later.log(session)
        assert later.grade(session).foresight is expected
        assert later.grade(episode_id=state.episode_id).foresight is expected
        assert later.grade(log=log).foresight is expected
        assert registry.grade(session).foresight is expected
    registry.reset("bursty_workload", TEST, session_id=origin)
    assert registry.grade(origin).foresight is False, "the next episode is another"
    assert registry.grade(episode_id=later.state(fork).episode_id).foresight is True


def test_a_training_episode_that_was_forked_says_so_too(registry: SessionRegistry) -> None:
    session = _begun(registry, TRAINING)
    fork = registry.fork(session).session_id
    assert [registry.grade(item).foresight for item in (session, fork)] == [True, True]


def test_of_a_log_that_the_server_does_not_know_nobody_says_what_its_maker_knew(registry: SessionRegistry) -> None:
    env = ServingEnv("bursty_workload")
    env.reset(TEST)
    env.step(ACTION)
    log = env.episode_log()
    assert registry.grade(log=log).foresight is None
    assert grade(log).foresight is None
    session = registry.reset("bursty_workload", TEST, log.episode_id).session_id
    assert registry.grade(log=log).foresight is None, "the episode of that name has taken other steps"
    registry.step(session, ACTION)
    assert registry.grade(log=log).foresight is False
    assert registry.grade(log=log.model_copy(update={"episode_id": "a\0b"})).foresight is None


def test_an_episode_at_its_end_has_no_future_to_show(registry: SessionRegistry) -> None:
    session = _begun(registry, TEST, ServingEnv("bursty_workload").episode_length)
    fork = registry.fork(session).session_id
    assert registry.grade(fork).verified
    assert [registry.grade(item).foresight for item in (session, fork)] == [False, False]


def test_a_fork_that_was_refused_has_shown_nothing(make_registry: MakeRegistry) -> None:
    registry = make_registry(max_concurrent_envs=1)
    session = _begun(registry, TRAINING)
    with pytest.raises(AtCapacity):
        registry.fork(session)
    assert registry.grade(session).foresight is False
