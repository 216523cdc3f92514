"""The environment is deterministic, refuses without changing, forks without sharing, and tells the truth about itself."""

from __future__ import annotations

import math
import pickle
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_sim.__about__ import __version__
from llmserve_sim.engine.kernel import compiled
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import EpisodeStateError, InvalidInputError, MissingExtraError, UnknownTaskError
from llmserve_sim.grader import grade
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.metrics import encode
from llmserve_sim.observation import vector
from llmserve_sim.reward import RewardMeter
from llmserve_sim.schema import QUANTIZATION_TIERS, ServeAction, ServeObservation
from llmserve_sim.tasks import list_tasks, load_task
from llmserve_sim.workload.scenario import generate

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = [task.id for task in list_tasks()]
ACTIONS = st.builds(
    ServeAction,
    batch_cap=st.integers(1, 512),
    kv_budget_fraction=st.floats(0.1, 1.0),
    speculation_depth=st.integers(0, 8),
    quantization_tier=st.sampled_from(QUANTIZATION_TIERS),
    prefill_decode_split=st.booleans(),
    priority_routing=st.booleans(),
)


def _random_actions(count: int, seed: int) -> list[ServeAction]:
    rng = random.Random(seed)
    return [from_indices([rng.randrange(n) for n in GRID_SIZES]) for _ in range(count)]


def _trajectory(env: ServingEnv, actions: list[ServeAction]) -> list[str]:
    return [env.step(action).model_dump_json() for action in actions]


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_and_actions_give_the_same_bytes(task: str) -> None:
    actions = _random_actions(10, 1)
    runs = []
    for _ in range(2):
        env = ServingEnv(task)
        first = env.reset(seed=5)
        runs.append([first.model_dump_json(), *_trajectory(env, actions)])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("engine", ["python", "reference"])
def test_the_engine_does_not_change_the_numbers(engine: Any) -> None:
    pytest.importorskip("numba")
    actions = _random_actions(6, 2)
    runs = []
    for kind in ("numba", engine):
        env = ServingEnv("adversarial_multitenant", engine=kind)
        env.reset(seed=9)
        runs.append(_trajectory(env, actions))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_lasts_as_long_as_its_task_says_and_then_refuses_steps(task: str) -> None:
    env = ServingEnv(load_task(task).model_copy(update={"windows": 3}))
    observation = env.reset(seed=0)
    assert (observation.step_index, observation.done, observation.reward) == (0, False, 0.0)
    done = [env.step({}).done for _ in range(3)]
    assert done == [False, False, True]
    with pytest.raises(EpisodeStateError, match="ended after 3 windows"):
        env.step({})
    assert env.state().step_count == 3
    assert env.reset(seed=1).step_index == 0


def test_every_observation_passes_the_schema_and_the_vector_can_be_rebuilt_from_it() -> None:
    env = ServingEnv("adversarial_multitenant")
    env.reset(seed=4)
    for action in _random_actions(15, 3):
        observation = env.step(action)
        assert ServeObservation.model_validate_json(observation.model_dump_json()) == observation
        for kind in ("base", "extended"):
            assert vector(observation, kind) == encode(env.outcome.measurement, kind)
        assert observation.reward == pytest.approx(sum(observation.metadata["reward_terms"].values()))


def test_the_first_observation_shows_the_queue_before_any_action() -> None:
    observation = ServingEnv().reset(seed=8)
    assert observation.queue_depth == observation.active_requests == observation.eviction_events == 0
    assert observation.throughput_tps == observation.gpu_memory_used_gb == observation.request_arrival_rate == 0.0
    assert observation.metadata["window"]["cotenant_gb"] > 0.0
    assert "reward_terms" not in observation.metadata


@given(st.lists(ACTIONS, min_size=1, max_size=6), st.integers(0, 2**63 - 1))
@settings(max_examples=25, deadline=None)
def test_requests_are_conserved_and_numbers_stay_in_bounds_under_any_actions(
    actions: list[ServeAction], seed: int
) -> None:
    env = ServingEnv("adversarial_multitenant")
    env.reset(seed=seed)
    for action in actions:
        observation = env.step(action)
        ServeObservation.model_validate(observation.model_dump())
        state = env.state()
        ended = state.finished + state.abandoned + state.rejected
        assert state.arrived == state.queued + state.running + ended
        assert (state.queued, state.running) == (observation.queue_depth, observation.active_requests)


BAD_ACTIONS: list[Any] = [
    None,
    3,
    "x",
    [],
    {"batch_cap": 0},
    {"batch_cap": 5120},
    {"batch_cap": "32"},
    {"kv_budget_fraction": math.nan},
    {"kv_budget_fraction": math.inf},
    {"kv_budget_fraction": 0.05},
    {"speculation_depth": 80},
    {"quantization_tier": "FP8"},
    {"prefill_decode_split": 1},
    {"priority_routing": None},
    {"unknown": 1},
]


@pytest.mark.parametrize("bad", BAD_ACTIONS, ids=repr)
def test_a_refused_action_leaves_the_environment_exactly_as_it_was(bad: Any) -> None:
    env = ServingEnv("bursty_workload")
    env.reset(seed=3)
    env.step({"speculation_depth": 2})
    twin, before = env.fork(), env.state()
    with pytest.raises(InvalidInputError):
        env.step(bad)
    assert env.state() == before
    actions = _random_actions(3, 4)
    assert _trajectory(env, actions) == _trajectory(twin, actions)


@pytest.mark.parametrize("episode_id", ["", "x" * 201, 7])
def test_a_wrong_episode_id_is_refused(episode_id: Any) -> None:
    with pytest.raises(InvalidInputError, match="episode_id"):
        ServingEnv().reset(seed=1, episode_id=episode_id)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "7", True, math.nan])
def test_a_refused_reset_leaves_the_running_episode_alone(seed: Any) -> None:
    env = ServingEnv()
    env.reset(seed=3)
    env.step({})
    before = env.state()
    with pytest.raises(InvalidInputError, match="seed"):
        env.reset(seed=seed)
    with pytest.raises(UnknownTaskError, match="must be one of static_workload"):
        env.reset(seed=1, task="no_such_task")
    assert env.state() == before
    assert env.step({}).step_index == 2


@pytest.mark.parametrize(
    "arguments",
    [{"task": "nope"}, {"task": 3}, {"deployment": "nope"}, {"deployment": []}, {"engine": "nope"}, {"engine": None}],
    ids=repr,
)
def test_a_wrong_argument_of_the_constructor_is_refused_by_name(arguments: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        ServingEnv(**arguments)
    assert refused.value.field.startswith(next(iter(arguments)))


def test_a_split_is_refused_with_the_reason_where_there_is_only_one_replica() -> None:
    env = ServingEnv("static_workload", deployment="rtx4090-llama3.1-8b")
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="single replica") as refused:
        env.step({"prefill_decode_split": True})
    assert refused.value.field == "prefill_decode_split"
    assert env.step({"prefill_decode_split": False}).step_index == 1


@pytest.mark.parametrize("call", [lambda e: e.step({}), ServingEnv.state, ServingEnv.episode_log, ServingEnv.fork])
def test_before_a_reset_and_after_a_close_there_is_no_episode(call: Any) -> None:
    env = ServingEnv()
    with pytest.raises(EpisodeStateError, match="reset first"):
        call(env)
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(EpisodeStateError, match="reset first"):
        call(env)


def test_a_fork_goes_on_as_the_original_would_and_shares_nothing_with_it() -> None:
    env = ServingEnv("adversarial_multitenant")
    env.reset(seed=6)
    actions = _random_actions(12, 5)
    _trajectory(env, actions[:4])
    fork = env.fork()
    assert fork.state().episode_id != env.state().episode_id
    other = _trajectory(fork.fork(), _random_actions(8, 6))
    expected = _trajectory(env, actions[4:])
    assert _trajectory(fork, actions[4:]) == expected
    assert other != expected
    assert fork.episode_log().steps == env.episode_log().steps


def test_the_log_holds_what_was_returned() -> None:
    env = ServingEnv("static_workload")
    first = env.reset(seed=2, episode_id="mine")
    seen = [(action, env.step(action)) for action in _random_actions(4, 7)]
    log = env.episode_log()
    assert (log.initial_observation, log.episode_id, log.seed) == (first, "mine", 2)
    assert [(step.action, step.observation) for step in log.steps] == seen
    assert (log.simulator_version, log.task_id) == (__version__, "static_workload")
    assert type(log).model_validate_json(log.model_dump_json()) == log


def test_the_state_is_exact() -> None:
    env = ServingEnv("static_workload")
    env.reset(seed=2)
    total = sum(env.step({"batch_cap": 64}).reward for _ in range(3))
    state = env.state()
    assert (state.step_count, state.seed, state.task_id) == (3, 2, "static_workload")
    assert (state.episode_length, state.window_s, state.deployment) == (120, 5.0, "a100-llama3.1-8b")
    assert state.total_reward == pytest.approx(total)
    assert state.last_action == ServeAction(batch_cap=64)
    assert state.arrived > 0


def test_a_reset_without_a_seed_draws_one_from_the_training_range() -> None:
    env = ServingEnv()
    env.reset()
    assert env.state().seed in env.task.seeds.train


def test_reset_can_change_the_task() -> None:
    env = ServingEnv("static_workload")
    assert env.reset(seed=1, task="bursty_workload").task_id == "bursty_workload"
    assert env.task.id == "bursty_workload"
    assert env.reset(seed=1).task_id == "bursty_workload"


def test_a_scenario_replaces_what_the_task_would_generate_and_its_digest_says_so() -> None:
    task = load_task("bursty_workload")
    env = ServingEnv(task)
    env.start(1)
    own = env.state().task_digest
    plain = _trajectory(env, _random_actions(3, 8))
    env.start(1, scenario=generate(task, 1))
    assert _trajectory(env, _random_actions(3, 8)) == plain
    assert env.state().task_digest != own
    env.start(1, scenario=generate(task, 2))
    assert _trajectory(env, _random_actions(3, 8)) != plain


@pytest.mark.parametrize("engine", ["auto", "python", "reference"])
def test_a_pickled_environment_goes_on_identically(engine: Any) -> None:
    env = ServingEnv("adversarial_multitenant", engine=engine)
    assert pickle.loads(pickle.dumps(env)).reset(seed=3) == env.reset(seed=3)  # noqa: S301 - our own bytes
    actions = _random_actions(6, 5)
    _trajectory(env, actions[:3])
    twin = pickle.loads(pickle.dumps(env))  # noqa: S301 - our own bytes
    assert twin.state() == env.state()
    assert _trajectory(twin, actions[3:]) == _trajectory(env, actions[3:])
    assert twin.episode_log() == env.episode_log()


@pytest.mark.parametrize("engine", ["auto", "python", "reference"])
def test_an_interrupted_step_breaks_the_episode_until_reset(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = ServingEnv(engine=engine)
    env.reset(seed=1)
    setting = env._prepare(ServeAction())
    env.step({})
    with pytest.raises(EpisodeStateError, match="another window's"):
        env._run(setting)
    env.step({})
    with monkeypatch.context() as patch:
        patch.setattr(RewardMeter, "read", _interrupt)  # the engine has moved on by then
        with pytest.raises(KeyboardInterrupt):
            env.step({})
    calls: list[Callable[[], object]] = [
        lambda: env.step({}),
        env.state,
        env.episode_log,
        env.fork,
        lambda: env.outcome,
        lambda: env._run(setting),
    ]
    for call in calls:
        with pytest.raises(EpisodeStateError, match="a step was interrupted: reset"):
            call()
    with pytest.raises(EpisodeStateError, match="a step was interrupted: reset"):
        pickle.loads(pickle.dumps(env)).step({})  # noqa: S301 - our own bytes
    assert env.episode_length == 120
    env.reset(seed=1)
    assert env.step({}).step_index == 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_numpy_integers_are_integers_and_its_bools_are_not() -> None:
    env, other = ServingEnv(), ServingEnv()
    assert env.reset(seed=np.int64(4)) == other.reset(seed=4)  # type: ignore[arg-type]
    assert type(env.state().seed) is int
    assert env.step({"batch_cap": np.int64(64)}) == other.step({"batch_cap": 64})
    assert type(env.episode_log().steps[0].action.batch_cap) is int
    for bad in (np.bool_(True), np.float64(64.0), np.array([1, 2]), True):
        with pytest.raises(InvalidInputError) as refused:
            env.step({"batch_cap": bad})
        assert refused.value.field == "batch_cap"
        with pytest.raises(InvalidInputError, match="seed"):
            env.reset(seed=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda env: env.start(1, scenario=5), "scenario"),
        (lambda env: env.advance({"batch_cap": 3}), "action"),
        (lambda env: env.reset(episode_id="\ud800"), "episode_id"),
        (lambda env: env.reset(seed=1.0), "seed"),
        (lambda env: grade(env.episode_log(), scenario=5), "scenario"),  # type: ignore[arg-type]
        (lambda _: grade("\ud800"), "log"),
        (lambda _: grade('{"seed": "\ud800"}'), "log"),
    ],
)
def test_what_is_of_the_wrong_type_is_refused_by_name_and_changes_nothing(call: Any, field: str) -> None:
    env = ServingEnv()
    env.reset(seed=1)
    before = env.state()
    with pytest.raises(InvalidInputError) as refused:
        call(env)
    assert refused.value.field == field
    assert env.state() == before


def test_the_compiled_engine_without_numba_is_refused_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "available", lambda: False)
    with pytest.raises(MissingExtraError, match="fast"):
        ServingEnv(engine="numba")


@pytest.mark.skipif(not compiled.available(), reason="needs numba (extra fast)")
def test_an_episode_may_change_its_engine_between_steps_and_keeps_its_bytes() -> None:
    env, truth = ServingEnv("bursty_workload", engine="python"), ServingEnv("bursty_workload", engine="reference")
    assert env.reset(5) == truth.reset(5)
    for engine in ("python", "numba", "auto", "python", "numba"):
        env.use_engine(engine)
        assert env.engine == engine
        fork = env.fork()
        action = {"batch_cap": 128, "speculation_depth": 2}
        expected = truth.step(action).model_dump_json()
        assert env.step(action).model_dump_json() == fork.step(action).model_dump_json() == expected
    assert grade(env.episode_log()).verified


def test_the_reference_scheduler_is_not_changed_for_another_in_an_episode() -> None:
    for before, after in (("reference", "python"), ("python", "reference"), ("python", "fastest")):
        env = ServingEnv(engine=before)
        env.reset(5)
        with pytest.raises(InvalidInputError, match="engine"):
            env.use_engine(after)
        assert env.engine == before
        env.step({})


@pytest.mark.skipif(not compiled.available(), reason="needs numba (extra fast)")
def test_the_kernel_can_be_compiled_ahead_of_the_first_window() -> None:
    compiled.load()
    assert compiled.is_loaded()
    assert compiled.is_cached() == compiled.can_cache()
