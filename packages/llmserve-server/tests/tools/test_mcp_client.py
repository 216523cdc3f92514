"""The official MCP client plays whole episodes with nothing but what the tools say about themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade
from llmserve_sim.schema import ACTION_FIELDS
from llmserve_sim.tasks.registry import list_tasks

TASKS = [task.id for task in list_tasks()]


def play(url: str, player: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    """Run a player on a session of its own."""

    async def run() -> Any:
        async with (
            streamable_http_client(f"{url}/mcp") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await player(session)

    return asyncio.run(run())


def value(spec: dict[str, Any], chance: random.Random) -> Any:
    """Return a value that an argument's schema allows."""
    if "enum" in spec:
        return chance.choice(spec["enum"])
    if spec["type"] == "boolean":
        return chance.random() < 0.5
    if spec["type"] == "integer":
        return chance.randint(spec["minimum"], spec["maximum"])
    return round(chance.uniform(spec["minimum"], spec["maximum"]), 3)


def test_the_tools_are_the_eight_with_the_bounds_of_the_action(url: str) -> None:
    async def player(session: ClientSession) -> Any:
        return (await session.list_tools()).tools

    tools = {tool.name: tool for tool in play(url, player)}
    assert list(tools) == ["tasks", "reset", "observe", "set_knobs", "advance", "forecast", "history", "grade"]
    knobs = tools["set_knobs"].inputSchema["properties"]
    assert list(knobs) == list(ACTION_FIELDS)
    assert (knobs["batch_cap"]["minimum"], knobs["batch_cap"]["maximum"]) == (1, 512)
    assert tools["reset"].inputSchema["properties"]["task_id"]["enum"] == TASKS
    assert all("session" not in str(tool.inputSchema) for tool in tools.values())


@pytest.mark.parametrize("task_id", TASKS)
def test_a_player_who_reads_only_the_schemas_plays_an_episode_that_is_verified(url: str, task_id: str) -> None:
    """The same actions in process give the same grade, so nothing is lost or added on the way."""
    chance = random.Random(task_id)

    async def player(session: ClientSession) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        tools = {tool.name: tool.inputSchema["properties"] for tool in (await session.list_tools()).tools}
        most = tools["advance"]["windows"]["maximum"]
        answer = await session.call_tool("reset", {"task_id": task_id, "seed": 2_000_000})
        chosen: list[dict[str, Any]] = []
        while not answer.structuredContent["done"]:
            knobs = {name: value(spec, chance) for name, spec in tools["set_knobs"].items()}
            assert not (await session.call_tool("set_knobs", knobs)).isError
            answer = await session.call_tool("advance", {"windows": most})
            assert not answer.isError, answer.content
            chosen += [knobs] * len(answer.structuredContent["windows"])
        return chosen, (await session.call_tool("grade", {})).structuredContent

    chosen, report = play(url, player)
    env = ServingEnv(task_id)
    env.reset(2_000_000)
    for knobs in chosen:
        env.step(knobs)
    expected = grade(env.episode_log())
    assert report["verified"] is True
    assert (report["complete"], report["score"], report["total_reward"]) == (
        True,
        expected.score,
        expected.total_reward,
    )


def test_each_client_has_an_episode_of_its_own_and_none_is_named(url: str) -> None:
    async def two() -> list[int]:
        async with (
            streamable_http_client(f"{url}/mcp") as (read_a, write_a, _),
            streamable_http_client(f"{url}/mcp") as (read_b, write_b, _),
            ClientSession(read_a, write_a) as a,
            ClientSession(read_b, write_b) as b,
        ):
            await a.initialize()
            await b.initialize()
            refused = await a.call_tool("observe", {})
            assert refused.isError
            assert "reset" in refused.content[0].text
            for session, seed in ((a, 1), (b, 2)):
                await session.call_tool("reset", {"seed": seed})
            await asyncio.gather(
                *(a.call_tool("advance", {"windows": 2}) for _ in range(3)), b.call_tool("advance", {})
            )
            seen = [(await session.call_tool("observe", {})).structuredContent["windows_run"] for session in (a, b)]
            assert [(await s.call_tool("grade", {})).structuredContent["seed"] for s in (a, b)] == [1, 2]
            return seen

    assert asyncio.run(two()) == [6, 1]


def test_a_refused_argument_is_a_tool_error_with_field_and_bound_and_changes_nothing(url: str) -> None:
    wrong = [
        ("set_knobs", {"batch_cap": 4096}, "batch_cap", "1..512"),
        ("set_knobs", {"batch_cap": 10**400}, "batch_cap", "1..512"),
        ("set_knobs", {"kv_budget_fraction": "much"}, "kv_budget_fraction", "0.1..1.0"),
        ("set_knobs", {"quantization_tier": ["INT8"]}, "quantization_tier", "FP16"),
        ("set_knobs", {}, "arguments", "at least one"),
        ("set_knobs", {"knob": 1}, "knob", "unknown"),
        ("advance", {"windows": 21}, "windows", "1..20"),
        ("advance", {"windows": True}, "windows", "1..20"),
        ("reset", {"task_id": "no_such_task"}, "task_id", "static_workload"),
        ("reset", {"seed": -1}, "seed", "0.."),
        ("forecast", {"plan": [{}, {"batch_cap": 0}]}, "plan.1.batch_cap", "1..512"),
        ("forecast", {"plan": [{}] * 3, "windows": 2}, "plan", "at most"),
        ("history", {"windows": 0}, "windows", "1..120"),
        ("grade", {"log": {}}, "log", "unknown"),
        ("no_such_tool", {}, "name", "set_knobs"),
    ]

    async def player(session: ClientSession) -> None:
        await session.call_tool("reset", {"seed": 7})
        await session.call_tool("advance", {"windows": 2})
        before = (await session.call_tool("observe", {})).content
        for name, arguments, field, bound in wrong:
            answer = await session.call_tool(name, arguments)
            error = answer.structuredContent["error"]
            assert answer.isError, name
            assert error["field"] == field, (name, error)
            assert bound in error["bound"], (name, error)
            assert error["message"] == answer.content[0].text
        assert (await session.call_tool("observe", {})).content == before

    play(url, player)


def test_a_forecast_is_the_environments_and_leaves_the_episode_alone(url: str) -> None:
    """It holds mean and deviation, repeats itself, ranks a starved fleet below a fed one, and is no look-ahead."""

    async def player(session: ClientSession) -> None:
        await session.call_tool("reset", {"task_id": "bursty_workload", "seed": 2_000_001})
        await session.call_tool("set_knobs", {"batch_cap": 64, "quantization_tier": "INT8"})
        await session.call_tool("advance", {"windows": 5})
        before = (await session.call_tool("observe", {})).content
        plans = [[{"batch_cap": 1}], [{"batch_cap": 64, "kv_budget_fraction": 0.4}]]
        found = [
            (await session.call_tool("forecast", {"plan": plan, "windows": 6})).structuredContent for plan in plans
        ]
        again = (await session.call_tool("forecast", {"plan": plans[0], "windows": 6})).structuredContent
        assert again == found[0]
        starved, fed = (sum(one["reward_per_window"]) / one["futures"] for one in found)
        assert starved < fed
        assert [window["step_index"] for window in found[0]["windows"]] == [6, 7, 8, 9, 10, 11]
        assert found[0]["windows"][3]["request_arrival_rate"]["deviation"] > 0
        assert found[1]["windows"][5]["configuration"]["batch_cap"] == 64
        assert (await session.call_tool("observe", {})).content == before
        report = (await session.call_tool("grade", {})).structuredContent
        assert (report["verified"], report["steps"]) == (True, 5)

    play(url, player)


def test_the_texts_tell_the_job_the_units_and_what_changed(url: str) -> None:
    async def player(session: ClientSession) -> list[str]:
        texts = []
        for name, arguments in (
            ("tasks", {}),
            ("reset", {"task_id": "bursty_workload", "seed": 3}),
            ("set_knobs", {"batch_cap": 64}),
            ("advance", {"windows": 2}),
            ("advance", {"windows": 3}),
            ("history", {"windows": 3}),
            ("grade", {}),
        ):
            answer = await session.call_tool(name, arguments)
            assert answer.structuredContent, name
            texts.append(answer.content[0].text)
        return texts

    tasks, start, chosen, first, second, history, graded = play(url, player)
    assert all(task_id in tasks for task_id in TASKS)
    assert "Bursty workload" in start
    assert "TTFT p99 ms: 99th percentile" in start
    assert "120 are left" in start
    assert "batch_cap 32 -> 64" in chosen
    assert "Ran 2 windows under batch_cap 64" in first
    assert "From window 2 to 5:" in second
    assert second.splitlines()[-3:] == [line for line in second.splitlines() if line[:2] in {"3 ", "4 ", "5 "}]
    assert history.splitlines()[-1].endswith("64 | 1.0 | 0 | FP16 | false | false")
    assert "verified by replay: yes" in graded


def test_a_client_that_leaves_gives_its_place_back(url: str) -> None:
    """The client sends DELETE."""

    async def player(session: ClientSession) -> str:
        await session.call_tool("reset", {"seed": 5})
        return (await asyncio.to_thread(httpx.get, f"{url}/metrics")).text

    places = [line for line in play(url, player).splitlines() if line.startswith("llmserve:sessions{")]
    assert any('transport="mcp"' in line and line.endswith(" 1.0") for line in places)
    assert 'transport="mcp"' not in httpx.get(f"{url}/metrics").text
