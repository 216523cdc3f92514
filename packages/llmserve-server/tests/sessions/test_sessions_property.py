"""Any interleaving of calls, restarts and evictions gives what one plain environment per session would give."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from llmserve_server.backends import SimulatedBackend
from llmserve_server.errors import EpisodeState, InvalidField, ServiceError, StepConflict
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.settings import Settings
from llmserve_server.store.episodes import EpisodeStore
from llmserve_sim.env import ServingEnv
from llmserve_sim.schema import ServeAction, ServeObservation

ACTIONS = st.builds(
    ServeAction,
    batch_cap=st.integers(1, 512),
    kv_budget_fraction=st.floats(0.1, 1.0),
    speculation_depth=st.integers(0, 8),
    quantization_tier=st.sampled_from(["FP16", "INT8", "INT4"]),
    prefill_decode_split=st.booleans(),
    priority_routing=st.booleans(),
)
BAD: st.SearchStrategy[Any] = st.sampled_from(
    [{"batch_cap": 0}, {"kv_budget_fraction": 1.5}, {"speculation_depth": 1.0}, {"batch": 1}, None, []]
)
REPLICAS = st.integers(0, 1)
TASKS = st.sampled_from(["static_workload", "bursty_workload"])


class Model:
    """What a session must answer: a plain environment, its last action and its last observation."""

    def __init__(self, env: ServingEnv, observation: ServeObservation) -> None:
        self.env = env
        self.seen = observation.model_dump_json()
        self.last: ServeAction | None = None

    @property
    def count(self) -> int:
        """Steps so far."""
        return self.env.state().step_count


class Sessions(RuleBasedStateMachine):
    """Two processes over one store file, each with room for two sessions, and callers who use either."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{Path(self.folder.name) / 'episodes.db'}"
        self.stores: list[EpisodeStore] = []
        self.replicas = [self._replica(), self._replica()]
        self.models: dict[str, Model] = {}
        self.now = 0.0

    def teardown(self) -> None:
        """Grade what came of it, in a process that has seen none of it."""
        fresh = self._replica()
        for session_id, model in self.models.items():
            log = fresh.log(session_id)
            assert log.steps == model.env.episode_log().steps
            assert log.initial_observation == model.env.episode_log().initial_observation
        if self.models:
            assert fresh.grade(next(iter(self.models))).verified
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    def _replica(self) -> SessionRegistry:
        store = EpisodeStore(self.url)
        self.stores.append(store)
        return SessionRegistry(
            settings=Settings(max_concurrent_envs=2, yield_after_s=0, idle_timeout_s=60),
            store=store,
            backend_factory=SimulatedBackend,
            monotonic=lambda: self.now,
            wall_clock=lambda: self.now,
        )

    @rule(target=sessions, replica=REPLICAS, task=TASKS, seed=st.integers(0, 50))
    def begin(self, replica: int, task: str, seed: int) -> str:
        """Reset without a session."""
        reply = self.replicas[replica].reset(task, seed)
        env = ServingEnv()
        self.models[reply.session_id] = model = Model(env, env.reset(seed, task))
        assert reply.observation.model_dump_json() == model.seen
        return reply.session_id

    @rule(session=sessions, replica=REPLICAS, task=TASKS, seed=st.integers(0, 50))
    def begin_again(self, session: str, replica: int, task: str, seed: int) -> None:
        """Reset in a session, which may be in the other process's memory only."""
        reply = self.replicas[replica].reset(task, seed, session_id=session)
        env = ServingEnv()
        self.models[session] = Model(env, env.reset(seed, task))
        assert (reply.session_id, reply.observation.model_dump_json()) == (session, self.models[session].seen)

    @rule(target=sessions, session=sessions, replica=REPLICAS)
    def fork(self, session: str, replica: int) -> str:
        """Fork in one process; the fork may be stepped in the other."""
        model = self.models[session]
        reply = self.replicas[replica].fork(session)
        twin = Model(model.env.fork(), reply.observation)
        assert twin.seen == model.seen
        twin.last = model.last
        self.models[reply.session_id] = twin
        return reply.session_id

    @rule(session=sessions, replica=REPLICAS, action=ACTIONS, indexed=st.booleans(), repeats=st.integers(1, 3))
    def step(self, session: str, replica: int, action: ServeAction, indexed: bool, repeats: int) -> None:
        """Step, with the index or without; where it has one, send it again to either process."""
        model = self.models[session]
        index = model.count
        model.seen = model.env.step(action).model_dump_json()
        model.last = action
        for number in range(repeats if indexed else 1):
            registry = self.replicas[(replica + number) % 2]
            reply = registry.step(session, action, step_index=index if indexed else None)
            assert reply.observation.model_dump_json() == model.seen
            assert reply.repeated == (number > 0)

    @rule(session=sessions, replica=REPLICAS, action=BAD)
    def step_wrongly(self, session: str, replica: int, action: Any) -> None:
        """A wrong action is refused, whatever the session's state."""
        self._refused(InvalidField, replica, session, action, None)

    @rule(session=sessions, replica=REPLICAS, action=ACTIONS, off=st.sampled_from([-3, -2, 1, 5]))
    def step_out_of_turn(self, session: str, replica: int, action: ServeAction, off: int) -> None:
        """A step that answers another observation than the last is refused."""
        index = self.models[session].count + off
        if index >= 0:
            self._refused(StepConflict, replica, session, action, index)

    @rule(session=sessions, replica=REPLICAS)
    def step_differently(self, session: str, replica: int) -> None:
        """The last step again, with another action, is refused."""
        model = self.models[session]
        if model.last is not None:
            other = model.last.model_copy(update={"batch_cap": model.last.batch_cap % 512 + 1})
            self._refused(StepConflict, replica, session, other, model.count - 1)

    def _refused(self, kind: type[ServiceError], replica: int, session: str, action: Any, index: int | None) -> None:
        try:
            self.replicas[replica].step(session, action, step_index=index)
        except kind:
            return
        raise AssertionError(f"{action} at {index} was not refused")

    @rule(session=sessions, replica=REPLICAS)
    def look(self, session: str, replica: int) -> None:
        """State, log and last observation are those of the plain environment."""
        model, registry = self.models[session], self.replicas[replica]
        assert registry.observation(session).observation.model_dump_json() == model.seen
        state, expected = registry.state(session), model.env.state()
        assert state.model_copy(update={"episode_id": expected.episode_id}) == expected

    @rule(session=sessions, replica=REPLICAS)
    def close(self, session: str, replica: int) -> None:
        """A session leaves one process's memory."""
        self.replicas[replica].close(session)

    @rule(replica=REPLICAS)
    def restart(self, replica: int) -> None:
        """A process dies without a word, and another takes its place."""
        self.replicas[replica] = self._replica()

    @rule(replica=REPLICAS, passed=st.sampled_from([1.0, 61.0]))
    def reap(self, replica: int, passed: float) -> None:
        """Time passes, and idle sessions leave memory."""
        self.now += passed
        self.replicas[replica].reap()

    @rule(session=consumes(sessions), replica=REPLICAS)
    def play_to_the_end(self, session: str, replica: int) -> None:
        """The end of the episode is the end, in every process."""
        model = self.models[session]
        while not model.env.state().done:
            model.last = ServeAction()
            model.seen = model.env.step(model.last).model_dump_json()
            reply = self.replicas[replica].step(session, model.last)
        assert reply.observation.model_dump_json() == model.seen
        for registry in self.replicas:
            self._refused(EpisodeState, self.replicas.index(registry), session, ServeAction(), None)

    @invariant()
    def memory_is_bounded(self) -> None:
        """No process holds more sessions than it may."""
        for registry in self.replicas:
            assert len(registry.open_sessions()) <= 2


Sessions.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSessions = Sessions.TestCase
