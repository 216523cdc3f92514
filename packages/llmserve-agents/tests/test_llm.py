"""The OpenAI agent: what it does with good answers, bad ones and none, and how it accounts for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmserve_agents.errors import EndpointError
from llmserve_agents.llm.agent import OpenAIAgent
from llmserve_agents.llm.endpoint import ChatEndpoint, Patience
from llmserve_agents.llm.prices import PRICES, Price
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.schema import ServeAction


@pytest.fixture
def make(endpoint: Any) -> Iterator[Any]:
    made: list[OpenAIAgent] = []

    def agent(model: str = "gpt-4.1-mini", patience: Patience | None = None, **options: Any) -> OpenAIAgent:
        chat = ChatEndpoint(
            model, api_key=endpoint.KEY, base_url=endpoint.url, patience=patience, sleep=lambda _seconds: None
        )
        made.append(OpenAIAgent(chat, **options))
        return made[-1]

    yield agent
    for one in made:
        one.close()


def play(agent: OpenAIAgent, windows: int, task: str = "static_workload") -> list[ServeAction]:
    """Run some windows and return the actions."""
    env = ServingEnv(task)
    observation = env.reset(seed=1)
    agent.reset(task, 1)
    actions = []
    for _ in range(windows):
        actions.append(agent.act(observation))
        observation = env.step(actions[-1])
    return actions


def test_a_good_answer_is_the_action(endpoint: Any, make: Any) -> None:
    agent = make()
    assert play(agent, 3) == [endpoint.GOOD] * 3
    usage = agent.usage()
    assert (usage.requests, usage.invalid_actions, usage.failed_requests) == (3, 0, 0)
    assert usage.response_format == "json_schema"


def test_the_prompt_shows_the_last_windows_and_no_more(endpoint: Any, make: Any) -> None:
    play(make(history=2), 5)
    shown = [body["messages"][1]["content"].count('"window":') for body in endpoint.bodies]
    assert shown == [1, 2, 2, 2, 2]
    last = endpoint.bodies[-1]["messages"][1]["content"].splitlines()[1:-1]
    assert [json.loads(line)["window"] for line in last] == [3, 4]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"content": "Raise the cap."}, "malformed"),
        ({"content": '{"batch_cap": 9999}'}, "malformed"),
        ({"content": '{"batch_cap": 64, "kv_budg', "finish_reason": "length"}, "truncated"),
        ({"content": None, "refusal": "I cannot help with that."}, "refused"),
        ({"content": "", "finish_reason": "content_filter"}, "refused"),
        ({"content": "  "}, "empty"),
        ({"content": None}, "empty"),
        ({"raw": b"not even JSON"}, "empty"),
    ],
)
def test_an_answer_that_is_no_action_is_counted_and_repeats_the_last_configuration(
    endpoint: Any, make: Any, answer: dict[str, Any], reason: str
) -> None:
    endpoint.follow(endpoint.good(), endpoint.reply(**answer), endpoint.good(ServeAction(batch_cap=8)))
    agent = make()
    assert play(agent, 3) == [endpoint.GOOD, endpoint.GOOD, ServeAction(batch_cap=8)]
    usage = agent.usage()
    assert usage.invalid_actions == 1
    assert usage.invalid_reasons == {reason: 1}
    assert usage.failed_requests == 0


def test_before_any_valid_answer_the_documented_default_is_in_force(endpoint: Any, make: Any) -> None:
    endpoint.follow(endpoint.reply("hm"))
    agent = make()
    assert play(agent, 4) == [ServeAction()] * 4
    assert agent.usage().invalid_actions == 4


def test_a_window_without_an_answer_is_counted_apart_and_repeats_the_last_configuration(
    endpoint: Any, make: Any
) -> None:
    endpoint.follow(endpoint.good(), endpoint.reply(status=500), endpoint.reply(status=500), endpoint.good())
    agent = make(patience=Patience(retries=1))
    assert play(agent, 3) == [endpoint.GOOD] * 3
    usage = agent.usage()
    assert (usage.requests, usage.retries) == (4, 1)
    assert (usage.invalid_actions, usage.failed_requests) == (0, 1)
    assert usage.invalid_reasons == {"http_500": 1}


def test_a_429_that_passes_costs_nothing_but_a_repetition(endpoint: Any, make: Any) -> None:
    endpoint.follow(endpoint.reply(status=429, headers={"retry-after": "1"}), endpoint.good())
    agent = make()
    assert play(agent, 1) == [endpoint.GOOD]
    assert (agent.usage().requests, agent.usage().retries, agent.usage().failed_requests) == (2, 1, 0)


def test_three_windows_in_a_row_without_an_answer_end_the_run(endpoint: Any, make: Any) -> None:
    endpoint.follow(endpoint.reply(status=503, error="down"))
    with pytest.raises(EndpointError, match=r"3 windows in a row.*down"):
        play(make(patience=Patience(retries=0)), 10)
    assert len(endpoint.bodies) == 3


def test_tokens_are_summed_and_priced(endpoint: Any, make: Any) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 400}}
    endpoint.follow(endpoint.good(usage=usage))
    agent = make()
    play(agent, 2)
    used = agent.usage()
    price = PRICES["gpt-4.1-mini"]
    assert (used.prompt_tokens, used.cached_prompt_tokens, used.completion_tokens) == (2000, 800, 100)
    assert used.cost_usd == pytest.approx(
        (
            1200 * price.prompt_usd_per_million
            + 800 * price.cached_prompt_usd_per_million
            + 100 * price.completion_usd_per_million
        )
        / 1e6
    )


def test_a_model_without_a_price_has_no_cost_unless_one_is_given(make: Any) -> None:
    agent = make(model="my-own-8b")
    play(agent, 1)
    assert agent.usage().cost_usd is None
    free = Price(prompt_usd_per_million=0, cached_prompt_usd_per_million=0, completion_usd_per_million=0)
    agent = make(model="my-own-8b", prices={"my-own-8b": free})
    play(agent, 1)
    assert agent.usage().cost_usd == 0.0


def test_answers_that_the_endpoint_did_not_count_make_the_cost_unknown(endpoint: Any, make: Any) -> None:
    endpoint.follow(endpoint.good(), endpoint.good(usage=None))
    agent = make()
    play(agent, 2)
    assert agent.usage().uncounted_answers == 1
    assert agent.usage().cost_usd is None


def test_a_new_episode_counts_anew_and_remembers_what_the_endpoint_refused(endpoint: Any, make: Any) -> None:
    endpoint.script = lambda _n, body: (
        endpoint.reply(status=400, error="no json_schema here")
        if body.get("response_format", {}).get("type") == "json_schema"
        else endpoint.reply("hm")
    )
    agent = make()
    play(agent, 2)
    assert agent.usage().requests == 3
    play(agent, 2)
    used = agent.usage()
    assert (used.requests, used.invalid_actions) == (2, 2)
    assert used.response_format == "json_object"
    assert len(used.concessions) == 1


def test_the_transcript_holds_every_question_and_answer_and_never_the_key(
    endpoint: Any, make: Any, tmp_path: Path
) -> None:
    endpoint.follow(endpoint.good(), endpoint.reply(f"my key is {endpoint.KEY}"), endpoint.reply(status=500))
    path = tmp_path / "talk.jsonl"
    agent = make(transcript=path, patience=Patience(retries=0))
    play(agent, 3)
    agent.close()
    text = path.read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    assert [entry["event"] for entry in entries] == ["episode", "window", "window", "window"]
    assert entries[0]["seed"] == 1
    assert "The knobs:" in entries[0]["system"]
    assert entries[1]["action"] == endpoint.GOOD.model_dump()
    assert entries[1]["tokens"] == {"prompt": 100, "cached_prompt": 0, "completion": 20}
    assert entries[2]["problem"] == "not one JSON object"
    assert entries[2]["answer"] == "my key is [redacted]"
    assert entries[3]["answer"] is None
    assert "500" in entries[3]["problem"]
    assert endpoint.KEY not in text


def test_a_transcript_that_cannot_be_written_is_refused_before_anything_is_asked(
    endpoint: Any, make: Any, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="transcript"):
        make(transcript=tmp_path)
    assert endpoint.bodies == []


@pytest.mark.parametrize("history", [0, 121, 2.5])
def test_a_wrong_history_is_refused(make: Any, history: Any) -> None:
    with pytest.raises(InvalidInputError, match="history"):
        make(history=history)


def test_its_repr_names_the_model_and_nothing_else(make: Any) -> None:
    assert repr(make()) == "OpenAIAgent(model='gpt-4.1-mini')"
