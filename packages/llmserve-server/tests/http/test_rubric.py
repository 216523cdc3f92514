"""OpenEnv's rubric shows the reward's terms and computes nothing; /metadata describes the environment."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from llmserve_server.openenv.environment import ServingEnvironment
from llmserve_server.openenv.rubric import PARTS, RewardRubric
from llmserve_server.wire import WireAction
from llmserve_sim.env import ServingEnv


def test_the_named_parts_sum_to_the_reward_of_the_last_window(client: TestClient) -> None:
    assert isinstance(client.app, FastAPI)
    env = ServingEnvironment(client.app.state.registry, client.app.state.dispatcher)
    env.reset(seed=7)
    assert env.rubric.last_score is None
    for _ in range(2):
        seen = env.step(WireAction(batch_cap=64))
    parts = dict(env.rubric.named_rubrics())
    assert list(parts) == list(PARTS)
    assert env.rubric.last_score == seen.reward
    assert sum(part.last_score for part in parts.values()) == pytest.approx(seen.reward)
    assert {name: part.last_score for name, part in parts.items()} == seen.metadata["reward_terms"]
    awaited = asyncio.run(env.step_async(WireAction(batch_cap=64)))
    assert env.rubric.get_rubric("slo").last_score == awaited.metadata["reward_terms"]["slo"]


def test_the_rubric_gives_an_observation_the_reward_that_it_has() -> None:
    env = ServingEnv()
    env.reset(3)
    observation = env.step({"batch_cap": 64})
    rubric = RewardRubric()
    assert rubric({}, observation) == observation.reward
    assert rubric.get_rubric("cost")({}, observation) == observation.metadata["reward_terms"]["cost"]
    rubric.reset()
    assert rubric.last_score is None


def test_metadata_holds_the_readme_and_where_the_documentation_is(client: TestClient) -> None:
    described = client.get("/metadata").json()
    assert described["readme_content"].startswith("# llmserve-server")
    assert described["documentation_url"] == "/docs"
