"""What a visitor can do, without a browser."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmserve_agents.errors import AgentError
from llmserve_server.errors import (
    AgentUnavailable,
    EpisodeState,
    InvalidField,
    NotForkable,
    StepConflict,
    UnknownSession,
)
from llmserve_server.sessions import SessionRegistry
from llmserve_server.ui.desk import HOLD, REPEAT, Desk, sentence
from llmserve_server.ui.visit import Visit
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.policies import POLICIES, StaticPolicy, make_policy
from llmserve_sim.schema import ServeAction, ServeObservation, parse_log

NARROW = ServeAction(batch_cap=8)
WIDE = ServeAction(batch_cap=128, quantization_tier="INT8")


@pytest.fixture
def visit(desk: Desk) -> Visit:
    """Somebody with an episode."""
    return desk.start(Visit(), "static_workload", "7")


def test_an_episode_starts_on_the_task_and_seed_that_were_asked_for(desk: Desk, visit: Visit) -> None:
    log = desk.runs(visit)[0].log
    assert (log.task_id, log.seed, log.steps) == ("static_workload", 7, [])


def test_without_a_seed_one_of_the_training_seeds_is_drawn(desk: Desk) -> None:
    log = desk.runs(desk.start(Visit(), "bursty_workload", "  "))[0].log
    assert 0 <= log.seed < 1_000_000


@pytest.mark.parametrize("seed", ["-1", "1.5", "seven", "9" * 19, "²"])
def test_a_seed_that_is_none_is_refused_and_the_running_episode_stays(desk: Desk, visit: Visit, seed: str) -> None:
    with pytest.raises(InvalidField, match="whole number"):
        desk.start(visit, "static_workload", seed)
    assert desk.runs(visit)[0].log.seed == 7


def test_an_unknown_task_is_refused(desk: Desk) -> None:
    with pytest.raises(UnknownTaskError):
        desk.start(Visit(), "no_such_task", "")


def test_starting_again_lets_the_former_sessions_leave_memory(
    desk: Desk, visit: Visit, registry: SessionRegistry
) -> None:
    again = desk.start(visit, "static_workload", "8")
    assert [session.session_id for session in registry.open_sessions()] == [again.main]


def test_a_step_runs_as_many_windows_as_asked_and_stops_at_the_end(desk: Desk, visit: Visit) -> None:
    desk.step(visit, NARROW, 3)
    assert len(desk.runs(visit)[0].log.steps) == 3
    desk.step(visit, NARROW, 1000)
    assert len(desk.runs(visit)[0].log.steps) == 120
    with pytest.raises(EpisodeState, match="ended after 120 windows"):
        desk.step(visit, NARROW, 1)


@pytest.mark.parametrize("windows", [0, -1, 1001])
def test_a_senseless_number_of_windows_is_refused(desk: Desk, visit: Visit, windows: int) -> None:
    with pytest.raises(InvalidField, match="windows"):
        desk.step(visit, NARROW, windows)


def test_before_an_episode_every_deed_says_that_there_is_none(desk: Desk) -> None:
    deeds: list[Callable[[], object]] = [
        lambda: desk.step(Visit(), NARROW, 1),
        lambda: desk.drive(Visit(), "static"),
        lambda: desk.compare(Visit(), "static"),
        lambda: desk.branch(Visit(), 0, NARROW, HOLD),
        lambda: desk.log(Visit()),
        lambda: desk.in_force(Visit()),
    ]
    for deed in deeds:
        with pytest.raises(EpisodeState, match="no episode yet"):
            deed()
    assert desk.runs(Visit()) == []
    assert desk.grade(Visit()) == []


def test_an_agent_at_the_wheel_does_what_it_does_in_the_simulator(desk: Desk, visit: Visit) -> None:
    driver = desk.drive(visit, "threshold")
    while not driver.advance(7):
        pass
    env, policy = ServingEnv("static_workload"), make_policy("threshold")
    observation = env.reset(seed=7)
    policy.reset("static_workload", 7)
    while not observation.done:
        observation = env.step(policy.act(observation))
    mine = [step.observation.model_dump_json() for step in desk.runs(visit)[0].log.steps]
    assert mine == [step.observation.model_dump_json() for step in env.episode_log().steps]


def test_an_agent_that_takes_over_has_read_the_episode_so_far(desk: Desk, visit: Visit) -> None:
    desk.drive(visit, "threshold").advance(10)
    desk.drive(visit, "threshold").advance(10)
    other = desk.start(Visit(), "static_workload", "7")
    desk.drive(other, "threshold").advance(20)
    first, second = desk.runs(visit)[0].log, desk.runs(other)[0].log
    assert [step.action for step in first.steps] == [step.action for step in second.steps]


def test_a_step_by_hand_while_an_agent_drives_is_a_conflict_and_not_a_mix(desk: Desk, visit: Visit) -> None:
    driver = desk.drive(visit, "static")
    driver.advance(2)
    desk.step(visit, NARROW, 1)
    with pytest.raises(StepConflict):
        driver.advance(1)


def test_an_agent_that_is_let_go_moves_nothing_any_more(desk: Desk, visit: Visit) -> None:
    driver = desk.drive(visit, "static")
    driver.advance(3)
    assert desk.let_go(visit)
    assert driver.advance(1)
    desk.step(visit, NARROW, 1)
    assert len(desk.runs(visit)[0].log.steps) == 4
    assert not desk.let_go(visit), "nobody is there any more"


def test_a_second_driver_lets_the_first_one_go(desk: Desk, visit: Visit) -> None:
    first = desk.drive(visit, "static")
    first.advance(3)
    second = desk.drive(visit, "threshold")
    assert first.advance(1)
    second.advance(2)
    assert len(desk.runs(visit)[0].log.steps) == 5
    desk.leave(first)  # comes late, and is nobody's business any more
    assert desk.let_go(visit)
    assert second.advance(1)
    assert len(desk.runs(visit)[0].log.steps) == 5


def test_a_driver_that_left_is_not_let_go(desk: Desk, visit: Visit) -> None:
    driver = desk.drive(visit, "static")
    desk.leave(driver)
    assert not desk.let_go(visit)
    assert not driver.advance(1)


def test_being_let_go_waits_for_the_window_under_way(registry: SessionRegistry, visit: Visit) -> None:
    class Slow(StaticPolicy):
        def act(self, observation: ServeObservation) -> ServeAction:
            if observation.step_index:
                acting.set()
                going.wait(60)
            return super().act(observation)

    acting, going = threading.Event(), threading.Event()
    desk = Desk(registry, {"slow": Slow})
    driver = desk.drive(visit, "slow")
    driver.advance(1)
    with ThreadPoolExecutor() as threads:
        window = threads.submit(driver.advance, 1)
        acting.wait(60)
        taken = threads.submit(desk.let_go, visit)
        assert not taken.done()
        going.set()
        taken.result(60)
        window.result(60)
    assert len(desk.runs(visit)[0].log.steps) == 2


def test_an_agent_is_let_go_quietly_once_its_page_shows_no_more(desk: Desk, visit: Visit) -> None:
    driver = desk.drive(visit, "static")
    with ThreadPoolExecutor() as threads:
        cleared = threads.submit(desk.let_go, visit, quietly=True)
        while not driver.stopped:
            pass
        assert driver.advance(1)
        assert driver.quietly
        desk.leave(driver)
        assert cleared.result(60)
    assert len(desk.runs(visit)[0].log.steps) == 0


def test_an_unknown_agent_is_refused_with_the_known_ones(desk: Desk, visit: Visit) -> None:
    with pytest.raises(InvalidInputError, match="random, static, threshold"):
        desk.drive(visit, "nobody")


class Untrained(StaticPolicy):
    """An agent that has weights for one task only."""

    def reset(self, task_id: str, seed: int) -> None:
        if task_id != "bursty_workload":
            raise AgentError(f"there are no weights for {task_id} in /secret/folder")


def test_an_agent_without_weights_for_the_task_is_a_sentence_and_leaves_all_as_it_was(
    registry: SessionRegistry, visit: Visit
) -> None:
    desk = Desk(registry, POLICIES | {"ppo": Untrained})
    assert desk.agents[-1] == "ppo"
    assert desk.able == tuple(POLICIES), "what is chosen before anybody chooses can drive"
    desk.step(visit, NARROW, 2)
    driver = desk.drive(visit, "static")
    for deed in (desk.drive, desk.compare, lambda visit, agent: desk.branch(visit, 1, WIDE, agent)):
        with pytest.raises(AgentUnavailable) as refused:
            deed(visit, "ppo")
        assert sentence(refused.value) == (
            "ppo cannot act on static_workload here: what it needs, its weights most likely, is missing. "
            "Choose another agent."
        )
    assert not driver.advance(1), "the agent that could drive still does"
    assert [session.session_id for session in registry.open_sessions()] == [visit.main]
    other = desk.start(Visit(), "bursty_workload", "7")
    desk.drive(other, "ppo").advance(2)
    assert len(desk.runs(other)[0].log.steps) == 2


def test_a_second_agent_meets_the_same_traffic_for_a_whole_episode(desk: Desk, visit: Visit) -> None:
    desk.step(visit, NARROW, 4)
    visit = desk.compare(visit, "static")
    own, rival = desk.runs(visit)
    assert (rival.name, rival.log.seed, len(rival.log.steps)) == ("static", 7, 120)
    for mine, theirs in zip(own.log.steps, rival.log.steps[:4], strict=True):
        assert mine.observation.request_arrival_rate == theirs.observation.request_arrival_rate


def test_finished_runs_take_no_place_in_memory(desk: Desk, visit: Visit, registry: SessionRegistry) -> None:
    desk.step(visit, NARROW, 4)
    visit = desk.branch(desk.compare(visit, "static"), 2, WIDE, HOLD)
    assert len(desk.runs(visit)) == 3
    desk.runs(visit)
    assert [session.session_id for session in registry.open_sessions()] == [visit.main]


def test_a_branch_shares_the_past_and_then_goes_its_own_way(desk: Desk, visit: Visit) -> None:
    desk.step(visit, NARROW, 6)
    visit = desk.branch(visit, 4, WIDE, HOLD)
    own, branch = desk.runs(visit)
    assert branch.since == 4
    assert own.log.steps[:4] == branch.log.steps[:4]
    assert [step.action for step in branch.log.steps[4:]] == [WIDE, WIDE]
    assert [step.action for step in own.log.steps] == [NARROW] * 6, "the origin is untouched"


def test_a_branch_can_repeat_what_was_done_afterwards(desk: Desk, visit: Visit) -> None:
    desk.step(visit, NARROW, 3)
    desk.step(visit, WIDE, 2)
    branch = desk.runs(desk.branch(visit, 1, ServeAction(), REPEAT))[1]
    assert [step.action for step in branch.log.steps] == [NARROW, ServeAction(), NARROW, WIDE, WIDE]


def test_a_branch_can_be_driven_on_by_an_agent(desk: Desk, visit: Visit) -> None:
    desk.step(visit, NARROW, 5)
    branch = desk.runs(desk.branch(visit, 2, WIDE, "static"))[1]
    default = make_policy("static").act(branch.log.initial_observation)
    assert [step.action for step in branch.log.steps] == [NARROW, NARROW, WIDE, default, default]


@pytest.mark.parametrize("window", [-1, 3, 99])
def test_a_branch_from_a_window_that_has_not_been_passed_is_refused(desk: Desk, visit: Visit, window: int) -> None:
    desk.step(visit, NARROW, 3)
    with pytest.raises(InvalidField, match=r"0\.\.2"):
        desk.branch(visit, window, WIDE, HOLD)


def test_where_steps_are_real_requests_there_is_no_branching(registry: SessionRegistry) -> None:
    desk = Desk(registry, POLICIES, replayable=False)
    visit = desk.start(Visit(), "static_workload", "7")
    desk.step(visit, NARROW, 2)
    with pytest.raises(NotForkable):
        desk.branch(visit, 1, WIDE, HOLD)


def test_a_branch_can_become_the_own_episode(desk: Desk, visit: Visit) -> None:
    desk.step(visit, NARROW, 4)
    branched = desk.branch(visit, 1, WIDE, HOLD)
    visit = desk.adopt(branched)
    assert (visit.main, visit.branch) == (branched.branch, None)
    desk.step(visit, WIDE, 1)
    assert len(desk.runs(visit)[0].log.steps) == 5
    with pytest.raises(EpisodeState, match="no branch yet"):
        desk.adopt(visit)


def test_all_runs_are_graded_and_verified(desk: Desk, visit: Visit) -> None:
    desk.step(visit, NARROW, 5)
    graded = desk.grade(desk.branch(desk.compare(visit, "static"), 2, WIDE, HOLD))
    assert [item.style for item in graded] == ["main", "rival", "branch"]
    assert all(item.report.verified for item in graded)
    assert [item.report.complete for item in graded] == [False, True, False]


def test_the_log_is_what_the_grader_reads(desk: Desk, visit: Visit, registry: SessionRegistry) -> None:
    desk.step(visit, NARROW, 2)
    text = desk.log(visit)
    assert json.loads(text)["seed"] == 7
    assert registry.grade(log=parse_log(text)).verified


def test_two_visitors_have_separate_episodes(desk: Desk, visit: Visit) -> None:
    other = desk.start(Visit(), "bursty_workload", "9")
    desk.step(visit, NARROW, 2)
    desk.step(other, WIDE, 5)
    assert [len(desk.runs(somebody)[0].log.steps) for somebody in (visit, other)] == [2, 5]


def test_an_episode_outlives_the_server(
    desk: Desk, visit: Visit, make_registry: Callable[..., SessionRegistry]
) -> None:
    desk.step(visit, NARROW, 3)
    visit = desk.compare(visit, "static")
    later = Desk(make_registry(), POLICIES)
    assert later.surviving(visit) == visit
    later.step(visit, NARROW, 1)
    assert [len(run.log.steps) for run in later.runs(visit)] == [4, 120]


def test_sessions_that_are_gone_are_forgotten(desk: Desk, visit: Visit) -> None:
    stale = Visit(
        main=visit.main, rival="gone", rival_name="static", branch="gone too", branch_name="x", branch_window=3
    )
    assert desk.surviving(stale) == visit
    assert desk.surviving(Visit(main="gone")) == Visit()
    assert desk.surviving(Visit()) == Visit()


def test_the_setting_in_force_is_the_last_action(desk: Desk, visit: Visit) -> None:
    with pytest.raises(EpisodeState, match="before the first step"):
        desk.in_force(visit)
    desk.step(visit, WIDE, 1)
    assert desk.in_force(visit) == WIDE


def test_refusals_are_sentences() -> None:
    assert sentence(UnknownSession("there is no such session")) == "there is no such session"
    assert "must be true" in sentence(InvalidInputError("flag", "must be true"))
