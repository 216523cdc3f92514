"""The suites: what they run, that they repeat themselves, and that it does not matter where."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve_agents.environment import Environment, InProcess, Remote, public_url
from llmserve_agents.errors import EndpointError, MissingKeyError, RequestCapError
from llmserve_agents.evaluation.baseline import (
    DETERMINISTIC_AGENTS,
    LLMOptions,
    Progress,
    default_seeds,
    run_suite,
    validator_tasks,
)
from llmserve_agents.evaluation.baseline_report import BaselineReport
from llmserve_agents.llm.endpoint import Patience
from llmserve_agents.policy import AGENTS, make_agent
from llmserve_client.testing import LocalServer
from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.schema import ServeAction, ServeObservation
from llmserve_sim.tasks import load_task

TASK = "bursty_workload"


@pytest.fixture(scope="module")
def suite() -> BaselineReport:
    """The deterministic suite as anyone runs it."""
    return run_suite()


def test_the_suite_is_the_heuristic_and_what_it_is_compared_with_on_the_three_tasks_at_test_seeds(
    suite: BaselineReport,
) -> None:
    assert [summary.agent for summary in suite.agents] == list(DETERMINISTIC_AGENTS)
    assert suite.tasks == list(validator_tasks())
    assert suite.agent == "heuristic"
    for episode in suite.episodes:
        assert episode.split == "test"
        assert episode.seed in default_seeds("deterministic", episode.task_id)
    assert len(suite.episodes) == len(DETERMINISTIC_AGENTS) * 3 * 3


def test_every_episode_is_complete_verified_and_scored(suite: BaselineReport) -> None:
    assert suite.verified is True
    for episode in suite.episodes:
        assert episode.complete
        assert episode.verified
        assert episode.score is not None
        assert set(episode.components) == {"throughput", "slo", "memory", "cost", "quality"}


def test_means_are_those_of_the_episodes(suite: BaselineReport) -> None:
    for summary in suite.agents:
        mine = [episode for episode in suite.episodes if episode.agent == summary.agent]
        assert summary.mean_reward == pytest.approx(sum(episode.mean_reward for episode in mine) / len(mine))
        for task in suite.tasks:
            scores = [episode.score for episode in mine if episode.task_id == task and episode.score is not None]
            assert summary.task_scores[task] == pytest.approx(sum(scores) / 3)
    assert suite.score == suite.agents[0].mean_score


def test_the_suite_is_the_same_from_run_to_run_byte_for_byte(suite: BaselineReport) -> None:
    first, again = (run_suite(tasks=[TASK], seeds=[2_000_000]) for _ in range(2))
    assert first.model_dump_json() == again.model_dump_json()
    assert all(episode in suite.episodes for episode in first.episodes)


def test_a_report_survives_json(suite: BaselineReport) -> None:
    assert BaselineReport.model_validate_json(suite.model_dump_json()) == suite


def test_the_command_in_a_report_names_what_is_not_the_default(suite: BaselineReport) -> None:
    assert suite.command == "llmserve baseline --mode deterministic --runtime in-process"
    other = run_suite(tasks=[TASK], seeds=[5], agents=["threshold"])
    assert other.command.endswith("--agent threshold --task bursty_workload --seed 5")


class Recorder:
    """An environment that remembers the actions, and what they were answered with."""

    def __init__(self, inner: Environment) -> None:
        self.actions: list[ServeAction] = []
        self.seen: list[str] = []
        self.reset, self.episode_length, self.grade, self.close = (
            inner.reset,
            inner.episode_length,
            inner.grade,
            inner.close,
        )
        self._step = inner.step

    def step(self, action: ServeAction) -> ServeObservation:
        """Pass it on."""
        self.actions.append(action)
        observation = self._step(action)
        self.seen.append(observation.model_dump_json())
        return observation


@pytest.mark.parametrize("name", list(AGENTS))
@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_an_agent_acts_alike_here_and_over_the_network(name: str, transport: str) -> None:
    here = Recorder(InProcess())
    there = Recorder(Remote(LocalServer().client(transport=transport)))
    reports = [run_suite(tasks=[TASK], seeds=[2_000_007], agents=[name], environment=env) for env in (here, there)]
    there.close()
    assert here.actions == there.actions
    assert here.seen == there.seen
    assert reports[0].episodes == reports[1].episodes


def test_an_agent_is_a_policy_with_a_name() -> None:
    assert {"random", "static", "threshold", "heuristic"} <= set(AGENTS)
    with pytest.raises(InvalidInputError, match="agent: must be one of random"):
        make_agent("oracle")


def test_progress_is_told_at_every_window() -> None:
    told: list[Progress] = []
    run_suite(tasks=[TASK], seeds=[1, 2], agents=["static"], progress=told.append)
    windows = load_task(TASK).windows
    assert [at.window for at in told] == [*range(windows + 1)] * 2
    assert {at.episode for at in told} == {1, 2}
    assert {at.episodes for at in told} == {2}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"mode": "guess"}, "mode"),
        ({"runtime": "moon"}, "runtime"),
        ({"runtime": "http"}, "base_url"),
        ({"base_url": "http://x"}, "base_url"),
        ({"agents": ["nobody"]}, "agent"),
        ({"agents": ["static", "static"]}, "agents"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"tasks": [TASK, TASK]}, "tasks"),
        ({"mode": "openai", "agents": ["static"]}, "agents"),
        ({"tasks": [TASK], "seeds": [-1]}, "seed"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{field}:"):
        run_suite(**arguments)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UnknownTaskError):
        run_suite(tasks=["nothing"])


def llm(endpoint: Any, **options: Any) -> LLMOptions:
    return LLMOptions(api_key=endpoint.KEY, base_url=endpoint.url, **options)


def test_the_openai_suite_reports_what_the_model_did_and_took(endpoint: Any) -> None:
    bad = {5, 6, 50}
    endpoint.script = lambda n, _body: endpoint.reply("hm") if n in bad else endpoint.good()
    report = run_suite("openai", tasks=[TASK], llm=llm(endpoint))
    windows = load_task(TASK).windows
    assert report.agent == "openai"
    assert report.model == "gpt-4.1-mini"
    assert report.verified is True
    assert report.versions.keys() == {"llmserve-agents", "llmserve-sim", "openai"}
    assert report.prices is not None
    assert report.prices.endswith("as of 2026-06-21")
    [episode] = report.episodes
    assert episode.invalid_actions == 3
    assert episode.usage is not None
    assert episode.usage.requests == windows
    [summary] = report.agents
    assert (summary.prompt_tokens, summary.completion_tokens) == (100 * windows, 20 * windows)
    assert summary.cost_usd == episode.usage.cost_usd
    assert endpoint.KEY not in report.model_dump_json()
    # Every window repeated or chose the same action: a fixed configuration's score, and nobody else's.
    fixed = Recorder(InProcess())
    observation = fixed.reset(TASK, episode.seed)
    while not observation.done:
        observation = fixed.step(endpoint.GOOD)
    assert fixed.grade().score == episode.score


def test_the_openai_agent_acts_alike_here_and_over_the_network(endpoint: Any) -> None:
    here, there = Recorder(InProcess()), Recorder(Remote(LocalServer().client()))
    prompts = []
    for env in (here, there):
        endpoint.bodies.clear()
        run_suite("openai", tasks=["static_workload"], llm=llm(endpoint), environment=env)
        prompts.append([body["messages"] for body in endpoint.bodies])
    there.close()
    assert here.seen == there.seen
    assert prompts[0] == prompts[1]


def test_without_a_key_nothing_is_asked(endpoint: Any) -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        run_suite("openai", llm=LLMOptions(base_url=endpoint.url))
    assert endpoint.bodies == []


def test_a_suite_that_cannot_fit_under_the_cap_is_refused_before_it_starts(endpoint: Any) -> None:
    with pytest.raises(RequestCapError, match="needs 360 requests, and the cap is 100"):
        run_suite("openai", llm=llm(endpoint, patience=Patience(max_requests=100)))
    assert endpoint.bodies == []


def test_an_endpoint_that_fails_for_good_ends_the_suite(endpoint: Any) -> None:
    endpoint.follow(endpoint.good(), endpoint.reply(status=401, error="bad"))
    with pytest.raises(EndpointError, match="the API key is not accepted"):
        run_suite("openai", tasks=[TASK], llm=llm(endpoint))


def test_options_show_no_key() -> None:
    assert "sk-" not in repr(LLMOptions(api_key="sk-secret"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://localhost:7860", "http://localhost:7860"),
        ("https://me:secret@host/base?token=x#y", "https://host/base"),
    ],
)
def test_a_reported_address_has_no_secrets(url: str, shown: str) -> None:
    assert public_url(url) == shown
