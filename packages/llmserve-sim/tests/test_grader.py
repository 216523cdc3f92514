"""A genuine log is verified and scored; anything else is not, and the reason is given."""

from __future__ import annotations

import json
import math
from functools import cache
from statistics import fmean
from typing import Any

import pytest

from llmserve_sim import grader, references
from llmserve_sim.__about__ import __version__
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.grader import COMPONENTS, grade, score_of
from llmserve_sim.policies import RandomPolicy, StaticPolicy, ThresholdPolicy, make_policy
from llmserve_sim.schema import EpisodeLog, ReferenceScores, ServeAction
from llmserve_sim.tasks import list_tasks, load_task, registry
from llmserve_sim.workload.scenario import generate

REFERENCES = ReferenceScores(
    random=0.1,
    best_static=0.5,
    clairvoyant=0.7,
    provisional=True,
    simulator_version=__version__,
    task_digest="0" * 64,
    seeds=[1],
    budget="none",
    command="none",
    best_static_action=ServeAction(),
)


def _run(task: str, policy: Any, windows: int, seed: int = 77) -> EpisodeLog:
    env = ServingEnv(task)
    observation = env.reset(seed=seed, episode_id="test")
    policy.reset(task, seed)
    for _ in range(windows):
        observation = env.step(policy.act(observation))
    return env.episode_log()


def mean_reward(env: ServingEnv, policy: Any, seeds: list[int]) -> float:
    """What a policy earns per window over whole episodes."""
    total = 0.0
    for seed in seeds:
        observation = env.reset(seed)
        policy.reset(env.task.id, seed)
        while not observation.done:
            observation = env.step(policy.act(observation))
        total += env.state().total_reward
    return total / (len(seeds) * env.episode_length)


@cache
def _log_json() -> str:
    return _run("bursty_workload", RandomPolicy(), 6).model_dump_json()


@pytest.mark.parametrize("task", ["static_workload", "bursty_workload", "adversarial_multitenant"])
def test_a_genuine_log_is_verified_however_it_arrives(task: str) -> None:
    log = _run(task, ThresholdPolicy(), 4)
    reports = [grade(form) for form in (log, log.model_dump_json(), log.model_dump(), log.model_dump_json().encode())]
    assert all(report == reports[0] for report in reports)
    report = reports[0]
    assert report.verified is True
    assert (report.steps, report.episode_length, report.complete) == (4, 120, False)
    assert report.total_reward == pytest.approx(sum(step.observation.reward for step in log.steps))
    assert set(report.components) == set(COMPONENTS)
    assert all(0.0 <= value <= 1.0 for value in report.components.values())


def test_a_complete_episode_is_marked_so() -> None:
    assert grade(_run("static_workload", StaticPolicy(), 120)).complete


def test_the_engine_that_replays_does_not_change_the_grade() -> None:
    assert grade(_log_json(), engine="python") == grade(_log_json())


def _edit(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(_log_json())
    node: Any = log
    for key in path[:-1]:
        node = node[key]
    assert node[path[-1]] != value
    node[path[-1]] = value
    return log


def _leaves(node: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    if isinstance(node, dict):
        return [leaf for key, item in node.items() for leaf in _leaves(item, (*prefix, key))]
    return [(prefix, node)]


STEP = ("steps", 3, "observation")
OBSERVED = [
    *(name for name in json.loads(_run("bursty_workload", RandomPolicy(), 1).steps[0].observation.model_dump_json())),
]


@pytest.mark.parametrize("name", [n for n in OBSERVED if n not in {"metadata", "task_id"}])
@pytest.mark.parametrize("where", [STEP, ("initial_observation",)], ids=["step", "initial"])
def test_an_edited_observation_is_not_verified_and_is_named(name: str, where: tuple[str | int, ...]) -> None:
    node: Any = json.loads(_log_json())
    for key in where:
        node = node[key]
    old = node[name]
    new: Any = not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else old * 0.5 + 0.01
    report = grade(_edit((*where, name), new))
    assert (report.verified, report.score, report.components) == (False, None, {})
    assert report.reason is not None
    assert report.reason.startswith(".".join([*map(str, where), name]))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("steps", 3, "observation", "task_id"), "static_workload", "steps.3.observation.task_id"),
        (("steps", 3, "observation", "metadata", "window", "cotenant_gb"), 1.0, "steps.3.observation.metadata"),
        (("steps", 3, "observation", "metadata"), {}, "steps.3.observation.metadata"),
        (("steps", 2, "action", "batch_cap"), 77, "steps.2.observation"),
        (("seed",), 78, "observation"),
        (("simulator_version",), "0.0.1", "made by version 0.0.1; this is version"),
        (("schema_hash",), "0" * 64, "another schema"),
        (("task_digest",), "0" * 64, "another definition of the task"),
        (("task_id",), "static_workload", "another definition of the task"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_an_edited_log_is_not_verified_and_the_reason_says_why(
    path: tuple[str | int, ...], value: Any, reason: str
) -> None:
    report = grade(_edit(path, value))
    assert (report.verified, report.score) == (False, None)
    assert report.reason is not None
    assert reason in report.reason


def test_reordered_repeated_and_dropped_steps_are_not_verified() -> None:
    log = json.loads(_log_json())
    steps = log["steps"]
    for edited in (steps[::-1], [*steps[:2], *steps[1:]], steps[1:]):
        assert grade({**log, "steps": edited}).verified is False


def test_the_beginning_of_a_genuine_log_is_genuine() -> None:
    log = json.loads(_log_json())
    report = grade({**log, "steps": log["steps"][:3]})
    assert (report.verified, report.steps, report.complete) == (True, 3, False)


def test_windows_that_are_missing_count_as_the_random_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """However good its windows were, a prefix is worth no more than a random end would have made it."""
    monkeypatch.setattr(grader, "load_references", lambda *_: REFERENCES)
    log = json.loads(_log_json())
    for count in (1, 6):
        report = grade({**log, "steps": log["steps"][:count]})
        mean = (report.total_reward + (120 - count) * REFERENCES.random) / 120
        assert report.score == pytest.approx(score_of(mean, REFERENCES))
        assert report.score is not None
        assert report.score < 0.1
        assert not report.complete


@pytest.mark.parametrize("name", ["train", "validation", "test", "reference"])
def test_a_report_says_which_split_the_seed_is_in(name: str) -> None:
    seed = next(r.start for split, r in load_task("static_workload").seeds.items() if split == name)
    assert grade(_run("static_workload", StaticPolicy(), 1, seed)).split == name


def test_a_seed_outside_every_range_and_a_given_scenario_have_no_split() -> None:
    assert grade(_run("static_workload", StaticPolicy(), 1, 2**62 + 5)).split is None
    scenario = generate(load_task("static_workload"), 5)
    env = ServingEnv("static_workload")
    env.start(1, scenario=scenario)
    assert grade(env.episode_log(), scenario=scenario).split is None


@pytest.mark.parametrize("name", ["/etc/x.toml", "../../x.toml", "x.toml", "static_workload/../x", "Static", ""])
def test_a_log_that_names_a_path_is_refused_and_nothing_is_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_read", lambda path: pytest.fail(f"opened {path}"))
    with pytest.raises(InvalidInputError) as refused:
        grade(_edit(("task_id",), name))
    assert refused.value.field == "task_id"
    log = EpisodeLog.model_validate_json(_log_json()).model_copy(update={"task_id": name})
    with pytest.raises(InvalidInputError) as refused:
        grade(log)
    assert refused.value.field == "task_id"


def test_the_reason_names_the_deployment_or_the_trace_that_differs() -> None:
    env = ServingEnv("static_workload", deployment="rtx4090-llama3.1-8b")
    env.reset(seed=1)
    report = grade(env.episode_log())
    assert "the deployment rtx4090-llama3.1-8b, graded on a100-llama3.1-8b" in str(report.reason)
    assert report.references is None
    first, second = (generate(load_task("static_workload"), seed) for seed in (5, 6))
    env = ServingEnv("static_workload")
    env.start(1, scenario=first)
    log = env.episode_log()
    assert (log.deployment, log.scenario_digest) == ("a100-llama3.1-8b", first.digest())
    assert "graded without one: pass the scenario" in str(grade(log).reason)
    assert "another scenario (trace)" in str(grade(log, scenario=second).reason)
    assert "another scenario (trace)" in str(grade(_log_json(), scenario=first).reason)


@pytest.mark.parametrize("edit", [{"deployment": "mine"}, {"scenario_digest": "0" * 64}])
def test_an_edited_deployment_or_scenario_is_not_verified(edit: dict[str, str]) -> None:
    assert grade({**json.loads(_log_json()), **edit}).verified is False


def test_a_log_ten_times_too_long_is_not_verified() -> None:
    log = json.loads(_log_json())
    report = grade({**log, "steps": log["steps"] * 200})
    assert report.verified is False
    assert report.reason is not None
    assert "1200 steps" in report.reason


def test_a_log_without_steps_has_no_score() -> None:
    report = grade({**json.loads(_log_json()), "steps": []})
    assert (report.verified, report.score, report.mean_reward) == (True, None, 0.0)
    assert report.reason == "no score: the log has no steps"


def test_a_log_of_an_unknown_task_is_refused() -> None:
    with pytest.raises(UnknownTaskError):
        grade(_edit(("task_id",), "no_such_task"))


def test_a_split_that_the_deployment_cannot_do_is_not_verified() -> None:
    env = ServingEnv("static_workload", deployment="rtx4090-llama3.1-8b")
    env.reset(seed=1)
    env.step({})
    log = json.loads(env.episode_log().model_dump_json())
    assert grade(log, deployment="rtx4090-llama3.1-8b").verified is True
    assert grade(log).verified is False
    log["steps"][0]["action"]["prefill_decode_split"] = True
    report = grade(log, deployment="rtx4090-llama3.1-8b")
    assert report.verified is False
    assert "refused on replay" in str(report.reason)


def test_a_custom_task_gets_components_and_no_score() -> None:
    task = load_task("static_workload").model_copy(update={"id": "mine", "patience_s": 20.0})
    env = ServingEnv(task)
    env.reset(seed=1)
    env.step({})
    report = grade(env.episode_log(), task=task)
    assert (report.verified, report.score) == (True, None)
    assert "there are no references" in str(report.reason)
    assert report.components


def test_a_replayed_scenario_is_graded_on_that_scenario() -> None:
    scenario = generate(load_task("static_workload"), 5)
    env = ServingEnv("static_workload")
    env.start(1, scenario=scenario)
    env.step({})
    log = env.episode_log()
    report = grade(log, scenario=scenario)
    assert (report.verified, report.score) == (True, None)
    assert grade(log).verified is False


@pytest.mark.parametrize(
    ("mean", "score"),
    [(-1.0, 0.0), (0.1, 0.0), (0.3, 0.25), (0.5, 0.5), (0.6, 0.75), (0.7, 1.0), (0.9, 1.0)],
)
def test_the_score_is_piecewise_linear_between_the_references_and_clipped(mean: float, score: float) -> None:
    assert score_of(mean, REFERENCES) == pytest.approx(score)


@pytest.mark.parametrize("task", [task.id for task in list_tasks(extended=False)])
def test_the_committed_references_are_what_their_policies_earn(task: str) -> None:
    env = ServingEnv(task)
    env.start(0)
    found = references.load_references(task, env.state().task_digest)
    assert found is not None, "run: python -m llmserve_agents.references"
    assert mean_reward(env, StaticPolicy(found.best_static_action), found.seeds) == pytest.approx(found.best_static)
    assert mean_reward(env, RandomPolicy(), found.seeds) == pytest.approx(found.random)


def test_a_whole_episode_of_the_best_fixed_configuration_scores_about_one_half() -> None:
    env = ServingEnv("bursty_workload")
    env.start(0)
    found = references.load_references("bursty_workload", env.state().task_digest)
    assert found is not None
    scores = [grade(_run("bursty_workload", StaticPolicy(found.best_static_action), 120, s)).score for s in found.seeds]
    assert fmean(score for score in scores if score is not None) == pytest.approx(0.5, abs=0.1)
    random = grade(_run("bursty_workload", RandomPolicy(), 120, found.seeds[0]))
    assert random.score is not None
    assert random.score < 0.1
    assert random.references == found


def test_references_of_another_task_version_or_simulator_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_read", lambda _: REFERENCES)
    assert references.load_references("any", "0" * 64) == REFERENCES
    assert references.load_references("any", "1" * 64) is None
    older = REFERENCES.model_copy(update={"simulator_version": "0.0.0"})
    monkeypatch.setattr(references, "_read", lambda _: older)
    assert references.load_references("any", "0" * 64) is None


@pytest.mark.parametrize("task_id", ["../schema", "", "no_such_task", "static_workload/../x"])
def test_references_are_looked_up_by_name_and_never_by_path(task_id: str) -> None:
    assert references.load_references(task_id, "0" * 64) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_a_number_in_metadata_never_verifies(value: float) -> None:
    log = json.loads(_log_json())
    log["steps"][0]["observation"]["metadata"]["window"]["progress"] = value
    assert grade(log).verified is False


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="policy: must be one of random, static, threshold"):
        make_policy("oracle")


PAIRED = REFERENCES.model_copy(update={"paired": True, "best_static_action": ServeAction(batch_cap=64)})


def test_the_best_fixed_configuration_scores_one_half_on_every_seed_if_references_are_paired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grader, "load_references", lambda *_: PAIRED)
    for seed in (1, 2, 3):
        report = grade(_run("bursty_workload", StaticPolicy(PAIRED.best_static_action), 120, seed))
        assert (report.score, report.unclipped_score, report.clipped) == (0.5, 0.5, False)


def test_a_paired_score_is_the_difference_on_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = _run("bursty_workload", RandomPolicy(), 120)
    fixed = grade(_run("bursty_workload", StaticPolicy(PAIRED.best_static_action), 120))
    alone = grade(log)
    assert (alone.unclipped_score, alone.clipped) == (None, None)
    monkeypatch.setattr(grader, "load_references", lambda *_: PAIRED)
    report = grade(log)
    unclipped = 0.5 + 0.5 * (report.mean_reward - fixed.mean_reward) / (PAIRED.best_static - PAIRED.random)
    assert report.unclipped_score == pytest.approx(unclipped)
    assert report.score == min(1.0, max(0.0, unclipped)) == 0.0
    assert report.clipped is True
    better = grader.paired_score(0.05, PAIRED)
    assert better == pytest.approx(0.5 + 0.5 * 0.05 / (PAIRED.clairvoyant - PAIRED.best_static))
    assert score_of(report.mean_reward + 0.05, PAIRED, report.mean_reward) == better


def test_windows_that_are_missing_count_as_the_random_policy_beside_the_fixed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grader, "load_references", lambda *_: PAIRED)
    log = json.loads(_run("bursty_workload", StaticPolicy(PAIRED.best_static_action), 30).model_dump_json())
    for count in (1, 30):
        report = grade({**log, "steps": log["steps"][:count]})
        assert report.unclipped_score == pytest.approx(0.5 * count / 120)
        assert not report.complete


def test_without_a_pair_paired_references_score_a_mean_as_others_do() -> None:
    for mean in (-1.0, 0.1, 0.3, 0.5, 0.6, 0.9):
        assert score_of(mean, PAIRED) == score_of(mean, REFERENCES, 0.2) == score_of(mean, REFERENCES)
        assert score_of(mean, PAIRED, PAIRED.best_static) == pytest.approx(score_of(mean, PAIRED))
