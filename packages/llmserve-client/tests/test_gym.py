"""The Gymnasium wrapper: the same spaces, encodings, rewards and seeds as the simulator's own."""

from __future__ import annotations

import numpy as np
import pytest

from llmserve_client import AnswerError, UnknownTaskError
from llmserve_client.testing import LocalServer
from llmserve_sim.errors import InvalidInputError

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from llmserve_client.gym import RemoteLLMServeEnv, _range_of  # noqa: E402
from llmserve_sim.gym import ServingGymEnv as LocalGymEnv  # noqa: E402


@pytest.mark.parametrize("observation", ["base", "extended"])
@pytest.mark.parametrize("action", ["multi_discrete", "dict"])
def test_it_agrees_with_the_simulators_own_wrapper_to_the_bit(
    server: LocalServer, observation: str, action: str
) -> None:
    near = LocalGymEnv("bursty_workload", observation=observation, action=action, engine="python")  # type: ignore[arg-type]
    far = RemoteLLMServeEnv(server.client(), "bursty_workload", observation=observation, action=action)  # type: ignore[arg-type]
    assert far.observation_space == near.observation_space
    assert far.action_space == near.action_space
    far.action_space.seed(5)
    pairs = [(near.reset(seed=9), far.reset(seed=9))]
    for _ in range(5):
        chosen = far.action_space.sample()
        pairs.append((near.step(chosen), far.step(chosen)))  # type: ignore[arg-type]
    for here, there in pairs:
        assert here[0].tobytes() == there[0].tobytes()
        assert here[1:] == there[1:]
    far.close()


def test_gymnasiums_checker_has_nothing_to_say(server: LocalServer) -> None:
    env = RemoteLLMServeEnv(server.client())
    check_env(env, skip_render_check=True)
    env.close()


def test_seeds_are_drawn_from_the_servers_training_range_as_the_simulator_draws_them(server: LocalServer) -> None:
    near, far = LocalGymEnv(engine="python"), RemoteLLMServeEnv(server.client())
    for env in (near, far):
        env.reset(seed=4)
    here, there = [[env.reset()[1]["episode_seed"] for _ in range(5)] for env in (near, far)]
    assert here == there
    train = near.serving.task.seeds.train
    assert all(train.start <= seed < train.stop for seed in there)
    far.close()


def test_an_address_makes_a_client_with_its_options() -> None:
    env = RemoteLLMServeEnv("http://h:1/p/", transport="http")
    assert (env.client.url, env.client.transport) == ("http://h:1/p", "http")
    env.close()
    with pytest.raises(InvalidInputError):
        RemoteLLMServeEnv(LocalServer().client(), transport="http")


def test_bad_actions_options_and_tasks_are_refused_by_name(server: LocalServer) -> None:
    env = RemoteLLMServeEnv(server.client())
    env.reset(seed=1)
    with pytest.raises(InvalidInputError):
        env.step(np.array([99, 0, 0, 0, 0, 0]))
    with pytest.raises(InvalidInputError, match="options"):
        env.reset(options={"x": 1})
    stranger = RemoteLLMServeEnv(server.client(), "no_such_task")
    with pytest.raises(UnknownTaskError, match="static_workload"):
        stranger.reset()
    env.close()
    stranger.close()


@pytest.mark.parametrize("row", [{}, {"splits": None}, {"splits": {"train": {"start": 5, "stop": 5}}}])
def test_a_catalogue_without_seeds_is_said(row: dict[str, object]) -> None:
    with pytest.raises(AnswerError, match="seed="):
        _range_of(row)
