"""What every client does, synchronous and asynchronous, over either transport, on an ordinary day."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmserve_client import (
    ClientClosedError,
    EpisodeStateError,
    InvalidFieldError,
    RefusedError,
    StepConflictError,
    UnknownEpisodeError,
    UnknownSessionError,
    UnknownTaskError,
)
from llmserve_client.testing import LocalServer
from llmserve_sim import errors
from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade
from llmserve_sim.schema import ServeAction

ACTION = {"batch_cap": 64, "quantization_tier": "INT8"}


def test_observations_are_those_of_the_simulator_to_the_byte(env: Any, simulator: ServingEnv) -> None:
    seen = [env.reset("static_workload", 7), *(env.step(ACTION).observation for _ in range(4))]
    here = [simulator.reset(7), *(simulator.step(ACTION) for _ in range(4))]
    assert [item.model_dump_json() for item in seen] == [item.model_dump_json() for item in here]


def test_step_returns_observation_reward_done_and_info(env: Any) -> None:
    env.reset("static_workload", 7)
    observation, reward, done, info = env.step(ServeAction())
    assert (reward, done) == (observation.reward, observation.done)
    assert info == observation.metadata
    assert info is not observation.metadata


def test_an_episode_ends_with_a_grade_that_the_simulator_agrees_with(env: Any) -> None:
    observation = env.reset("static_workload", 7)
    while not observation.done:
        observation, _, _, _ = env.step({})
    report = env.grade()
    assert report.verified
    assert report.complete
    assert report == grade(env.episode_log(), engine="python") == env.grade(env.episode_log())


def test_a_log_can_be_graded_as_text_as_a_mapping_and_without_a_session(
    env: Any, clients: Any, server: LocalServer
) -> None:
    env.reset("static_workload", 7)
    env.step({})
    log = env.episode_log()
    stranger = clients.of(server)
    reports = [stranger.grade(given) for given in (log, log.model_dump_json(), log.model_dump(mode="json"))]
    assert reports == [env.grade()] * 3
    assert stranger.session_id is None


def test_an_edited_log_is_not_verified(env: Any) -> None:
    env.reset("static_workload", 7)
    env.step({})
    log = env.episode_log().model_dump(mode="json")
    log["steps"][0]["observation"]["reward"] = 1.0
    assert env.grade(log).verified is False


def test_earlier_episodes_can_be_graded_by_their_id(env: Any) -> None:
    env.reset("static_workload", 7, episode_id="first")
    env.step({})
    env.reset("static_workload", 8, episode_id="second")
    assert env.grade(episode_id="first").seed == 7
    with pytest.raises(UnknownEpisodeError):
        env.grade(episode_id="third")


def test_state_says_where_the_episode_stands(env: Any) -> None:
    env.reset("bursty_workload", 11, episode_id="mine")
    env.step(ACTION)
    state = env.state()
    assert (state.task_id, state.seed, state.episode_id, state.step_count) == ("bursty_workload", 11, "mine", 1)
    assert state.last_action == ServeAction(**ACTION)


def test_a_drawn_seed_is_reported_and_repeats_the_episode(env: Any) -> None:
    first = env.reset()
    seed = env.state().seed
    stepped = env.step(ACTION).observation
    assert env.reset(seed=seed) == first
    assert env.step(ACTION).observation == stepped


def test_a_client_keeps_its_session_over_resets(env: Any) -> None:
    env.reset("static_workload", 1)
    session = env.session_id
    env.reset("static_workload", 2)
    assert env.session_id == session


def test_a_fork_goes_on_alone_from_the_same_state(env: Any) -> None:
    env.reset("static_workload", 7)
    env.step(ACTION)
    fork = env.fork()
    assert fork.session_id != env.session_id
    assert fork.observation == env.observation
    assert fork.step(ACTION) == env.step(ACTION)
    fork.step({})
    assert (fork.state().step_count, env.state().step_count) == (3, 2)
    fork.close()
    assert env.step({}).observation.step_index == 3


def test_another_client_resumes_a_session_by_its_id(env: Any, clients: Any, server: LocalServer) -> None:
    env.reset("static_workload", 7)
    last = env.step(ACTION).observation
    other = clients.of(server)
    assert other.resume(env.session_id) == last
    assert other.step(ACTION).observation.step_index == 2


def test_a_step_of_somebody_else_is_a_conflict_and_resume_shows_where_the_session_is(
    env: Any, clients: Any, server: LocalServer
) -> None:
    env.reset("static_workload", 7)
    other = clients.of(server)
    other.resume(env.session_id)
    other.step(ACTION)
    with pytest.raises(StepConflictError) as refused:
        env.step({"batch_cap": 1})
    assert (refused.value.code, refused.value.status) == ("step_conflict", 409)
    assert env.resume().step_index == 1
    assert env.step({"batch_cap": 1}).observation.step_index == 2


def test_the_catalogue_names_tasks_with_their_training_seeds(env: Any) -> None:
    rows = env.tasks()
    assert [row["id"] for row in rows][:3] == ["static_workload", "bursty_workload", "adversarial_multitenant"]
    assert all(row["splits"]["train"]["start"] < row["splits"]["train"]["stop"] for row in rows)


def test_baseline_passes_its_choices_on(clients: Any) -> None:
    server = LocalServer(baseline=dict)
    env = clients.of(server)
    assert env.baseline(task_id="static_workload", seed=3) == {"task_id": "static_workload", "seed": "3"}
    assert env.baseline(use_openai=True, model="m") == {"use_openai": "true", "model": "m"}


@pytest.mark.parametrize(
    ("action", "field", "bound"),
    [
        ({"batch_cap": 513}, "batch_cap", "must be an integer in 1..512"),
        ({"batch_cap": True}, "batch_cap", "must be an integer in 1..512"),
        ({"kv_budget_fraction": float("nan")}, "kv_budget_fraction", "must be a finite number in 0.1..1.0"),
        ({"quantization_tier": "FP8"}, "quantization_tier", "must be one of FP16, INT8, INT4"),
        ({"batch_size": 3}, "batch_size", "unknown field"),
        ([1, 2], "action", "must be a ServeAction or a mapping of its fields"),
    ],
)
def test_a_bad_action_names_its_field_and_bound_and_loses_nothing(
    env: Any, action: object, field: str, bound: str
) -> None:
    env.reset("static_workload", 7)
    with pytest.raises(InvalidFieldError) as refused:
        env.step(action)
    assert refused.value.field == field
    assert refused.value.bound.startswith(bound)
    assert isinstance(refused.value, errors.InvalidInputError)
    assert env.state().step_count == 0
    assert env.step({}).observation.step_index == 1


def test_integers_of_numpy_are_integers(env: Any) -> None:
    env.reset("static_workload", np.int64(7))
    assert env.step({"batch_cap": np.int64(8)}).observation.step_index == 1
    assert env.state().last_action == ServeAction(batch_cap=8)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "7", True])
def test_a_bad_seed_is_refused_by_name(env: Any, seed: object) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        env.reset("static_workload", seed)
    assert refused.value.field == "seed"


def test_an_unknown_task_is_refused_and_the_episode_goes_on(env: Any) -> None:
    env.reset("static_workload", 7)
    with pytest.raises(UnknownTaskError) as refused:
        env.reset("no_such_task", 7)
    assert (refused.value.code, refused.value.status, refused.value.field) == ("unknown_task", 404, "task_id")
    assert "static_workload" in refused.value.bound
    assert isinstance(refused.value, errors.UnknownTaskError)
    assert env.step({}).observation.step_index == 1


def test_verbs_that_need_an_episode_say_reset_first(env: Any) -> None:
    for verb in (lambda: env.step({}), env.grade, env.fork, env.resume, env.state, env.episode_log):
        with pytest.raises(EpisodeStateError, match="reset first") as refused:
            verb()
        assert refused.value.code == "not_reset"
        assert isinstance(refused.value, errors.EpisodeStateError)


def test_a_step_after_the_end_is_refused_and_the_episode_can_still_be_graded(env: Any) -> None:
    while not env.reset("static_workload", 7).done:
        while not env.step({}).done:
            pass
        break
    with pytest.raises(EpisodeStateError) as refused:
        env.step({})
    assert (refused.value.code, refused.value.status) == ("episode_done", 409)
    assert env.grade().complete


def test_an_unknown_session_is_refused_and_a_reset_starts_a_new_one(env: Any, server: LocalServer) -> None:
    env.reset("static_workload", 7)
    old = env.session_id
    server.restart(forget=True)
    with pytest.raises(UnknownSessionError):
        env.step({})
    with pytest.raises(UnknownSessionError):
        env.resume("nobody")
    assert env.reset("static_workload", 7).step_index == 0
    assert env.session_id != old
    assert env.step({}).observation.step_index == 1


def test_a_closed_client_says_so_and_closes_twice(env: Any) -> None:
    env.reset("static_workload", 7)
    env.close()
    env.close()
    assert env.closed
    with pytest.raises(ClientClosedError):
        env.step({})


def test_a_full_server_says_when_to_come_back(clients: Any) -> None:
    server = LocalServer(capacity=1)
    first, second = clients.of(server), clients.of(server)
    first.reset("static_workload", 7)
    with pytest.raises(RefusedError) as refused:
        second.reset("static_workload", 7)
    assert (refused.value.code, refused.value.status, refused.value.retry_after_s) == ("at_capacity", 429, 5.0)
    assert first.step({}).observation.step_index == 1


def test_the_servers_token_is_wanted_from_every_verb(clients: Any) -> None:
    server = LocalServer(token="sesame")  # noqa: S106 - a test's own
    assert clients.of(server).reset("static_workload", 7).step_index == 0
    for token in (None, "other"):
        stranger = clients.of(server, token=token, transport="http")
        for verb in (stranger.reset, stranger.tasks):
            with pytest.raises(RefusedError) as refused:
                verb()
            assert (refused.value.code, refused.value.status) == ("unauthorized", 401)


def test_a_server_below_a_path_prefix_is_reached(clients: Any) -> None:
    env = clients.of(LocalServer(prefix="/envs/llm"))
    assert env.reset("static_workload", 7).step_index == 0
    assert env.grade().verified
