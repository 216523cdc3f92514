"""`SimulatedBackend`: an episode on llmserve-sim's `ServingEnv`, rebuilt by replaying its actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from llmserve_agents.tools.forecasting import Forecast, forecast
from llmserve_server.backends.backend import StoredStep
from llmserve_server.backends.kernel import Kernel
from llmserve_server.backends.latencies import Latencies
from llmserve_sim.env import EngineKind, ServingEnv
from llmserve_sim.errors import EpisodeStateError
from llmserve_sim.grader import grade
from llmserve_sim.observation import to_observation
from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["SimulatedBackend"]


class SimulatedBackend:
    """An episode in the simulator.

    Args:
        kernel: tells which engine runs, or the engine's name; the results do not depend on it.
        env: an environment to continue; the next `reset` or `restore` replaces it.
        latencies: counts the latencies of every window that is stepped, not of those that `restore` replays.

    Task ids are looked up only in the catalogue: a name from a caller never opens a file.
    """

    replayable = True

    def __init__(
        self,
        kernel: Kernel | EngineKind = "auto",
        env: ServingEnv | None = None,
        *,
        latencies: Latencies | None = None,
    ) -> None:
        self._kernel = kernel
        self._env = env
        self._latencies = latencies

    def reset(self, task_id: str, seed: int | None, episode_id: str) -> ServeObservation:
        """Start an episode. Raises `UnknownTaskError` or `InvalidInputError`; the running episode then continues."""
        env = self._made(task_id)
        observation = env.reset(seed, episode_id=episode_id)
        self._env = env
        return observation

    def restore(
        self,
        task_id: str,
        seed: int,
        episode_id: str,
        steps: Sequence[StoredStep],
        forecasts: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Replay the actions without building the intermediate observations."""
        env = self._made(task_id)
        env.start(seed, episode_id=episode_id)
        done = 0
        for count, drawn in [*forecasts, (len(steps), None)]:
            for step in steps[done:count]:
                env.advance(step.action)
            done = count
            if drawn is not None:
                env = env.fork(forecast=drawn, episode_id=episode_id)
        self._env = env

    def step(self, action: ServeAction) -> ServeObservation:
        """Simulate one window under `action`, on the compiled kernel once it is there."""
        env = self._running()
        engine = self._engine
        if env.engine != engine:
            env.use_engine(engine)
        observation = env.step(action)
        if self._latencies is not None:
            env.count_latencies(self._latencies.of(observation.task_id))
        return observation

    def observation(self) -> ServeObservation:
        """Return the last observation again."""
        env = self._running()
        last = env.outcome
        return to_observation(last.measurement, last.terms, task_id=env.task.id, done=last.done)

    def state(self) -> ServeState:
        """Return the state of the episode."""
        return self._running().state()

    def log(self) -> EpisodeLog:
        """Return the log of the episode so far, for the grader."""
        return self._running().episode_log()

    def fork(self, *, forecast: int | None = None) -> Self:
        """Return an independent episode with the same future, or with one drawn from the seed `forecast`."""
        return type(self)(self._kernel, self._running().fork(forecast=forecast), latencies=self._latencies)

    def forecast(self, plan: Sequence[ServeAction]) -> Forecast:
        """Return what a plan brings on futures drawn from the task's distributions, given what has been seen."""
        return forecast(self._running(), plan)

    def grade(self, log: EpisodeLog, *, tell_replay: bool = True) -> GradeReport:
        """Replay `log`; return whether it is genuine, and its score."""
        return grade(log, engine=self._engine, tell_replay=tell_replay)

    def close(self) -> None:
        """Drop the episode."""
        self._env = None

    @property
    def _engine(self) -> EngineKind:
        return self._kernel.engine if isinstance(self._kernel, Kernel) else self._kernel

    def _made(self, task_id: str) -> ServingEnv:
        return ServingEnv(catalogue_task(task_id), engine=self._engine, latencies=self._latencies is not None)

    def _running(self) -> ServingEnv:
        if self._env is None:
            raise EpisodeStateError("there is no episode: reset first")
        return self._env
