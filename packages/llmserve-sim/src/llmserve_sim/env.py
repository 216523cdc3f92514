"""`ServingEnv`: reset, step, state, log, fork. Start reading here.

One step simulates one window under the configuration that the action sets. The environment joins four parts and adds no
physics of its own: the scenario (what happens whatever the agent does), `configuration.py` (what an action means to the
fleet), an engine (what the requests go through) and the meters (what is observed and what it is worth).
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from llmserve_sim.__about__ import __version__
from llmserve_sim.configuration import Configurator, Course
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
    from llmserve_sim.hardware import Deployment

__all__ = ["EngineKind", "Outcome", "ServingEnv", "Standing"]

EngineKind = Literal["auto", "numba", "python", "reference"]
"""Which scheduler runs: all give the same numbers. "auto" is the kernel, compiled where numba is installed."""
_ENGINES = ("auto", "numba", "python", "reference")
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a window showed and what it was worth."""

    measurement: Measurement
    terms: RewardTerms | None
    """None at the start, which follows no action."""
    done: bool

    @property
    def reward(self) -> float:
        """The window's reward; 0 at the start."""
        return 0.0 if self.terms is None else self.terms.total


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a running episode stands; to be read, not changed."""

    engine: Engine
    course: Course
    meter: Meter
    rewards: RewardMeter
    setting: Setting | None
    window: int
    """Windows behind it."""


@dataclass(slots=True)
class _Episode:
    """Everything that changes from step to step, and what it runs on. Pickles, and goes on identically."""

    id: str
    seed: int
    task: Task
    configurator: Configurator
    scenario: Scenario
    course: Course
    engine: Engine
    digest: str
    """Of the task, the deployment and, where one was given, the scenario."""
    scenario_digest: str | None
    """Of the scenario that was given; None for the task's own."""
    meter: Meter
    rewards: RewardMeter
    start: Outcome
    stats: WindowStats = field(default_factory=WindowStats)
    history: list[tuple[ServeAction, Outcome]] = field(default_factory=list)
    drafted: list[bool] = field(default_factory=list)
    """By window: whether anything was drafted, so that the draft's acceptance was seen."""
    setting: Setting | None = None
    """The configuration in force."""
    total_reward: float = 0.0
    stepping: bool = False
    """The engine is in a step; still so afterwards: the step was interrupted, and the engine has left the history."""

    @property
    def done(self) -> bool:
        return len(self.history) >= self.course.windows

    @property
    def last(self) -> Outcome:
        return self.history[-1][1] if self.history else self.start


class ServingEnv:
    """The control problem of an LLM serving fleet, one window per step, deterministic under (task, seed, actions).

    Args:
        task: a task's id, the path of a task file, or a `Task`; the one that `reset` starts unless told otherwise.
        deployment: a preset's name or a `Deployment`, in place of the task's own.
        engine: which scheduler runs; the numbers do not depend on it.

    A refused call (`InvalidInputError`, `EpisodeStateError`) leaves the environment exactly as it was. A step that is
    interrupted (Ctrl-C) breaks the episode: every call but `reset` then raises `EpisodeStateError`. Use one environment
    per thread: an environment is not locked, and a call in the middle of another thread's step is refused. Pickling keeps
    the running episode.
    """

    def __init__(
        self,
        task: str | Path | Task = "static_workload",
        *,
        deployment: str | Deployment | None = None,
        engine: EngineKind = "auto",
    ) -> None:
        if engine not in _ENGINES:
            raise InvalidInputError("engine", "must be one of " + ", ".join(_ENGINES), got=engine)
        if engine == "numba" and not compiled.available():
            raise MissingExtraError("fast", "ServingEnv(engine='numba')")
        self._task = load_task(task)
        self._deployment = deployment
        self._engine: EngineKind = engine
        self._configurator = Configurator.build(self._task, deployment)
        self._episode: _Episode | None = None

    @property
    def task(self) -> Task:
        """The task of the current episode, or of the next one if there is none."""
        return self._task

    @property
    def episode_length(self) -> int:
        """Windows in an episode."""
        return self._episode.course.windows if self._episode else self._task.windows

    @property
    def deployment(self) -> Deployment:
        """What serves: the task's own deployment, or the one in its place."""
        return self._configurator.deployment

    @property
    def can_split(self) -> bool:
        """Whether `prefill_decode_split` is possible on this deployment."""
        return self._configurator.deployment.can_split

    @property
    def outcome(self) -> Outcome:
        """What the last window showed; the start's before any step."""
        return self._running().last

    def reset(
        self, seed: int | None = None, task: str | Path | Task | None = None, *, episode_id: str | None = None
    ) -> ServeObservation:
        """Start an episode and return its first observation: the queue before any action.

        `seed` is an integer in 0..2^63-1; without one, a seed is drawn from the task's training seeds and shown by
        `state()`. Raises `InvalidInputError` (or `UnknownTaskError`); the episode that was running then goes on.
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
        """Do what `reset` does and return the plain outcome; `scenario` replaces what the task would generate.

        With a scenario (a replayed trace, say) the task only lends its rules: targets, reward and deployment.
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
        course = Course.of(scenario)
        meter = Meter(scenario.window_s, scenario.windows, configurator.usd_per_s)
        episode = _Episode(
            id=episode_id,
            seed=seed,
            task=new,
            configurator=configurator,
            scenario=scenario,
            course=course,
            digest=digest,
            scenario_digest=scenario_digest,
            engine=self._make_engine(configurator, scenario),
            meter=meter,
            rewards=RewardMeter(new.reward, new.priority.weight, configurator.usd_per_s * scenario.window_s),
            start=Outcome(meter.initial(configurator.cotenant_gb(course)), None, done=False),
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
        """Do what `step` does with a valid action, without building an observation."""
        if not isinstance(action, ServeAction):
            raise InvalidInputError("action", "must be a ServeAction", got=action)
        return self.run(self.prepare(action))

    def prepare(self, action: ServeAction) -> Setting:
        """Return what `action` means for the next window; changes nothing. For callers that drive engines in batches."""
        episode = self._running()
        if episode.done:
            raise EpisodeStateError(f"the episode ended after {len(episode.history)} windows: reset first")
        return episode.configurator.apply(action, episode.setting, episode.course, len(episode.history))

    def run(self, setting: Setting) -> Outcome:
        """Simulate the window that `prepare` described."""
        episode = self._running()
        if setting.plan.end_ps != (len(episode.history) + 1) * episode.course.window_ps:
            raise EpisodeStateError("the setting is another window's: prepare it again (one environment per thread)")
        episode.stepping = True
        try:
            stats = episode.engine.step(setting.plan)
        except InvalidInputError:  # the engine refuses before it changes anything
            episode.stepping = False
            raise
        outcome = self._take_in(episode, setting, stats)
        episode.stepping = False
        return outcome

    def standing(self) -> Standing:
        """Return what of the running episode decides how it goes on, for callers that carry it on in a batch.

        Raises `EpisodeStateError` before `reset`.
        """
        episode = self._running()
        return Standing(
            episode.engine, episode.course, episode.meter, episode.rewards, episode.setting, len(episode.history)
        )

    def conclude(self, setting: Setting, stats: WindowStats) -> Outcome:
        """Take in what the engine reported after running `setting.plan`."""
        return self._take_in(self._running(), setting, stats)

    def _take_in(self, episode: _Episode, setting: Setting, stats: WindowStats) -> Outcome:
        facts = setting.facts
        measurement = episode.meter.read(stats, facts)
        terms = episode.rewards.read(stats, facts.memory_pressure, setting.quality)
        outcome = Outcome(measurement, terms, done=len(episode.history) + 1 >= episode.course.windows)
        episode.history.append((setting.action, outcome))
        episode.drafted.append(stats.draft_fp > 0)
        episode.setting = setting
        episode.stats = stats
        episode.total_reward += terms.total
        return outcome

    def state(self) -> ServeState:
        """Return where the episode stands; raises `EpisodeStateError` before `reset`."""
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
            episode_length=episode.course.windows,
            window_s=episode.course.window_ps / PS_PER_S,
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

    def fork(self, *, forecast: int | None = None) -> Self:
        """Return an independent environment in the same state.

        Without a forecast it faces the same, true future: only what may know the future should step it, a clairvoyant
        search or a page that asks "what if". With one (a seed, 0..2^63-1) everything that has not been seen yet is drawn
        anew from the task's own distributions, conditional on what has been: arrivals to come, outputs of unfinished
        requests, drifting conditions. That is what a planner may step; nothing of it depends on the true future.

        The fork has an episode id of its own; a forecast's log names its scenario's digest, so that it never passes for
        the task's. Raises `EpisodeStateError` before `reset`, `InvalidInputError` for a forecast that is no seed.
        """
        episode = self._running()
        if forecast is None:
            future: dict[str, Any] = {"engine": episode.engine.fork(), "rewards": episode.rewards.fork()}
        else:
            future = _redrawn(episode, _checked_seed(forecast, "forecast"))
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._episode = replace(
            episode,
            id=uuid.uuid4().hex,
            meter=episode.meter.fork(),
            history=list(episode.history),
            drafted=list(episode.drafted),
            **future,
        )
        return twin

    def close(self) -> None:
        """Drop the episode; the environment can be reset again. Closing twice is allowed."""
        self._episode = None

    def _running(self) -> _Episode:
        if self._episode is None:
            raise EpisodeStateError("there is no episode: reset first")
        if self._episode.stepping:
            raise EpisodeStateError("a step was interrupted: reset (or another thread is in it: one environment each)")
        return self._episode

    def _make_engine(self, configurator: Configurator, scenario: Scenario) -> Engine:
        if self._engine == "reference":
            return ReferenceEngine(configurator.fleet, configurator.slo, scenario.traffic)
        return KernelEngine(configurator.fleet, configurator.slo, scenario.traffic, backend=self._engine)


def _redrawn(episode: _Episode, seed: int) -> dict[str, Any]:
    """What of an episode changes when its future is drawn anew."""
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
        "course": Course.of(scenario),
        "engine": episode.engine.fork(scenario.traffic),
        # what recent arrivals asked for is part of the reward's denominator, and as unknown as the rest
        "rewards": episode.rewards.recount(scenario.offered_tokens()[: len(episode.history)].tolist()),
        "scenario_digest": digest,
        "digest": _digest_with(episode.configurator, digest),
    }


def _digest_with(configurator: Configurator, scenario_digest: str) -> str:
    return hashlib.sha256(f"{configurator.digest} {scenario_digest}".encode()).hexdigest()


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
