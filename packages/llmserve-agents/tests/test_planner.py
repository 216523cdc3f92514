"""The planner: it improves on what it starts from, repeats itself, and knows nothing of the true future."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmserve_agents.planner import PlannerBudget, PlannerPolicy, _combined, _forecast_seed, _moves
from llmserve_agents.policy import run_episode
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.observation import vector
from llmserve_sim.schema import ServeAction
from llmserve_sim.tasks import Task, list_tasks, load_task
from llmserve_sim.workload.forecast import resample

QUICK = PlannerBudget(forecasts=2, horizon=4, strides=(1,), delays=(0, 2))


def short(task_id: str, windows: int) -> Task:
    """A task whose episodes end early."""
    return load_task(load_task(task_id).model_copy(update={"windows": windows}))


def actions_of(env: ServingEnv, agent: PlannerPolicy, seed: int, windows: int, **start: Any) -> list[ServeAction]:
    """Start an episode, let a planner run its first windows, and return what it did."""
    env.start(seed, **start)
    agent.reset(env.task.id, seed)
    agent.attach(env)
    observation = env.fork().episode_log().initial_observation
    actions = []
    for _ in range(windows):
        actions.append(agent.act(observation))
        observation = env.step(actions[-1])
    return actions


@pytest.mark.parametrize("task_id", ["bursty_workload", "adversarial_multitenant"])
@pytest.mark.parametrize("cut", [1, 9])
def test_its_actions_do_not_change_when_the_hidden_future_does(task_id: str, cut: int) -> None:
    """Two episodes that agree in all that has been seen, and in nothing else: not in their seeds either."""
    env, other = ServingEnv(task_id), ServingEnv(task_id)
    first = actions_of(env, PlannerPolicy(QUICK), 7, cut)
    episode = env._episode
    assert episode is not None
    progress = episode.engine.progress()
    changed = resample(
        episode.scenario,
        env.task,
        4242,
        cut,
        produced=progress.produced,
        finished=progress.ended,
        drafted=np.array(episode.drafted, dtype=np.bool_),
    )
    assert actions_of(other, PlannerPolicy(QUICK), 991, cut, scenario=changed) == first
    # The rewards differ: they count what unfinished requests ask for, which nobody has seen.
    last = [one.episode_log().steps[-1].observation for one in (env, other)]
    assert vector(last[0], "extended") == vector(last[1], "extended")
    decided = []
    for one, observation in zip((env, other), last, strict=True):
        agent = PlannerPolicy(QUICK)
        agent.attach(one)
        decided.append(agent.act(observation))
    assert decided[0] == decided[1]
    later = [[one.advance(decided[0]).measurement.request_arrival_rate for _ in range(10)] for one in (env, other)]
    assert later[0] != later[1]


def test_no_forecast_has_the_seed_of_an_episode() -> None:
    """Under an episode's own seed, a forecast would draw the very future that the episode holds."""
    seeds = [_forecast_seed(0, window, number) for window in range(200) for number in range(8)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) > max(seed_range.stop for task in list_tasks() for _, seed_range in task.seeds.items())


def test_it_repeats_itself_from_episode_to_episode_and_leaves_the_environment_alone() -> None:
    env, agent = ServingEnv(short("adversarial_multitenant", 12)), PlannerPolicy(QUICK)
    logs = []
    for _ in range(2):
        run_episode(env, agent, 3)
        logs.append(env.episode_log())
    assert logs[0].steps == logs[1].steps
    replayed = ServingEnv(env.task)
    replayed.reset(3)
    assert [replayed.step(step.action) for step in logs[0].steps] == [step.observation for step in logs[0].steps]


def test_it_earns_more_than_the_best_fixed_configuration() -> None:
    task = load_task("adversarial_multitenant")
    env, agent = ServingEnv(task), PlannerPolicy(PlannerBudget(forecasts=2, horizon=6))
    seed = task.seeds.validation.start
    run_episode(env, agent, seed)
    held = ServingEnv(task)
    observation = held.reset(seed)
    start = PlannerPolicy()
    start.attach(held)
    assert start._plan is not None
    while not observation.done:
        observation = held.step(from_indices(start._plan[0].tolist()))
    assert env.state().total_reward > held.state().total_reward


def test_plans_stay_within_the_grid_change_one_knob_each_and_hold_it_to_the_end() -> None:
    plan = np.tile(np.array([0, 12, 8, 2, 1, 0]), (6, 1))
    moves = _moves(plan, PlannerBudget(), can_split=True)
    assert (moves >= 0).all()
    assert (moves < np.array(GRID_SIZES)).all()
    changed = moves != plan
    assert (changed.any(axis=1).sum(axis=1) == 1).all()
    assert changed[:, -1].any(axis=1).all()
    delays = sorted({int(row.any(axis=1).argmax()) for row in changed})
    assert delays == [0, 1, 2, 3]


def test_a_fleet_of_one_replica_is_never_split() -> None:
    plan = np.zeros((6, 6), dtype=np.int64)
    assert (_moves(plan, PlannerBudget(), can_split=False)[:, :, 4] == 0).all()
    env, agent = ServingEnv(short("static_workload", 6), deployment="h100x2-qwen3-32b"), PlannerPolicy(QUICK)
    assert not env.can_split
    run_episode(env, agent, 1)
    assert not any(step.action.prefill_decode_split for step in env.episode_log().steps)


def test_changes_that_gain_alone_are_tried_together() -> None:
    base = np.zeros((3, 6), dtype=np.int64)
    plans = np.stack([base] * 5)
    plans[1, :, 0], plans[2, :, 0], plans[3, 1:, 3], plans[4, :, 2] = 1, 2, 1, 3
    together = _combined(plans, np.array([0.5, 0.6, 0.7, 0.8, 0.4]))
    expected = base.copy()
    expected[:, 0], expected[1:, 3] = 2, 1
    assert together.tolist() == [expected.tolist()]
    assert _combined(plans, np.full(5, 0.5)).shape == (0, 3, 6)


def test_it_says_what_it_lacks() -> None:
    env, agent = ServingEnv("static_workload"), PlannerPolicy(QUICK)
    observation = env.reset(seed=1)
    agent.reset("static_workload", 1)
    with pytest.raises(InvalidInputError, match="env: must be attached"):
        agent.act(observation)
    agent.attach(env)
    env.step({})
    with pytest.raises(InvalidInputError, match="observation: must be the last one"):
        agent.act(observation)


@pytest.mark.parametrize(
    "wrong", [{"forecasts": 0}, {"horizon": 0}, {"strides": (0,)}, {"delays": (-1,)}, {"waiting_cost": -1.0}]
)
def test_a_budget_that_is_amiss_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        PlannerBudget(**wrong)
    assert refused.value.field == next(iter(wrong))
