"""The Gymnasium wrapper: the same spaces, encodings, rewards and seeds as the simulator's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmserve_client import AnswerError, UnknownTaskError
from llmserve_client.testing import LocalServer
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.tasks import load_task

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


def test_infos_have_the_keys_and_types_of_the_simulators_own_after_resets_and_steps(server: LocalServer) -> None:
    def shape(info: Any) -> Any:
        return {key: shape(value) for key, value in info.items()} if isinstance(info, dict) else type(info)

    near, far = LocalGymEnv(engine="python"), RemoteLLMServeEnv(server.client())
    _, wanted = near.reset(seed=3)
    infos = [far.reset(seed=np.int64(3))[1], far.step(np.array([6, 8, 0, 0, 0, 0]))[4], far.reset()[1]]  # type: ignore[arg-type]
    assert [shape(info) for info in infos] == [shape(wanted)] * 3
    assert [info["episode_seed"] for info in infos[:2]] == [3, 3]
    far.close()


def test_the_spaces_follow_the_tasks_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    single = load_task("static_workload").model_copy(update={"deployment": "rtx4090-llama3.1-8b"})
    monkeypatch.setattr("llmserve_client.gym.list_tasks", lambda: [single])
    assert RemoteLLMServeEnv("http://h").action_space == LocalGymEnv(deployment=single.deployment).action_space
    assert RemoteLLMServeEnv("http://h", "of_the_server").action_space == LocalGymEnv().action_space


@pytest.mark.parametrize("seed", [True, np.True_, "7", -1])
def test_a_seed_that_is_no_seed_is_refused_by_name(server: LocalServer, seed: Any) -> None:
    env = RemoteLLMServeEnv(server.client())
    with pytest.raises(InvalidInputError, match="seed"):
        env.reset(seed=seed)
    env.close()


def test_numpys_bools_are_taken_as_its_integers_are(server: LocalServer) -> None:
    with server.client() as env:
        env.reset("static_workload", np.int64(3))  # type: ignore[arg-type]
        env.step({"batch_cap": np.int64(64), "priority_routing": np.True_, "kv_budget_fraction": np.float32(0.5)})
        assert env.state().last_action.priority_routing is True  # type: ignore[union-attr]
