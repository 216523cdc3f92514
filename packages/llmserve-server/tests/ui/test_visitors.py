"""The page's visitors: each has their own episode, takes places like everybody, and is graded for what they saw."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.context import LocalContext

from llmserve_server.errors import AtCapacity, EpisodeState
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.ui.controller import HOLD, PageController
from llmserve_server.ui.playground import Visitors, VisitorsEnvironment
from llmserve_server.ui.session_state import SessionState
from llmserve_server.ui.visitor import visitor_address, visitor_key
from llmserve_sim.policies import POLICIES
from llmserve_sim.schema import ServeAction

MakeRegistry = Callable[..., SessionRegistry]
TEST = "2000001"


@contextmanager
def event_of(page: str, address: str = "127.0.0.1") -> Iterator[None]:
    """An event of somebody's page, as Gradio handles it."""
    scope: dict[str, Any] = {"type": "http", "client": (address, 1), "headers": [(b"host", b"localhost")]}
    scope |= {"root_path": "/web", "app_root_path": ""}
    token = LocalContext.request.set(SimpleNamespace(session_hash=page, request=SimpleNamespace(scope=scope)))  # type: ignore[arg-type]
    yield
    LocalContext.request.reset(token)


def test_visitors_are_told_apart_by_their_pages_and_addresses(registry: SessionRegistry) -> None:
    assert (visitor_key(), visitor_address(registry.callers)) == ("", None)
    with event_of("one", "10.0.0.1"):
        assert (visitor_key(), visitor_address(registry.callers)) == ("one", "10.0.0.1")
    with event_of("two"):
        assert (visitor_key(), visitor_address(registry.callers)) == ("two", None)


@pytest.fixture
def visitors(registry: SessionRegistry) -> Visitors:
    """What stands behind OpenEnv's tab."""
    return Visitors(lambda: VisitorsEnvironment(registry, visitor_address(registry.callers)))


def test_an_event_that_names_no_page_reaches_no_environment(visitors: Visitors) -> None:
    """Else all who send none would share one."""
    with event_of(""), pytest.raises(EpisodeState):
        visitors.get_state()


def test_in_openenvs_tab_nobody_steps_or_sees_anothers_episode(visitors: Visitors) -> None:
    async def play() -> None:
        with event_of("one"):
            await visitors.reset_environment()
            await visitors.step_environment({})
            one = visitors.get_state()
        with event_of("two"):
            assert visitors.get_state() == {"episode_id": None, "step_count": 0}
            await visitors.reset_environment()
            two = visitors.get_state()
        with event_of("one"):
            assert visitors.get_state() == one
        assert one["session_id"] != two["session_id"]
        assert (one["step_count"], two["step_count"]) == (1, 0)

    asyncio.run(play())


def test_of_too_many_visitors_the_one_who_did_nothing_for_longest_loses_theirs(
    visitors: Visitors, registry: SessionRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmserve_server.ui.playground._MOST_VISITORS", 2)

    async def play() -> None:
        for page in ("one", "two", "one", "three"):
            with event_of(page):
                await visitors.reset_environment()
        with event_of("two"):
            assert visitors.get_state()["episode_id"] is None

    asyncio.run(play())
    assert registry.stats().live <= 2


def test_the_page_takes_no_more_places_than_its_visitors_share(make_registry: MakeRegistry) -> None:
    registry = make_registry(max_concurrent_envs=8)
    controller = PageController(registry, POLICIES, address=lambda: visitor_address(registry.callers))
    with event_of("one", "10.0.0.1"):
        for _ in range(2):
            controller.start(SessionState(), "static_workload", "7")
        with pytest.raises(AtCapacity, match="this address"):
            controller.start(SessionState(), "static_workload", "7")
        with pytest.raises(AtCapacity):
            registry.reset(seed=1, address=visitor_address(registry.callers))
    registry.reset(seed=1, address="10.0.0.2")


def test_starting_again_needs_no_second_place(make_registry: MakeRegistry) -> None:
    registry = make_registry(max_concurrent_envs=1)
    controller = PageController(registry, POLICIES)
    state = SessionState()
    for seed in range(3):
        state = controller.start(state, "static_workload", str(seed))
    assert [session.session_id for session in registry.open_sessions()] == [state.main]


def test_who_was_shown_the_rest_of_an_episode_has_foresight(controller: PageController) -> None:
    state = controller.start(SessionState(), "static_workload", TEST)
    controller.step(state, ServeAction(), 2)
    assert [graded.report.foresight for graded in controller.grade(state)] == [False]
    state = controller.compare(state, "static")
    assert [graded.report.foresight for graded in controller.grade(state)] == [True, False]


def test_who_compares_at_the_end_was_shown_nothing(controller: PageController) -> None:
    state = controller.start(SessionState(), "static_workload", TEST)
    controller.step(state, ServeAction(), 1000)
    state = controller.compare(state, "static")
    assert [graded.report.foresight for graded in controller.grade(state)] == [False, False]


def test_an_adopted_branch_has_foresight(controller: PageController) -> None:
    state = controller.start(SessionState(), "static_workload", TEST)
    controller.step(state, ServeAction(), 4)
    state = controller.branch(state, 1, ServeAction(batch_cap=8), HOLD)
    assert [graded.report.foresight for graded in controller.grade(state)] == [False, True]
    state = controller.adopt(state)
    controller.step(state, ServeAction(), 1)
    assert [graded.report.foresight for graded in controller.grade(state)] == [True]
