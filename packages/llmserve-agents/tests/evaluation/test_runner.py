"""Evaluations: the right episodes, graded by replay, the same bytes on every executor, and correct summaries."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import numpy as np
import pytest

from llmserve_agents.clairvoyant import Budget
from llmserve_agents.cli.evaluation_tables import result_tables
from llmserve_agents.evaluation.episodes import record_episode
from llmserve_agents.evaluation.report import EvaluationReport
from llmserve_agents.evaluation.roster import AgentSpec, agent_specs, parse_agent
from llmserve_agents.evaluation.runner import Progress, _chunks, evaluation_tasks, run, runnable_agents
from llmserve_agents.evaluation.runner import test_seeds as seeds_of
from llmserve_agents.evaluation.statistics import iqm, win_rate
from llmserve_agents.executors import ProcessExecutor, RayExecutor, SerialExecutor
from llmserve_sim import grader
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.grader import grade
from llmserve_sim.references import load_references
from llmserve_sim.schema import ServeAction, ServeObservation
from llmserve_sim.tasks import load_task

TASKS = ["bursty_workload", "static_workload"]
AGENTS = ["heuristic", "static", "random"]


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    """Three agents on two tasks, three episodes each, in this process."""
    return run(AGENTS, TASKS, 3, executor=SerialExecutor(), resamples=1000)


def test_every_agent_plays_the_first_test_seeds_of_every_task_once(report: EvaluationReport) -> None:
    played = [(e.task_id, e.agent, e.seed) for e in report.episodes]
    assert played == [(task, agent, seed) for task in TASKS for agent in AGENTS for seed in seeds_of(task, 3)]
    assert all(e.split == "test" and e.complete for e in report.episodes)


def test_every_episode_is_what_the_grader_says_of_its_log(report: EvaluationReport) -> None:
    for episode in report.episodes[::4]:
        graded = grade(record_episode(parse_agent(episode.agent), episode.task_id, episode.seed))
        assert episode.verified is graded.verified is True
        assert (episode.score, episode.mean_reward, episode.components) == (
            graded.score,
            graded.mean_reward,
            graded.components,
        )
    assert report.verified


def test_the_report_is_the_same_bytes_with_any_number_of_workers(report: EvaluationReport) -> None:
    other = run(AGENTS, TASKS, 3, executor=ProcessExecutor(2), resamples=1000)
    assert other.stable().model_dump_json() == report.stable().model_dump_json()
    assert other.timing is not None
    assert other.timing.workers == 2


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'llmserve-agents[ray]'"
)
def test_the_report_is_the_same_bytes_from_a_ray_cluster(report: EvaluationReport) -> None:
    other = run(AGENTS, TASKS, 3, executor=RayExecutor(2), resamples=1000)
    assert other.stable().model_dump_json() == report.stable().model_dump_json()


def test_a_report_survives_json(report: EvaluationReport) -> None:
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
    assert json.loads(report.stable().model_dump_json())["timing"] is None


def test_standings_are_those_of_the_episodes(report: EvaluationReport) -> None:
    rewards = {agent: np.array(report.rewards(agent, TASKS[0])) for agent in AGENTS}
    row = report.result("static", TASKS[0])
    assert row.reward.value == pytest.approx(rewards["static"].mean())
    assert row.reward_iqm.value == pytest.approx(float(iqm(rewards["static"])))
    assert row.reward.low <= row.reward.value <= row.reward.high
    assert row.episodes == row.verified == 3
    versus = row.versus_first
    assert versus is not None
    assert versus.reward.value == pytest.approx((rewards["static"] - rewards["heuristic"]).mean())
    assert versus.win_rate == win_rate(rewards["static"], rewards["heuristic"]) == 0.0
    assert report.result("heuristic", TASKS[0]).versus_first is None


def test_overall_rows_are_over_all_tasks(report: EvaluationReport) -> None:
    assert [row.agent for row in report.overall] == AGENTS
    row = report.overall[1]
    everything = [e.score for e in report.episodes if e.agent == "static" and e.score is not None]
    assert row.episodes == 6
    assert row.score is not None
    assert row.score.value == pytest.approx(sum(everything) / 6)


def test_changes_of_configuration_are_counted(report: EvaluationReport) -> None:
    by_agent = {agent: report.result(agent, TASKS[0]).changes for agent in AGENTS}
    assert set(by_agent["static"].values()) == {0.0}
    assert by_agent["random"]["quantization_tier"] > 60
    assert by_agent["random"]["prefill_decode_split"] > 40
    assert by_agent["heuristic"]["prefill_decode_split"] == 0.0


def test_references_and_the_command_stand_in_the_report(report: EvaluationReport) -> None:
    assert set(report.references) == set(TASKS)
    assert report.command.startswith("llmserve evaluate --agent heuristic --agent static --agent random --task bursty")
    assert "--episodes 3 --resamples 1000" in report.command


def test_clipped_scores_are_counted_and_shown_where_references_are_paired(
    report: EvaluationReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {row.clipped for row in report.standings} == {None}
    known = load_references("bursty_workload", load_task("bursty_workload").digest)
    assert known is not None
    paired = known.model_copy(update={"paired": True})
    monkeypatch.setattr(grader, "load_references", lambda *_: paired)
    found = run(["best-static", "random"], ["bursty_workload"], 2, executor=SerialExecutor(), resamples=100)
    assert [episode.score for episode in found.episodes[:2]] == [0.5, 0.5]
    below = sum(episode.unclipped_score < 0.0 for episode in found.episodes[2:])  # type: ignore[operator]
    assert [row.clipped for row in found.standings] == [0, below]
    assert [row.clipped for row in found.overall] == [0, below]
    never = found.standings[1].model_copy(update={"clipped": 2})
    shown = found.model_copy(update={"standings": [found.standings[0], never]})
    assert any("scores clipped: random 2/2" in str(table.caption) for table in result_tables(shown))


def test_other_seeds_are_played_where_they_are_given() -> None:
    found = run(["static"], ["bursty_workload"], seeds=[7, 3], executor=SerialExecutor(), resamples=100)
    assert [(e.seed, e.split) for e in found.episodes] == [(7, "train"), (3, "train")]
    assert found.command.endswith("--seed 7 --seed 3 --resamples 100")


def test_progress_is_told_up_to_the_end() -> None:
    told: list[Progress] = []
    run(["static", "random"], ["bursty_workload"], 2, executor=SerialExecutor(), resamples=100, progress=told.append)
    assert told[-1].done == told[-1].episodes == 4


def test_an_agent_that_forks_is_given_the_environment_after_the_reset() -> None:
    spec = AgentSpec("forking", "forking", Forking)
    found = run([spec], ["bursty_workload"], 1, executor=SerialExecutor(), resamples=100)
    assert found.verified


class Forking:
    """Looks one window ahead, to see that it can."""

    def reset(self, task_id: str, seed: int) -> None:
        self.env: ServingEnv | None = None

    def attach(self, env: ServingEnv) -> None:
        assert env.state().step_count == 0
        self.env = env

    def act(self, observation: ServeObservation) -> ServeAction:
        assert self.env is not None
        action = ServeAction(batch_cap=64, quantization_tier="INT8")
        if observation.step_index == 3:
            self.env.fork().step(action)
        return action


def test_an_agent_that_cannot_start_stops_the_evaluation_before_its_first_episode() -> None:
    told: list[Progress] = []
    with pytest.raises(InvalidInputError, match="weights"):
        run(
            ["static", AgentSpec("broken", "broken", Broken)],
            ["bursty_workload"],
            1,
            executor=SerialExecutor(),
            progress=told.append,
        )
    assert told == []


class Broken(Forking):
    """Has no weights."""

    def reset(self, task_id: str, seed: int) -> None:
        raise InvalidInputError("weights", "must be there")


def test_the_clairvoyant_bound_is_searched_from_what_the_others_did_and_is_below_none_of_them() -> None:
    tiny = Budget(passes=1, strides=(1,), holds=(1,), slow_holds=(), beyond=1)
    places = (SerialExecutor(), ProcessExecutor(2))
    first, other = (
        run(["heuristic", "clairvoyant", "static"], [TASKS[0]], 2, executor=place, resamples=100, budget=tiny)
        for place in places
    )
    assert first.stable() == other.stable()
    bound = first.rewards("clairvoyant", TASKS[0])
    for rival in ("heuristic", "static"):
        assert all(high >= low for high, low in zip(bound, first.rewards(rival, TASKS[0]), strict=True))
    assert sum(bound) > sum(first.rewards("heuristic", TASKS[0]))
    assert first.verified
    with pytest.raises(InvalidInputError, match="window by window"):
        record_episode(parse_agent("clairvoyant"), TASKS[0], 1)


def test_chunks_hold_every_episode_once_and_begin_with_the_dearest() -> None:
    specs = agent_specs(["random", "heuristic", "static"])
    plan = {"bursty_workload": tuple(range(100)), "static_workload": tuple(range(50))}
    for workers in (1, 2, 16):
        chunks = _chunks(specs, plan, workers, keep_actions=False)
        work = [(chunk.task_id, chunk.spec.label, seed) for chunk in chunks for seed in chunk.seeds]
        assert len(work) == len(set(work)) == 3 * 150
        costs = [chunk.cost for chunk in chunks]
        assert costs == sorted(costs, reverse=True)
        assert costs[0] <= sum(costs) / (10 * workers)


def test_the_agents_that_can_run_here_are_told_from_those_that_cannot() -> None:
    able, unable = runnable_agents(["bursty_workload"])
    assert "heuristic" in able
    assert not set(able) & set(unable)
    assert all(unable.values())


def test_all_tasks_are_the_three_that_validators_know() -> None:
    assert evaluation_tasks(["all"]) == evaluation_tasks(None)
    assert len(evaluation_tasks(None)) == 3


def test_one_name_alone_is_a_list_of_one() -> None:
    assert evaluation_tasks("bursty_workload") == ("bursty_workload",)
    assert [spec.label for spec in agent_specs("ppo")] == ["ppo"]


def test_seeds_that_are_no_plain_integers_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="seeds: must be integers"):
        run(["static"], ["bursty_workload"], seeds=np.arange(2), executor=SerialExecutor())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"episodes": 0}, "episodes"),
        ({"episodes": 10**9}, "episodes"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"tasks": ["bursty_workload", "all"]}, "tasks"),
        ({"agents": []}, "agents"),
        ({"resamples": 5}, "resamples"),
        ({"confidence": 2.0}, "confidence"),
    ],
)
def test_bad_input_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        run(**({"agents": ["static"]} | changes))
    assert refused.value.field == field


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UnknownTaskError):
        run(["static"], ["nonsense"])
