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
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.ui.controller import HOLD, REPEAT, PageController, message_of
from llmserve_server.ui.session_state import SessionState
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError, UnknownTaskError
from llmserve_sim.policies import POLICIES, StaticPolicy, make_policy
from llmserve_sim.schema import ServeAction, ServeObservation, parse_log

NARROW = ServeAction(batch_cap=8)
WIDE = ServeAction(batch_cap=128, quantization_tier="INT8")


@pytest.fixture
def state(controller: PageController) -> SessionState:
    """Somebody with an episode."""
    return controller.start(SessionState(), "static_workload", "7")


def test_an_episode_starts_on_the_task_and_seed_that_were_asked_for(
    controller: PageController, state: SessionState
) -> None:
    log = controller.runs(state)[0].log
    assert (log.task_id, log.seed, log.steps) == ("static_workload", 7, [])


@pytest.mark.parametrize("seed", ["  ", "", None])
def test_without_a_seed_one_of_the_training_seeds_is_drawn(controller: PageController, seed: str | None) -> None:
    log = controller.runs(controller.start(SessionState(), "bursty_workload", seed))[0].log
    assert 0 <= log.seed < 1_000_000


@pytest.mark.parametrize("seed", ["-1", "1.5", "seven", "9" * 19, "²"])
def test_a_seed_that_is_none_is_refused_and_the_running_episode_stays(
    controller: PageController, state: SessionState, seed: str
) -> None:
    with pytest.raises(InvalidField, match="whole number"):
        controller.start(state, "static_workload", seed)
    assert controller.runs(state)[0].log.seed == 7


def test_an_unknown_task_is_refused(controller: PageController) -> None:
    with pytest.raises(UnknownTaskError):
        controller.start(SessionState(), "no_such_task", "")


def test_starting_again_lets_the_former_sessions_leave_memory(
    controller: PageController, state: SessionState, registry: SessionRegistry
) -> None:
    again = controller.start(state, "static_workload", "8")
    assert [session.session_id for session in registry.open_sessions()] == [again.main]


def test_a_step_runs_as_many_windows_as_asked_and_stops_at_the_end(
    controller: PageController, state: SessionState
) -> None:
    controller.step(state, NARROW, 3)
    assert len(controller.runs(state)[0].log.steps) == 3
    controller.step(state, NARROW, 1000)
    assert len(controller.runs(state)[0].log.steps) == 120
    with pytest.raises(EpisodeState, match="ended after 120 windows"):
        controller.step(state, NARROW, 1)


@pytest.mark.parametrize("windows", [0, -1, 1001])
def test_a_senseless_number_of_windows_is_refused(
    controller: PageController, state: SessionState, windows: int
) -> None:
    with pytest.raises(InvalidField, match="windows"):
        controller.step(state, NARROW, windows)


def test_before_an_episode_every_deed_says_that_there_is_none(controller: PageController) -> None:
    deeds: list[Callable[[], object]] = [
        lambda: controller.step(SessionState(), NARROW, 1),
        lambda: controller.start_autopilot(SessionState(), "static"),
        lambda: controller.compare(SessionState(), "static"),
        lambda: controller.branch(SessionState(), 0, NARROW, HOLD),
        lambda: controller.log(SessionState()),
        lambda: controller.current_action(SessionState()),
    ]
    for deed in deeds:
        with pytest.raises(EpisodeState, match="no episode yet"):
            deed()
    assert controller.runs(SessionState()) == []
    assert controller.grade(SessionState()) == []


def test_an_agent_at_the_wheel_does_what_it_does_in_the_simulator(
    controller: PageController, state: SessionState
) -> None:
    autopilot = controller.start_autopilot(state, "threshold")
    while not autopilot.advance(7):
        pass
    env, policy = ServingEnv("static_workload"), make_policy("threshold")
    observation = env.reset(seed=7)
    policy.reset("static_workload", 7)
    while not observation.done:
        observation = env.step(policy.act(observation))
    mine = [step.observation.model_dump_json() for step in controller.runs(state)[0].log.steps]
    assert mine == [step.observation.model_dump_json() for step in env.episode_log().steps]


def test_an_agent_that_takes_over_has_read_the_episode_so_far(controller: PageController, state: SessionState) -> None:
    controller.start_autopilot(state, "threshold").advance(10)
    controller.start_autopilot(state, "threshold").advance(10)
    other = controller.start(SessionState(), "static_workload", "7")
    controller.start_autopilot(other, "threshold").advance(20)
    first, second = controller.runs(state)[0].log, controller.runs(other)[0].log
    assert [step.action for step in first.steps] == [step.action for step in second.steps]


def test_a_step_by_hand_while_an_agent_drives_is_a_conflict_and_not_a_mix(
    controller: PageController, state: SessionState
) -> None:
    autopilot = controller.start_autopilot(state, "static")
    autopilot.advance(2)
    controller.step(state, NARROW, 1)
    with pytest.raises(StepConflict):
        autopilot.advance(1)


def test_an_agent_that_is_let_go_moves_nothing_any_more(controller: PageController, state: SessionState) -> None:
    autopilot = controller.start_autopilot(state, "static")
    autopilot.advance(3)
    assert controller.stop_autopilot(state)
    assert autopilot.advance(1)
    controller.step(state, NARROW, 1)
    assert len(controller.runs(state)[0].log.steps) == 4
    assert not controller.stop_autopilot(state), "nobody is there any more"


def test_a_second_driver_lets_the_first_one_go(controller: PageController, state: SessionState) -> None:
    first = controller.start_autopilot(state, "static")
    first.advance(3)
    second = controller.start_autopilot(state, "threshold")
    assert first.advance(1)
    second.advance(2)
    assert len(controller.runs(state)[0].log.steps) == 5
    controller.end_autopilot(first)  # comes late, and is nobody's business any more
    assert controller.stop_autopilot(state)
    assert second.advance(1)
    assert len(controller.runs(state)[0].log.steps) == 5


def test_a_driver_that_left_is_not_let_go(controller: PageController, state: SessionState) -> None:
    autopilot = controller.start_autopilot(state, "static")
    controller.end_autopilot(autopilot)
    assert not controller.stop_autopilot(state)
    assert not autopilot.advance(1)


def test_being_let_go_waits_for_the_window_under_way(registry: SessionRegistry, state: SessionState) -> None:
    class Slow(StaticPolicy):
        def act(self, observation: ServeObservation) -> ServeAction:
            if observation.step_index:
                acting.set()
                going.wait(60)
            return super().act(observation)

    acting, going = threading.Event(), threading.Event()
    controller = PageController(registry, {"slow": Slow})
    autopilot = controller.start_autopilot(state, "slow")
    autopilot.advance(1)
    with ThreadPoolExecutor() as threads:
        window = threads.submit(autopilot.advance, 1)
        acting.wait(60)
        taken = threads.submit(controller.stop_autopilot, state)
        assert not taken.done()
        going.set()
        taken.result(60)
        window.result(60)
    assert len(controller.runs(state)[0].log.steps) == 2


def test_an_agent_is_let_go_quietly_once_its_page_shows_no_more(
    controller: PageController, state: SessionState
) -> None:
    autopilot = controller.start_autopilot(state, "static")
    with ThreadPoolExecutor() as threads:
        cleared = threads.submit(controller.stop_autopilot, state, silent=True)
        while not autopilot.stopped:
            pass
        assert autopilot.advance(1)
        assert autopilot.silent
        controller.end_autopilot(autopilot)
        assert cleared.result(60)
    assert len(controller.runs(state)[0].log.steps) == 0


def test_an_unknown_agent_is_refused_with_the_known_ones(controller: PageController, state: SessionState) -> None:
    with pytest.raises(InvalidInputError, match="random, static, threshold"):
        controller.start_autopilot(state, "nobody")


class Untrained(StaticPolicy):
    """An agent that has weights for one task only."""

    def reset(self, task_id: str, seed: int) -> None:
        if task_id != "bursty_workload":
            raise AgentError(f"there are no weights for {task_id} in /secret/folder")


def test_an_agent_without_weights_for_the_task_is_a_sentence_and_leaves_all_as_it_was(
    registry: SessionRegistry, state: SessionState
) -> None:
    controller = PageController(registry, POLICIES | {"ppo": Untrained})
    assert controller.agents[-1] == "ppo"
    assert controller.usable_agents == tuple(POLICIES), "what is chosen before anybody chooses can drive"
    controller.step(state, NARROW, 2)
    autopilot = controller.start_autopilot(state, "static")
    for deed in (
        controller.start_autopilot,
        controller.compare,
        lambda state, agent: controller.branch(state, 1, WIDE, agent),
    ):
        with pytest.raises(AgentUnavailable) as refused:
            deed(state, "ppo")
        assert message_of(refused.value) == (
            "ppo cannot act on static_workload here: what it needs, its weights most likely, is missing. "
            "Choose another agent."
        )
    assert not autopilot.advance(1), "the agent that could drive still does"
    assert [session.session_id for session in registry.open_sessions()] == [state.main]
    other = controller.start(SessionState(), "bursty_workload", "7")
    controller.start_autopilot(other, "ppo").advance(2)
    assert len(controller.runs(other)[0].log.steps) == 2


def test_a_second_agent_meets_the_same_traffic_for_a_whole_episode(
    controller: PageController, state: SessionState
) -> None:
    controller.step(state, NARROW, 4)
    state = controller.compare(state, "static")
    own, rival = controller.runs(state)
    assert (rival.name, rival.log.seed, len(rival.log.steps)) == ("static", 7, 120)
    for mine, theirs in zip(own.log.steps, rival.log.steps[:4], strict=True):
        assert mine.observation.request_arrival_rate == theirs.observation.request_arrival_rate


def test_finished_runs_take_no_place_in_memory(
    controller: PageController, state: SessionState, registry: SessionRegistry
) -> None:
    controller.step(state, NARROW, 4)
    state = controller.branch(controller.compare(state, "static"), 2, WIDE, HOLD)
    assert len(controller.runs(state)) == 3
    controller.runs(state)
    assert [session.session_id for session in registry.open_sessions()] == [state.main]


def test_a_branch_shares_the_past_and_then_goes_its_own_way(controller: PageController, state: SessionState) -> None:
    controller.step(state, NARROW, 6)
    state = controller.branch(state, 4, WIDE, HOLD)
    own, branch = controller.runs(state)
    assert branch.since == 4
    assert own.log.steps[:4] == branch.log.steps[:4]
    assert [step.action for step in branch.log.steps[4:]] == [WIDE, WIDE]
    assert [step.action for step in own.log.steps] == [NARROW] * 6, "the origin is untouched"


def test_a_branch_can_repeat_what_was_done_afterwards(controller: PageController, state: SessionState) -> None:
    controller.step(state, NARROW, 3)
    controller.step(state, WIDE, 2)
    branch = controller.runs(controller.branch(state, 1, ServeAction(), REPEAT))[1]
    assert [step.action for step in branch.log.steps] == [NARROW, ServeAction(), NARROW, WIDE, WIDE]


def test_a_branch_can_be_driven_on_by_an_agent(controller: PageController, state: SessionState) -> None:
    controller.step(state, NARROW, 5)
    branch = controller.runs(controller.branch(state, 2, WIDE, "static"))[1]
    default = make_policy("static").act(branch.log.initial_observation)
    assert [step.action for step in branch.log.steps] == [NARROW, NARROW, WIDE, default, default]


@pytest.mark.parametrize("window", [-1, 3, 99])
def test_a_branch_from_a_window_that_has_not_been_passed_is_refused(
    controller: PageController, state: SessionState, window: int
) -> None:
    controller.step(state, NARROW, 3)
    with pytest.raises(InvalidField, match=r"0\.\.2"):
        controller.branch(state, window, WIDE, HOLD)


def test_where_steps_are_real_requests_there_is_no_branching(registry: SessionRegistry) -> None:
    controller = PageController(registry, POLICIES, replayable=False)
    state = controller.start(SessionState(), "static_workload", "7")
    controller.step(state, NARROW, 2)
    with pytest.raises(NotForkable):
        controller.branch(state, 1, WIDE, HOLD)


def test_a_branch_can_become_the_own_episode(controller: PageController, state: SessionState) -> None:
    controller.step(state, NARROW, 4)
    branched = controller.branch(state, 1, WIDE, HOLD)
    state = controller.adopt(branched)
    assert (state.main, state.branch) == (branched.branch, None)
    controller.step(state, WIDE, 1)
    assert len(controller.runs(state)[0].log.steps) == 5
    with pytest.raises(EpisodeState, match="no branch yet"):
        controller.adopt(state)


def test_all_runs_are_graded_and_verified(controller: PageController, state: SessionState) -> None:
    controller.step(state, NARROW, 5)
    graded = controller.grade(controller.branch(controller.compare(state, "static"), 2, WIDE, HOLD))
    assert [item.style for item in graded] == ["main", "rival", "branch"]
    assert all(item.report.verified for item in graded)
    assert [item.report.complete for item in graded] == [False, True, False]


def test_the_log_is_what_the_grader_reads(
    controller: PageController, state: SessionState, registry: SessionRegistry
) -> None:
    controller.step(state, NARROW, 2)
    text = controller.log(state)
    assert json.loads(text)["seed"] == 7
    assert registry.grade(log=parse_log(text)).verified


def test_two_visitors_have_separate_episodes(controller: PageController, state: SessionState) -> None:
    other = controller.start(SessionState(), "bursty_workload", "9")
    controller.step(state, NARROW, 2)
    controller.step(other, WIDE, 5)
    assert [len(controller.runs(somebody)[0].log.steps) for somebody in (state, other)] == [2, 5]


def test_an_episode_outlives_the_server(
    controller: PageController, state: SessionState, make_registry: Callable[..., SessionRegistry]
) -> None:
    controller.step(state, NARROW, 3)
    state = controller.compare(state, "static")
    later = PageController(make_registry(), POLICIES)
    assert later.without_lost_sessions(state) == state
    later.step(state, NARROW, 1)
    assert [len(run.log.steps) for run in later.runs(state)] == [4, 120]


def test_sessions_that_are_gone_are_forgotten(controller: PageController, state: SessionState) -> None:
    stale = SessionState(
        main=state.main, rival="gone", rival_name="static", branch="gone too", branch_name="x", branch_window=3
    )
    assert controller.without_lost_sessions(stale) == state
    assert controller.without_lost_sessions(SessionState(main="gone")) == SessionState()
    assert controller.without_lost_sessions(SessionState()) == SessionState()


def test_the_setting_in_force_is_the_last_action(controller: PageController, state: SessionState) -> None:
    with pytest.raises(EpisodeState, match="before the first step"):
        controller.current_action(state)
    controller.step(state, WIDE, 1)
    assert controller.current_action(state) == WIDE


def test_refusals_are_sentences() -> None:
    assert message_of(UnknownSession("there is no such session")) == "there is no such session"
    assert "must be true" in message_of(InvalidInputError("flag", "must be true"))
