"""`ServingEnv`: reset, step, state, log, fork. Start reading here.

One step simulates one window under the configuration that the action sets. The environment joins four parts and adds no
physics of its own: the scenario (what happens whatever the agent does), `configuration.py` (turns an action into the
engine's plan), an engine (simulates the requests) and the meters (compute observation and reward).
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from llmserve_sim.__about__ import __version__
from llmserve_sim.configuration import Configurator, EpisodeConditions
from llmserve_sim.engine import KernelEngine, ReferenceEngine, WindowStats
from llmserve_sim.engine.interface import PS_PER_S
from llmserve_sim.engine.kernel import compiled
from llmserve_sim.errors import EpisodeStateError, InvalidInputError, MissingExtraError
from llmserve_sim.metrics import Measurement, Meter
from llmserve_sim.observation import to_observation
from llmserve_sim.reward import RewardMeter, RewardTerms
from llmserve_sim.schema import (
    EpisodeLog,
    ServeAction,
    ServeObservation,
    ServeState,
    StepRecord,
    parse_action,
    plain_integer,
    schema_hash,
)
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.forecast import resample
from llmserve_sim.workload.scenario import Scenario, generate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from llmserve_sim.configuration import Setting
    from llmserve_sim.engine import Engine
    from llmserve_sim.engine.interface import LatencySink
    from llmserve_sim.hardware import Deployment

__all__ = ["EngineKind", "Outcome", "ServingEnv", "Snapshot"]

EngineKind = Literal["auto", "numba", "python", "reference"]
"""Which scheduler runs; all give the same numbers. "auto" is the kernel, compiled if numba is installed.

The first compiled window on a machine waits for the compiler, half a minute to a few (README.md, "The compiled kernel").
"""
_ENGINES = ("auto", "numba", "python", "reference")
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """One window's measurement and reward."""

    measurement: Measurement
    terms: RewardTerms | None
    """None for the first outcome, which follows no action."""
    done: bool
    """Whether the episode has ended."""

    @property
    def reward(self) -> float:
        """The window's reward; 0 for the first outcome."""
        return 0.0 if self.terms is None else self.terms.total


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The parts of a running episode that decide how it continues. Read them, do not change them."""

    engine: Engine
    conditions: EpisodeConditions
    meter: Meter
    rewards: RewardMeter
    setting: Setting | None
    """The configuration in force; None before the first step."""
    window: int
    """Windows simulated so far."""


@dataclass(slots=True)
class _Episode:
    """All state of one episode. After pickling it continues identically."""

    id: str
    seed: int
    task: Task
    configurator: Configurator
    scenario: Scenario
    conditions: EpisodeConditions
    engine: Engine
    digest: str
    """SHA-256 (hex) of the task, the deployment and, if one was given, the scenario."""
    scenario_digest: str | None
    """SHA-256 (hex) of the scenario that was given; None for the task's own."""
    meter: Meter
    rewards: RewardMeter
    start: Outcome
    stats: WindowStats = field(default_factory=WindowStats)
    history: list[tuple[ServeAction, Outcome]] = field(default_factory=list)
    drafted: list[bool] = field(default_factory=list)
    """Per window: whether draft tokens were proposed, so that their acceptance was observed."""
    setting: Setting | None = None
    """The configuration in force; None before the first step."""
    total_reward: float = 0.0
    stepping: bool = False
    """True while a step runs. It stays true if the step is interrupted: engine and history then disagree."""

    @property
    def done(self) -> bool:
        return len(self.history) >= self.conditions.windows

    @property
    def last(self) -> Outcome:
        return self.history[-1][1] if self.history else self.start


class ServingEnv:
    """The control problem of an LLM serving fleet, one window per step, deterministic under (task, seed, actions).

    Args:
        task: a task's id, the path of a task file, or a `Task`. `reset` starts this task unless it is given another.
        deployment: a preset's name or a `Deployment`, in place of the task's own.
        engine: which scheduler runs; the numbers do not depend on it.
        latencies: keep what `count_latencies` needs of each window.

    There is one step, in two forms. `reset` and `step` return the schema's observation. `start` and `advance` return
    the plain `Outcome`, without building an observation, for loops that run many windows.

    A refused call (`InvalidInputError`, `EpisodeStateError`) leaves the environment exactly as it was. A step that is
    interrupted (Ctrl-C) breaks the episode: every call except `reset` and `start` then raises `EpisodeStateError`. Use
    one environment per thread: it has no lock, and it refuses a call during another thread's step. A copy (`copy.copy`,
    `copy.deepcopy`, pickle) keeps the running episode, continues identically and shares nothing with the original.
    """

    def __init__(
        self,
        task: str | Path | Task = "static_workload",
        *,
        deployment: str | Deployment | None = None,
        engine: EngineKind = "auto",
        latencies: bool = False,
    ) -> None:
        self._engine: EngineKind = _checked_engine(engine)
        self._task = load_task(task)
        self._deployment = deployment
        self._latencies = latencies
        self._configurator = Configurator.build(self._task, deployment)
        self._episode: _Episode | None = None

    @property
    def task(self) -> Task:
        """The task of the current episode; without an episode, the task that `reset` will start."""
        return self._task

    @property
    def episode_length(self) -> int:
        """Number of windows in an episode."""
        return self._episode.conditions.windows if self._episode else self._task.windows

    @property
    def deployment(self) -> Deployment:
        """The deployment that serves: the task's own, or the one given instead."""
        return self._configurator.deployment

    @property
    def can_split(self) -> bool:
        """Whether the deployment allows `prefill_decode_split`: it has more than one replica."""
        return self._configurator.deployment.can_split

    @property
    def engine(self) -> EngineKind:
        """The engine, as it was given here or to `use_engine`."""
        return self._engine

    @property
    def outcome(self) -> Outcome:
        """The last window's outcome; before the first step, the start's."""
        return self._running().last

    def reset(
        self, seed: int | None = None, task: str | Path | Task | None = None, *, episode_id: str | None = None
    ) -> ServeObservation:
        """Start an episode and return its first observation: the queue before any action.

        `seed` is an integer in 0..2^63-1. Without one, a seed is drawn from the task's training seeds; `state()` shows
        it. Raises `InvalidInputError` (or `UnknownTaskError`); the running episode then continues.
        """
        outcome = self.start(seed, task, episode_id=episode_id)
        return to_observation(outcome.measurement, None, task_id=self._task.id, done=False)

    def start(
        self,
        seed: int | None = None,
        task: str | Path | Task | None = None,
        *,
        scenario: Scenario | None = None,
        episode_id: str | None = None,
    ) -> Outcome:
        """Start an episode like `reset`, and return the plain outcome without building an observation, for hot loops.

        `scenario` (a replayed trace, for example) replaces the traffic and conditions that the task would generate. The
        task then provides only targets, reward and deployment.
        """
        new = self._task if task is None else load_task(task)
        configurator = self._configurator if new is self._task else Configurator.build(new, self._deployment)
        if seed is None:
            seed = new.seeds.train.start + secrets.randbelow(len(new.seeds.train))
        seed = _checked_seed(seed)
        if scenario is not None and not isinstance(scenario, Scenario):
            raise InvalidInputError("scenario", "must be a Scenario", got=scenario)
        episode_id = uuid.uuid4().hex if episode_id is None else _checked_id(episode_id)
        digest, scenario_digest = configurator.digest, None
        if scenario is None:
            scenario = generate(new, seed)
        else:
            scenario_digest = scenario.digest()
            digest = _digest_with(configurator, scenario_digest)
        conditions = EpisodeConditions.of(scenario)
        meter = Meter(scenario.window_s, scenario.windows, configurator.usd_per_s)
        episode = _Episode(
            id=episode_id,
            seed=seed,
            task=new,
            configurator=configurator,
            scenario=scenario,
            conditions=conditions,
            digest=digest,
            scenario_digest=scenario_digest,
            engine=self._make_engine(configurator, scenario),
            meter=meter,
            rewards=RewardMeter.of(new, configurator.usd_per_s * scenario.window_s, scenario.window_s),
            start=Outcome(meter.initial(configurator.cotenant_gb(conditions)), None, done=False),
        )
        self._task, self._configurator, self._episode = new, configurator, episode
        return episode.start

    def step(self, action: ServeAction | Mapping[str, object]) -> ServeObservation:
        """Simulate one window under `action`; the observation carries reward and done.

        `action` is a `ServeAction` or a mapping of its fields; omitted fields take their defaults. Raises
        `InvalidInputError` naming the field and its bound, `EpisodeStateError` before `reset` and after the end.
        """
        outcome = self.advance(parse_action(action))
        return to_observation(outcome.measurement, outcome.terms, task_id=self._task.id, done=outcome.done)

    def advance(self, action: ServeAction) -> Outcome:
        """Simulate one window like `step`; return the plain outcome without building an observation."""
        if not isinstance(action, ServeAction):
            raise InvalidInputError("action", "must be a ServeAction", got=action)
        return self._run(self._prepare(action))

    def _prepare(self, action: ServeAction) -> Setting:
        """Return the setting of the next window under `action`; changes nothing."""
        episode = self._running()
        if episode.done:
            raise EpisodeStateError(f"the episode ended after {len(episode.history)} windows: reset first")
        return episode.configurator.apply(action, episode.setting, episode.conditions, len(episode.history))

    def _run(self, setting: Setting) -> Outcome:
        """Simulate the next window under `setting`, which must be for this window."""
        episode = self._running()
        if setting.plan.end_ps != (len(episode.history) + 1) * episode.conditions.window_ps:
            raise EpisodeStateError("the setting is another window's: prepare it again (one environment per thread)")
        episode.stepping = True
        try:
            stats = episode.engine.step(setting.plan)
        except InvalidInputError:  # the engine refuses before it changes anything
            episode.stepping = False
            raise
        facts = setting.facts
        measurement = episode.meter.read(stats, facts)
        terms = episode.rewards.read(stats, facts.memory_pressure, setting.quality)
        outcome = Outcome(measurement, terms, done=len(episode.history) + 1 >= episode.conditions.windows)
        episode.history.append((setting.action, outcome))
        episode.drafted.append(stats.draft_fp > 0)
        episode.setting = setting
        episode.stats = stats
        episode.total_reward += terms.total
        episode.stepping = False
        return outcome

    def count_latencies(self, into: LatencySink) -> None:
        """Add the latencies of the last window; raises `EpisodeStateError` without the option `latencies`."""
        self._running().engine.count_latencies(into)

    def snapshot(self) -> Snapshot:
        """Return the running episode's parts, so that `ServingBatch.gather` can continue it in a batch.

        Raises `EpisodeStateError` before `reset`.
        """
        episode = self._running()
        return Snapshot(
            episode.engine, episode.conditions, episode.meter, episode.rewards, episode.setting, len(episode.history)
        )

    def state(self) -> ServeState:
        """Return the episode's state; raises `EpisodeStateError` before `reset`."""
        episode = self._running()
        stats = episode.stats
        return ServeState(
            episode_id=episode.id,
            step_count=len(episode.history),
            task_id=episode.task.id,
            task_digest=episode.digest,
            seed=episode.seed,
            simulator_version=__version__,
            deployment=episode.configurator.deployment.name,
            episode_length=episode.conditions.windows,
            window_s=episode.conditions.window_ps / PS_PER_S,
            done=episode.done,
            total_reward=episode.total_reward,
            last_action=episode.history[-1][0] if episode.history else None,
            arrived=stats.total_arrived,
            queued=stats.queue_depth,
            running=stats.running,
            finished=stats.total_finished,
            abandoned=stats.total_abandoned,
            rejected=stats.total_rejected,
        )

    def episode_log(self) -> EpisodeLog:
        """Return the episode so far as evidence for the grader; raises `EpisodeStateError` before `reset`."""
        episode = self._running()

        def seen(outcome: Outcome) -> ServeObservation:
            return to_observation(outcome.measurement, outcome.terms, task_id=episode.task.id, done=outcome.done)

        return EpisodeLog(
            simulator_version=__version__,
            schema_hash=schema_hash(),
            task_id=episode.task.id,
            task_digest=episode.digest,
            deployment=episode.configurator.deployment.name,
            scenario_digest=episode.scenario_digest,
            seed=episode.seed,
            episode_id=episode.id,
            initial_observation=seen(episode.start),
            steps=[StepRecord.model_construct(action=a, observation=seen(o)) for a, o in episode.history],
        )

    def fork(self, *, forecast: int | None = None, episode_id: str | None = None) -> Self:
        """Return an independent environment in the same state.

        Without `forecast` the fork faces the same, true future. Use that only where knowing the future is allowed: in a
        clairvoyant search, or in a page that asks "what if". With `forecast` (a seed, 0..2^63-1) everything that has
        not been observed yet is drawn anew from the task's distributions, conditional on what has been observed: future
        arrivals, output lengths of unfinished requests, drifting conditions. Nothing in it depends on the true future,
        so a planner may use it.

        The fork has its own episode id, which is `episode_id` if given. A forecast's log names its scenario's digest, so it is never taken for an
        episode of the task. Raises `EpisodeStateError` before `reset`, `InvalidInputError` for a forecast that is not a
        seed.
        """
        episode = self._running()
        if forecast is None:
            future: dict[str, Any] = {"engine": episode.engine.fork(), "rewards": episode.rewards.fork()}
        else:
            future = _redrawn(episode, _checked_seed(forecast, "forecast"))
        fork = object.__new__(type(self))
        fork.__dict__.update(self.__dict__)
        fork._episode = replace(
            episode,
            id=uuid.uuid4().hex if episode_id is None else _checked_id(episode_id),
            meter=episode.meter.fork(),
            history=list(episode.history),
            drafted=list(episode.drafted),
            **future,
        )
        return fork

    def use_engine(self, engine: EngineKind) -> None:
        """Continue the running episode, and start later ones, on another engine: "auto", "numba" or "python".

        Observations and rewards have the same bytes. Raises `InvalidInputError` if one of the two is "reference", whose
        state is another one.
        """
        engine = _checked_engine(engine)
        if engine == "reference" or self._engine == "reference":
            raise InvalidInputError("engine", "must be auto, numba or python, before and after", got=engine)
        if self._episode is not None:
            running = self._running().engine
            assert isinstance(running, KernelEngine)
            running.use_backend(engine)
        self._engine = engine

    def close(self) -> None:
        """Drop the episode. The environment can be reset again; closing twice is allowed."""
        self._episode = None

    def __copy__(self) -> Self:
        return deepcopy(self)

    def _running(self) -> _Episode:
        if self._episode is None:
            raise EpisodeStateError("there is no episode: reset first")
        if self._episode.stepping:
            raise EpisodeStateError("a step was interrupted: reset (or another thread is in it: one environment each)")
        return self._episode

    def _make_engine(self, configurator: Configurator, scenario: Scenario) -> Engine:
        if self._engine == "reference":
            return ReferenceEngine(configurator.fleet, configurator.slo, scenario.traffic)
        return KernelEngine(
            configurator.fleet,
            configurator.slo,
            scenario.traffic,
            latencies=self._latencies,
            backend=self._engine,
        )


def _redrawn(episode: _Episode, seed: int) -> dict[str, Any]:
    """Return the fields of an episode that change when its future is drawn anew."""
    if episode.done:
        raise EpisodeStateError("the episode is over: it has no future to forecast")
    progress = episode.engine.progress()
    scenario = resample(
        episode.scenario,
        episode.task,
        seed,
        len(episode.history),
        produced=progress.produced,
        finished=progress.ended,
        drafted=np.array(episode.drafted, dtype=np.bool_),
    )
    digest = scenario.digest()
    return {
        "scenario": scenario,
        "conditions": EpisodeConditions.of(scenario),
        "engine": episode.engine.fork(scenario.traffic),
        # The reward's denominator holds the tokens that recent arrivals ask for; these are unknown as well.
        "rewards": episode.rewards.recount(scenario.offered_tokens()[: len(episode.history)].tolist()),
        "scenario_digest": digest,
        "digest": _digest_with(episode.configurator, digest),
    }


def _digest_with(configurator: Configurator, scenario_digest: str) -> str:
    return hashlib.sha256(f"{configurator.digest} {scenario_digest}".encode()).hexdigest()


def _checked_engine(engine: EngineKind) -> EngineKind:
    if engine not in _ENGINES:
        raise InvalidInputError("engine", "must be one of " + ", ".join(_ENGINES), got=engine)
    if engine == "numba" and not compiled.available():
        raise MissingExtraError("fast", "ServingEnv(engine='numba')")
    return engine


def _checked_seed(seed: object, name: str = "seed") -> int:
    seed = plain_integer(seed)
    if type(seed) is not int or not 0 <= seed <= _MAX_SEED:
        raise InvalidInputError(name, f"must be an integer in 0..{_MAX_SEED}", got=seed)
    return seed


def _checked_id(episode_id: object) -> str:
    if type(episode_id) is not str or not 1 <= len(episode_id) <= 200 or not _is_unicode(episode_id):
        raise InvalidInputError("episode_id", "must be a text of 1..200 characters", got=episode_id)
    return episode_id


def _is_unicode(text: str) -> bool:
    """Whether it holds no half of a surrogate pair, which no JSON document can carry."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
