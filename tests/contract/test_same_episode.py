"""The same episode through every way gives the same bytes of observations and the same grade."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade
from llmserve_sim.policies import RandomPolicy
from llmserve_sim.schema import ServeAction

EPISODES = (("static_workload", 42), ("adversarial_multitenant", 3_000_011))


@cache
def undisturbed(task_id: str, seed: int) -> tuple[list[ServeAction], list[str], dict[str, Any]]:
    """Actions all over their ranges, and what the simulator itself shows and grades."""
    env, policy = ServingEnv(task_id), RandomPolicy()
    policy.reset(task_id, seed)
    seen, actions = [env.reset(seed)], []
    while not seen[-1].done:
        action = policy.act(seen[-1])
        actions.append(action if env.can_split else action.model_copy(update={"prefill_decode_split": False}))
        seen.append(env.step(actions[-1]))
    return actions, [item.model_dump_json() for item in seen], grade(env.episode_log()).model_dump(mode="json")


@pytest.mark.parametrize(("task_id", "seed"), EPISODES)
def test_every_way_shows_the_same_bytes_and_gets_the_same_grade(way: Any, task_id: str, seed: int) -> None:
    actions, expected, report = undisturbed(task_id, seed)
    seen = [way.reset(task_id, seed), *(way.step(action) for action in actions)]
    assert [item.model_dump_json() for item in seen] == expected
    graded = way.report()
    assert graded.pop("foresight") in {False, None}, "only a server can know"
    assert graded == {name: value for name, value in report.items() if name != "foresight"}
    assert report["verified"] is True
    assert report["complete"] is True
