"""What a caller may count on: a session answers as one plain environment would, and a refusal changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Protocol

import pytest

from llmserve_server.backends import SimulatedBackend
from llmserve_server.errors import (
    AmbiguousEpisode,
    AmbiguousSession,
    AtCapacity,
    EpisodeState,
    InvalidField,
    NotForkable,
    ServiceError,
    StepConflict,
    StoreUnavailable,
    TooLarge,
    UnknownEpisode,
    UnknownSession,
    UnknownTask,
    VersionChanged,
)
from llmserve_server.sessions import cache
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.store.episodes import EpisodeStore
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ServeAction, ServeObservation

MakeRegistry = Callable[..., SessionRegistry]


class Clock(Protocol):
    """The fixture's clock."""

    now: float


def _bytes(observation: ServeObservation) -> str:
    return observation.model_dump_json()


def test_an_episode_has_the_bytes_of_a_plain_environments(registry: SessionRegistry) -> None:
    env = ServingEnv("bursty_workload")
    reply = registry.reset("bursty_workload", 11, "mine")
    assert _bytes(reply.observation) == _bytes(env.reset(11, episode_id="mine"))
    for idx in range(env.episode_length):
        action = {"batch_cap": 16 + idx, "priority_routing": idx % 2 == 0}
        expected = env.step(action)
        assert _bytes(registry.step(reply.session_id, action, step_index=idx).observation) == _bytes(expected)
    assert expected.done
    assert registry.state(reply.session_id) == env.state()
    assert registry.log(reply.session_id) == env.episode_log()
    report = registry.grade(reply.session_id)
    assert report.verified
    assert report.complete


def test_a_reset_that_says_nothing_starts_the_first_task_on_a_training_seed(registry: SessionRegistry) -> None:
    state = registry.state(registry.reset().session_id)
    assert state.task_id == "static_workload"
    assert state.seed in ServingEnv().task.seeds.train


def test_session_ids_are_long_and_never_alike(registry: SessionRegistry) -> None:
    ids = {registry.reset(seed=1).session_id for _ in range(20)}
    assert len(ids) == 20
    assert min(map(len, ids)) >= 32


def test_a_reset_in_a_session_starts_its_next_episode(registry: SessionRegistry) -> None:
    first = registry.reset(seed=1, episode_id="one")
    registry.step(first.session_id, {})
    second = registry.reset("bursty_workload", 2, "two", session_id=first.session_id)
    assert second.session_id == first.session_id
    state = registry.state(first.session_id)
    assert (state.episode_id, state.step_count, state.task_id) == ("two", 0, "bursty_workload")
    assert registry.grade(first.session_id, "one").steps == 1


def test_resuming_gives_the_last_observation_again(registry: SessionRegistry, make_registry: MakeRegistry) -> None:
    session = registry.reset(seed=1).session_id
    last = registry.step(session, {"batch_cap": 5}).observation
    for again in (registry, make_registry()):
        reply = again.reset(session_id=session, resume=True)
        assert (reply.session_id, _bytes(reply.observation)) == (session, _bytes(last))
        assert again.state(session).step_count == 1


@pytest.mark.parametrize("given", [{"task_id": "static_workload"}, {"seed": 1}, {"episode_id": "mine"}])
def test_resuming_refuses_what_only_a_new_episode_could_use(registry: SessionRegistry, given: dict[str, Any]) -> None:
    session = registry.reset(seed=1).session_id
    with pytest.raises(InvalidField) as refused:
        registry.reset(**given, session_id=session, resume=True)
    assert refused.value.field == next(iter(given))
    with pytest.raises(InvalidField, match="session_id: is required with resume"):
        registry.reset(resume=True)


def test_a_session_outlives_the_process(registry: SessionRegistry, make_registry: MakeRegistry) -> None:
    env = ServingEnv()
    env.reset(5)
    session = registry.reset(seed=5).session_id
    for idx in range(10):
        env.step({"batch_cap": idx + 1})
        registry.step(session, {"batch_cap": idx + 1})
    again = make_registry()
    for idx in range(10, 20):
        expected = env.step({"batch_cap": idx + 1})
        assert _bytes(again.step(session, {"batch_cap": idx + 1}, step_index=idx).observation) == _bytes(expected)
    assert again.grade(session).verified
    assert again.stats().rebuilt == 1


def test_the_same_step_again_gets_the_same_answer_and_is_applied_once(
    registry: SessionRegistry, make_registry: MakeRegistry
) -> None:
    session = registry.reset(seed=5).session_id
    first = registry.step(session, {"batch_cap": 7}, step_index=0)
    for again in (registry, make_registry()):
        repeated = again.step(session, {"batch_cap": 7}, step_index=0)
        assert repeated.repeated
        assert _bytes(repeated.observation) == _bytes(first.observation)
    assert registry.state(session).step_count == 1
    assert registry.stats().repeated == 1


def test_the_last_step_of_an_episode_may_be_repeated_too(registry: SessionRegistry) -> None:
    session = registry.reset(seed=5).session_id
    last = [registry.step(session, {}, step_index=idx) for idx in range(ServingEnv().episode_length)][-1]
    assert _bytes(registry.step(session, {}, step_index=len(registry.log(session).steps) - 1).observation) == _bytes(
        last.observation
    )
    with pytest.raises(EpisodeState, match="ended after 120 steps") as refused:
        registry.step(session, {})
    assert refused.value.code == "episode_done"


@pytest.mark.parametrize(("action", "step_index"), [({"batch_cap": 8}, 1), ({"batch_cap": 7}, 0), ({}, 3)])
def test_a_step_that_answers_another_observation_is_a_conflict(
    registry: SessionRegistry, action: dict[str, int], step_index: int
) -> None:
    session = registry.reset(seed=5).session_id
    registry.step(session, {"batch_cap": 7})
    registry.step(session, {"batch_cap": 7})
    with pytest.raises(StepConflict) as refused:
        registry.step(session, action, step_index=step_index)
    assert refused.value.bound == "2"
    assert registry.state(session).step_count == 2


REFUSED: dict[str, tuple[type[ServiceError], Callable[[SessionRegistry, str], object]]] = {
    "an action out of bounds": (InvalidField, lambda r, s: r.step(s, {"batch_cap": 0})),
    "an unknown action field": (InvalidField, lambda r, s: r.step(s, {"batch": 1})),
    "no action at all": (InvalidField, lambda r, s: r.step(s, None)),  # type: ignore[arg-type]
    "a step index that is a truth value": (InvalidField, lambda r, s: r.step(s, {}, step_index=True)),
    "a negative step index": (InvalidField, lambda r, s: r.step(s, {}, step_index=-1)),
    "a step index ahead of time": (StepConflict, lambda r, s: r.step(s, {}, step_index=9)),
    "an unknown task": (UnknownTask, lambda r, s: r.reset("none", session_id=s)),
    "a task file": (UnknownTask, lambda r, s: r.reset("/etc/task.toml", session_id=s)),
    "a task that is a list": (InvalidField, lambda r, s: r.reset(["x"], session_id=s)),  # type: ignore[arg-type]
    "a negative seed": (InvalidField, lambda r, s: r.reset(seed=-1, session_id=s)),
    "a seed in text": (InvalidField, lambda r, s: r.reset(seed="1", session_id=s)),  # type: ignore[arg-type]
    "an endless episode id": (InvalidField, lambda r, s: r.reset(episode_id="x" * 201, session_id=s)),
    "a NUL in an episode id": (InvalidField, lambda r, s: r.reset(episode_id="a\0b", session_id=s)),
    "half a surrogate pair": (InvalidField, lambda r, s: r.reset(episode_id="\ud800", session_id=s)),
    "an unknown episode": (UnknownEpisode, lambda r, s: r.grade(s, "none")),
    "a broken log": (InvalidField, lambda r, s: r.grade(s, log='{"steps": [')),
    "a log of nothing": (InvalidField, lambda r, s: r.grade(s, log={})),
    "another session": (UnknownSession, lambda r, _: r.step("none", {})),
    "a session id that is no text": (UnknownSession, lambda r, _: r.state(["x"])),  # type: ignore[arg-type]
    "a session id no database takes": (UnknownSession, lambda r, _: r.log("\0\ud800")),
    "nothing to grade": (EpisodeState, lambda r, _: r.grade()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_call_changes_nothing(registry: SessionRegistry, make_registry: MakeRegistry, case: str) -> None:
    kind, call = REFUSED[case]
    session = registry.reset(seed=5).session_id
    registry.step(session, {"batch_cap": 3})
    before = (registry.log(session), registry.state(session), len(registry.open_sessions()))
    with pytest.raises(kind) as refused:
        call(registry, session)
    assert refused.value.message
    assert (registry.log(session), registry.state(session), len(registry.open_sessions())) == before
    assert make_registry().log(session) == before[0]
    twin = ServingEnv()
    twin.reset(5)
    twin.step({"batch_cap": 3})
    assert _bytes(registry.step(session, {}, step_index=1).observation) == _bytes(twin.step({}))


def test_a_refused_reset_without_a_session_leaves_no_session(registry: SessionRegistry) -> None:
    with pytest.raises(UnknownTask):
        registry.reset("none")
    assert registry.open_sessions() == []


def test_a_fork_goes_on_from_here_and_each_goes_its_own_way(
    registry: SessionRegistry, make_registry: MakeRegistry
) -> None:
    first = registry.reset(seed=5).session_id
    for _ in range(3):
        last = registry.step(first, {"batch_cap": 3})
    fork = registry.fork(first)
    assert _bytes(fork.observation) == _bytes(last.observation)
    assert fork.session_id != first
    assert registry.state(fork.session_id).episode_id != registry.state(first).episode_id
    repeated = registry.step(fork.session_id, {"batch_cap": 3}, step_index=2)
    assert repeated.repeated
    one, two = registry.step(first, {}), registry.step(fork.session_id, {"batch_cap": 200})
    assert _bytes(one.observation) != _bytes(two.observation)
    assert _bytes(make_registry().reset(session_id=fork.session_id, resume=True).observation) == _bytes(two.observation)
    for session in (first, fork.session_id):
        assert make_registry().grade(session).verified
        assert len(registry.log(session).steps) == 4


def test_an_episode_is_graded_by_its_id_from_anywhere(registry: SessionRegistry, make_registry: MakeRegistry) -> None:
    session = registry.reset(seed=5).session_id
    registry.step(session, {})
    episode = registry.state(session).episode_id
    registry.reset(session_id=session, seed=6)
    assert make_registry().grade(episode_id=episode) == registry.grade(session, episode)
    assert registry.grade(episode_id=episode).steps == 1


def test_an_episode_id_that_several_sessions_use_wants_the_session(registry: SessionRegistry) -> None:
    shared = uuid.uuid4().hex
    sessions = [registry.reset(seed=seed, episode_id=shared).session_id for seed in (5, 6)]
    assert [registry.grade(session, shared).seed for session in sessions] == [5, 6]
    with pytest.raises(AmbiguousEpisode, match="name the session"):
        registry.grade(episode_id=shared)
    third = registry.reset().session_id
    with pytest.raises(AmbiguousEpisode):
        registry.grade(third, shared)


def test_an_episode_id_that_a_caller_chose_is_known_in_its_session_only(registry: SessionRegistry) -> None:
    session = registry.reset(seed=5, episode_id="mine").session_id
    other = registry.reset(seed=6).session_id
    assert registry.grade(session, "mine").seed == 5
    for stranger in (None, other):
        with pytest.raises(UnknownEpisode, match="session_id"):
            registry.grade(stranger, "mine")


def test_an_edited_log_is_graded_unverified_and_a_long_one_refused(make_registry: MakeRegistry) -> None:
    registry = make_registry(max_log_steps=2)
    session = registry.reset(seed=5).session_id
    for _ in range(2):
        registry.step(session, {})
    log = registry.log(session).model_dump()
    assert registry.grade(log=log).verified
    log["steps"][1]["observation"]["reward"] = 1.0
    assert registry.grade(log=log).verified is False
    registry.step(session, {})
    with pytest.raises(TooLarge, match="steps: must be at most 2, the log has 3"):
        registry.grade(log=registry.log(session))


def test_at_capacity_a_new_session_is_refused_with_the_time_to_wait(make_registry: MakeRegistry, clock: Clock) -> None:
    registry = make_registry(max_concurrent_envs=2, yield_after_s=60)
    first = registry.reset(seed=5).session_id
    clock.now += 20
    registry.reset(seed=6)
    with pytest.raises(AtCapacity) as refused:
        registry.reset(seed=7)
    assert refused.value.retry_after_s == 40
    assert registry.step(first, {}).observation.step_index == 1
    assert registry.stats().refused == 1
    assert registry.stats().live == 2


def test_at_capacity_the_idlest_session_makes_room_and_comes_back(make_registry: MakeRegistry, clock: Clock) -> None:
    registry = make_registry(max_concurrent_envs=2, yield_after_s=60)
    first = registry.reset(seed=5).session_id
    last = registry.step(first, {}).observation
    registry.reset(seed=6)
    clock.now += 60
    registry.reset(seed=7)
    assert first not in {session.session_id for session in registry.open_sessions()}
    assert _bytes(registry.reset(session_id=first, resume=True).observation) == _bytes(last)
    assert registry.stats().dropped == 2
    with pytest.raises(AtCapacity):
        registry.reset(seed=8)


def test_an_idle_session_leaves_memory_and_comes_back_by_itself(make_registry: MakeRegistry, clock: Clock) -> None:
    registry = make_registry(idle_timeout_s=60)
    session, busy = registry.reset(seed=5).session_id, registry.reset(seed=6).session_id
    clock.now += 59
    registry.state(busy)
    clock.now += 1
    registry.reap()
    assert [entry.session_id for entry in registry.open_sessions()] == [busy]
    assert registry.step(session, {}).observation.step_index == 1


def test_closing_leaves_the_session_in_the_store(registry: SessionRegistry) -> None:
    session = registry.reset(seed=5).session_id
    registry.step(session, {})
    for name in (session, session, "none"):
        registry.close(name)
    assert registry.open_sessions() == []
    assert registry.state(session).step_count == 1


def test_episodes_untouched_for_the_retention_time_are_gone(make_registry: MakeRegistry, clock: Clock) -> None:
    registry = make_registry(retention_s=7200, idle_timeout_s=3600)
    old, kept = registry.reset(seed=5).session_id, registry.reset(seed=6).session_id
    clock.now += 7000
    registry.step(kept, {})
    clock.now += 300
    registry.reap()
    assert registry.stats().pruned == 1
    assert registry.step(kept, {}).observation.step_index == 2
    for name in (old, "none"):
        with pytest.raises(UnknownSession, match="too old to be kept"):
            registry.state(name)


def test_a_session_whose_rows_were_removed_under_it_is_unknown(
    make_registry: MakeRegistry, open_store: Callable[[], EpisodeStore]
) -> None:
    registry = make_registry()
    session = registry.reset(seed=5).session_id
    open_store().prune(before=float("inf"), keep=0)
    with pytest.raises(UnknownSession):
        registry.step(session, {})
    assert registry.open_sessions() == []


@pytest.mark.parametrize("what", ["version", "mode", "task"])
def test_what_another_simulator_made_is_refused_until_the_next_reset(
    registry: SessionRegistry, make_registry: MakeRegistry, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    session = registry.reset(seed=5, episode_id="mine").session_id
    registry.step(session, {})
    if what == "version":
        monkeypatch.setattr(cache, "simulator_version", "99")
    later = make_registry(
        mode="real" if what == "mode" else "sim", backend_factory=_Redefined if what == "task" else SimulatedBackend
    )
    for call in (
        lambda: later.step(session, {}),
        lambda: later.state(session),
        lambda: later.log(session),
        lambda: later.fork(session),
        lambda: later.grade(session, "mine"),
        lambda: later.reset(session_id=session, resume=True),
    ):
        with pytest.raises(VersionChanged, match="reset to start another"):
            call()
    assert later.open_sessions() == []
    assert later.reset(session_id=session, seed=5).observation.step_index == 0


class _Redefined(SimulatedBackend):
    """The simulator after somebody edited every task."""

    def state(self) -> Any:
        """Say that the task is another."""
        return super().state().model_copy(update={"task_digest": "f" * 64})


class _Measured(SimulatedBackend):
    """A backend whose observations cannot be had again: they come back from the store or not at all."""

    replayable = False

    def step(self, action: ServeAction) -> ServeObservation:
        """Answer something that no replay would."""
        self.seen = super().step(action).model_copy(update={"metadata": {"measured": 0.1 + 0.2, "list": [1, 2.5]}})
        return self.seen

    def restore(self, task_id: str, seed: int, episode_id: str, steps: Any, forecasts: Any = ()) -> None:
        """Take the observations from the store."""
        super().restore(task_id, seed, episode_id, steps)
        self.seen = steps[-1].observation

    def observation(self) -> ServeObservation:
        """Return what was measured."""
        return self.seen

    def fork(self, *, forecast: int | None = None) -> Any:
        """Refuse."""
        raise NotForkable("a real endpoint has no second copy")


def test_what_cannot_be_replayed_is_stored_and_given_back_to_the_byte(make_registry: MakeRegistry) -> None:
    registry, again = make_registry(backend_factory=_Measured), make_registry(backend_factory=_Measured)
    session = registry.reset(seed=5).session_id
    last = registry.step(session, {"batch_cap": 9})
    assert _bytes(again.step(session, {"batch_cap": 9}, step_index=0).observation) == _bytes(last.observation)
    with pytest.raises(NotForkable):
        registry.fork(session)
    assert len(registry.open_sessions()) == 1


class _Failing(SimulatedBackend):
    """A backend with a defect at its third step, after which nobody knows where it stands."""

    def step(self, action: ServeAction) -> ServeObservation:
        """Break after the step was made."""
        observation = super().step(action)
        if observation.step_index == 3 and action.batch_cap == 3:
            raise ZeroDivisionError
        return observation


def test_a_defect_costs_the_place_in_memory_and_not_the_session(make_registry: MakeRegistry) -> None:
    registry = make_registry(backend_factory=_Failing)
    session = registry.reset(seed=5).session_id
    for _ in range(2):
        registry.step(session, {})
    with pytest.raises(ZeroDivisionError):
        registry.step(session, {"batch_cap": 3})
    assert registry.open_sessions() == []
    assert registry.step(session, {}, step_index=2).observation.step_index == 3


class _Full(EpisodeStore):
    """A store that takes no step for a while."""

    full = False

    def append(self, *args: Any, **options: Any) -> bool:
        """Fail, or do as the store does."""
        if self.full:
            raise StoreUnavailable("the disk is full", retry_after_s=1)
        return super().append(*args, **options)


def test_a_step_that_cannot_be_stored_is_not_applied(make_registry: MakeRegistry, store_url: str) -> None:
    registry = make_registry()
    full = _Full(store_url)
    registry._store = full
    session = registry.reset(seed=5).session_id
    first = registry.step(session, {})
    full.full = True
    with pytest.raises(StoreUnavailable):
        registry.step(session, {"batch_cap": 9}, step_index=1)
    full.full = False
    assert _bytes(registry.observation(session).observation) == _bytes(first.observation)
    assert registry.step(session, {"batch_cap": 4}, step_index=1).observation.step_index == 2
    assert registry.grade(session).verified
    full.close()


def test_a_local_caller_without_a_session_id_means_the_only_session_from_there(
    registry: SessionRegistry, make_registry: MakeRegistry
) -> None:
    with pytest.raises(EpisodeState, match="reset first") as refused:
        registry.resolve("10.0.0.1")
    assert refused.value.code == "not_reset"
    mine = registry.reset(seed=5, peer="10.0.0.1").session_id
    registry.step(mine, {})
    registry.reset(seed=6, peer="10.0.0.1", session_id=mine)
    registry.reset(seed=7, peer="10.0.0.2")
    registry.reset(seed=8)
    assert registry.resolve("10.0.0.1") == mine
    assert make_registry().resolve("10.0.0.1") == mine


@pytest.mark.parametrize("is_stepped", [False, True])
def test_where_one_address_has_several_sessions_the_session_must_be_named(
    registry: SessionRegistry, make_registry: MakeRegistry, is_stepped: bool
) -> None:
    first = registry.reset(seed=5, peer="10.0.0.1").session_id
    second = registry.reset(seed=6, peer="10.0.0.1").session_id
    if is_stepped:
        registry.step(first, {})
    for asked in (registry, make_registry()):
        with pytest.raises(AmbiguousSession, match="session_id"):
            asked.resolve("10.0.0.1")
    registry.leave(first)
    assert registry.resolve("10.0.0.1") == second


def test_a_session_that_nobody_used_for_the_idle_time_is_nobodys_any_more(
    make_registry: MakeRegistry, clock: Clock
) -> None:
    registry = make_registry(idle_timeout_s=600)
    registry.reset(seed=5, peer="10.0.0.1")
    clock.now += 661
    second = registry.reset(seed=6, peer="10.0.0.1").session_id
    assert registry.resolve("10.0.0.1") == second


def test_a_caller_from_the_network_never_gets_a_session_by_address(registry: SessionRegistry) -> None:
    with pytest.raises(EpisodeState, match="send the session_id"):
        registry.resolve("10.0.0.1", is_local=False)
    registry.reset(seed=5, peer="10.0.0.1")
    with pytest.raises(AmbiguousSession, match="names no session"):
        registry.resolve("10.0.0.1", is_local=False)


@pytest.mark.parametrize("chosen", ["nobody", "x" * 64, "a b", ""])
@pytest.mark.parametrize("resume", [False, True])
def test_an_id_that_a_caller_made_up_is_never_a_sessions(registry: SessionRegistry, chosen: str, resume: bool) -> None:
    with pytest.raises(UnknownSession):
        registry.reset(session_id=chosen, resume=resume)
    assert registry.open_sessions() == []
    with pytest.raises(UnknownSession):
        registry.leave(chosen)


def test_the_open_sessions_and_the_counters_say_what_happened(registry: SessionRegistry, clock: Clock) -> None:
    session = registry.reset("bursty_workload", 5, transport="websocket").session_id
    registry.step(session, {})
    clock.now += 5
    (entry,) = registry.open_sessions()
    assert (entry.transport, entry.task_id, entry.steps, entry.idle_s) == ("websocket", "bursty_workload", 1, 5.0)
    stats = registry.stats()
    assert (stats.live, stats.episodes, stats.steps) == (1, 1, 1)


def test_after_shutdown_nothing_is_answered_and_nothing_is_lost(
    registry: SessionRegistry, make_registry: MakeRegistry
) -> None:
    session = registry.reset(seed=5).session_id
    registry.step(session, {})
    registry.shutdown()
    with pytest.raises(StoreUnavailable):
        registry.step(session, {})
    assert make_registry().state(session).step_count == 1
