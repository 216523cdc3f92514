"""A fork onto a forecast is a planner's crystal ball with the future taken out of it."""

from __future__ import annotations

import numpy as np
import pytest

from llmserve_sim import grade
from llmserve_sim.env import Outcome, ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.policies import RandomPolicy
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import load_task
from llmserve_sim.workload.forecast import resample
from llmserve_sim.workload.scenario import generate

CUT = 7
GOOD = ServeAction(batch_cap=32, kv_budget_fraction=0.475, quantization_tier="INT8", priority_routing=True)


def _actions(seed: int, count: int) -> list[ServeAction]:
    policy = RandomPolicy()
    policy.reset("any", seed)
    return [policy.act(None) for _ in range(count)]  # type: ignore[arg-type]


def _outcomes(env: ServingEnv, actions: list[ServeAction]) -> list[Outcome]:
    return [env.advance(action) for action in actions]


@pytest.mark.parametrize("task_id", ["bursty_workload", "adversarial_multitenant", "phase_shift"])
def test_it_does_not_change_when_the_hidden_future_does(task_id: str) -> None:
    task = load_task(task_id).model_copy(update={"windows": 14})
    # an action that serves well, so that every term of the reward is at work
    before, after = [GOOD] * (CUT - 2) + _actions(3, 2), [GOOD] * (14 - CUT)
    one = ServingEnv(task)
    truth = generate(task, 5)
    one.start(5, scenario=truth)
    past = _outcomes(one, before)
    episode = one._episode
    assert episode is not None
    progress = episode.engine.progress()
    other_truth = resample(truth, task, 99, CUT, produced=progress.produced, finished=progress.ended)
    two = ServingEnv(task)
    two.start(5, scenario=other_truth)
    # The reward's denominator counts the tokens that arrivals ask for, so a past reward is not what is compared.
    assert [o.measurement for o in _outcomes(two, before)] == [o.measurement for o in past]

    forecasts = [_outcomes(env.fork(forecast=11), after) for env in (one, two)]
    assert forecasts[0] == forecasts[1]
    assert any(o.terms is not None and o.terms.throughput > 0.0 for o in forecasts[0])
    assert _outcomes(one.fork(), after) != _outcomes(two.fork(), after), "the true futures do differ"
    assert _outcomes(one.fork(forecast=12), after) != forecasts[0], "another seed, another future"


def test_the_original_goes_on_as_if_nobody_had_asked() -> None:
    task = load_task("adversarial_multitenant").model_copy(update={"windows": 12})
    actions = _actions(1, 12)
    asked, plain = ServingEnv(task), ServingEnv(task)
    for env in (asked, plain):
        env.reset(8)
    for action in actions:
        _outcomes(asked.fork(forecast=1), [action])
        assert asked.advance(action) == plain.advance(action)
    assert asked.episode_log().steps == plain.episode_log().steps


def test_the_log_of_a_forecast_never_passes_for_the_tasks_own() -> None:
    task = load_task("static_workload")
    env = ServingEnv(task)
    env.reset(task.seeds.test.start)
    env.step({})
    fork = env.fork(forecast=3)
    fork.step({})
    log = fork.episode_log()
    assert log.scenario_digest is not None
    assert log.task_digest != env.episode_log().task_digest
    report = grade(log)
    assert report.verified is not True
    assert report.score is None


@pytest.mark.parametrize("bad", [-1, 1.0, "7", True, 2**63])
def test_a_forecast_that_is_no_seed_is_refused_by_name(bad: object) -> None:
    env = ServingEnv()
    env.reset(1)
    with pytest.raises(InvalidInputError, match=r"^forecast: must be an integer"):
        env.fork(forecast=bad)  # type: ignore[arg-type]


def test_there_is_no_forecast_before_an_episode_or_after_it() -> None:
    env = ServingEnv(load_task("static_workload").model_copy(update={"windows": 1}))
    with pytest.raises(EpisodeStateError, match="reset first"):
        env.fork(forecast=1)
    env.reset(1)
    env.step({})
    with pytest.raises(EpisodeStateError, match="no future"):
        env.fork(forecast=1)


def test_what_has_arrived_is_what_the_forecast_begins_with() -> None:
    env = ServingEnv("bursty_workload")
    env.reset(4)
    _outcomes(env, _actions(2, CUT))
    fork = env.fork(forecast=1)
    mine, theirs = env._episode, fork._episode
    assert mine is not None
    assert theirs is not None
    arrived = len(mine.engine.progress().ended)
    for name in ("arrival_ps", "prompt", "priority", "tenant"):
        ours, forked = getattr(mine.scenario.traffic, name), getattr(theirs.scenario.traffic, name)
        assert np.array_equal(ours[:arrived], forked[:arrived])
    assert fork.state().model_dump(exclude={"episode_id", "task_digest"}) == env.state().model_dump(
        exclude={"episode_id", "task_digest"}
    )
