"""`RealBackend`: an episode on a real OpenAI-compatible endpoint. A step sends one window's requests and measures them.

The task defines traffic, targets and reward; the endpoint serves the requests. A window lasts its scaled simulated
time, and then until the last of its requests is done. So nothing is in flight between steps, and the stored
observations are the whole state of an episode, from which it can be continued exactly. A measured episode cannot be
replayed, forked or verified. `RealBackendFactory` holds what all sessions share: the connections and their event
loop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from math import fsum
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from llmserve_server.backends.backend import Backend, StoredStep
from llmserve_server.backends.real.config import RealConfig
from llmserve_server.backends.real.endpoint import Endpoint
from llmserve_server.backends.real.grading import digest_of, grade_measured, is_measured
from llmserve_server.backends.real.load_generator import Backoff, Rules, WindowRecord, run_window
from llmserve_server.backends.real.measure import (
    UNAPPLIED,
    WindowReport,
    measurement_of,
    report_of,
    terms_of,
    unmeasured,
)
from llmserve_server.backends.real.pricing import pricing_of
from llmserve_server.backends.real.sampling import RequestSampler, SampledRequest, WindowSample
from llmserve_server.backends.real.vllm_metrics import MetricsPage, Reading, Usage, usage_between
from llmserve_server.backends.real.worker import Worker
from llmserve_server.errors import NotForkable, VersionChanged
from llmserve_sim.__about__ import __version__
from llmserve_sim.configuration import Configurator
from llmserve_sim.errors import EpisodeStateError
from llmserve_sim.grader import grade
from llmserve_sim.metrics import Measurement
from llmserve_sim.observation import to_measurement, to_observation
from llmserve_sim.schema import (
    EpisodeLog,
    GradeReport,
    ServeAction,
    ServeObservation,
    ServeState,
    StepRecord,
    parse_action,
    schema_hash,
)
from llmserve_sim.tasks.registry import catalogue_task
from llmserve_sim.workload.scenario import generate

if TYPE_CHECKING:
    from llmserve_server.settings import Settings
    from llmserve_sim.reward import RewardTerms
    from llmserve_sim.tasks import Task

__all__ = ["RealBackend", "RealBackendFactory"]


class RealBackendFactory:
    """Makes the backends of a process, which share the connections to one endpoint.

    Args:
        config: the endpoint and its limits, or the settings with them. Raises `MissingApiKey` if the endpoint is OpenAI
            and there is no key.
        worker: runs the requests.
        http_client: makes the transport of the official client, for tests.
    """

    def __init__(
        self,
        config: RealConfig | Settings,
        *,
        worker: Worker | None = None,
        http_client: Callable[[], Any] | None = None,
    ) -> None:
        self.config = config if isinstance(config, RealConfig) else RealConfig.of(config)
        self.worker = Worker() if worker is None else worker
        self._http_client = http_client
        self._endpoint: Endpoint | None = None
        self._page: MetricsPage | None = None
        self._backoff = Backoff()

    def __call__(self) -> Backend:
        """Return a backend for one session."""
        return RealBackend(self)

    def close(self) -> None:
        """Cancel every running request and close the connections; waiting steps raise `ShuttingDown`."""
        self.worker.close(self._close)

    async def serve(self, seed: int, requests: Sequence[SampledRequest], rules: Rules) -> tuple[WindowRecord, Usage]:
        """Serve one window on the worker's loop; return its record and the endpoint's own metrics."""
        endpoint, page = self._connected()
        before = await _read(page)
        at_end = asyncio.ensure_future(_read(page, after_s=rules.window_s))
        try:
            record = await run_window(requests, partial(endpoint.send, seed), rules, self._backoff)
            return record, usage_between(before, await at_end, await _read(page))
        finally:
            at_end.cancel()

    def _connected(self) -> tuple[Endpoint, MetricsPage | None]:
        """Return the connections, made on first use on their event loop."""
        if self._endpoint is None:
            client = None if self._http_client is None else self._http_client()
            self._endpoint = Endpoint(self.config, http_client=client)
            url = self.config.page_url
            self._page = None if url is None else MetricsPage(url)
        return self._endpoint, self._page

    async def _close(self) -> None:
        if self._endpoint is not None:
            await self._endpoint.close()
        if self._page is not None:
            await self._page.close()


class _Episode:
    """One episode: its task and scenario, and the measurements so far."""

    def __init__(self, task_id: str, seed: int | None, episode_id: str, config: RealConfig) -> None:
        self.id = episode_id
        self.task: Task = catalogue_task(task_id)
        self.seed = (
            self.task.seeds.train.start + secrets.randbelow(len(self.task.seeds.train)) if seed is None else seed
        )
        self.sampler = RequestSampler(self.task, self.seed, generate(self.task, self.seed), config)
        self.slo = Configurator.build(self.task, None).slo
        self.steps: list[StepRecord] = []
        self.reports: list[WindowReport] = []

    @property
    def done(self) -> bool:
        return len(self.steps) >= self.task.windows


class RealBackend:
    """An episode on a real endpoint; the module explains it."""

    replayable = False

    def __init__(self, shared: RealBackendFactory) -> None:
        self._shared = shared
        self._config = shared.config
        self._pricing = pricing_of(shared.config)
        self._episode: _Episode | None = None

    def reset(self, task_id: str, seed: int | None, episode_id: str) -> ServeObservation:
        """Start an episode without sending anything yet. Raises `UnknownTaskError` or `InvalidInputError`."""
        self._episode = _Episode(task_id, seed, episode_id, self._config)
        return self.observation()

    def restore(
        self,
        task_id: str,
        seed: int,
        episode_id: str,
        steps: Sequence[StoredStep],
        forecasts: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Restore an episode from its stored observations, without sending anything.

        Raises `VersionChanged` if an observation was not made by this backend.
        """
        episode = _Episode(task_id, seed, episode_id, self._config)
        for step in steps:
            if step.observation is None:
                _refuse_foreign()
            try:
                report = WindowReport.model_validate(step.observation.metadata.get("real"))
            except ValidationError:
                _refuse_foreign()
            episode.reports.append(report)
            episode.steps.append(StepRecord(action=step.action, observation=step.observation))
        self._episode = episode

    def step(self, action: ServeAction) -> ServeObservation:
        """Serve one window under `action`. It takes the window's time, and then until its last request is done.

        Raises `EpisodeStateError` before `reset` and after the end, and `ShuttingDown`, with nothing kept, if the
        server stops meanwhile.
        """
        action = parse_action(action)
        episode = self._running()
        if episode.done:
            raise EpisodeStateError(f"the episode ended after {len(episode.steps)} windows: reset first")
        sample = episode.sampler.window(len(episode.steps))
        record, usage = self._shared.worker.run(self._shared.serve(episode.seed, sample.requests, self._rules(action)))
        observation, report = self._read(episode, action, sample, record, usage)
        episode.steps.append(StepRecord.model_construct(action=action, observation=observation))
        episode.reports.append(report)
        return observation

    def observation(self) -> ServeObservation:
        """Return the last observation again."""
        episode = self._running()
        return episode.steps[-1].observation if episode.steps else self._initial(episode)

    def state(self) -> ServeState:
        """Return the state of the episode; requests that failed at the endpoint count as rejected."""
        episode = self._running()
        reports = episode.reports
        return ServeState(
            episode_id=episode.id,
            step_count=len(episode.steps),
            task_id=episode.task.id,
            task_digest=self._digest(episode.task),
            seed=episode.seed,
            simulator_version=__version__,
            deployment=self._config.deployment,
            episode_length=episode.task.windows,
            window_s=episode.task.window_s,
            done=episode.done,
            total_reward=fsum(step.observation.reward for step in episode.steps),
            last_action=episode.steps[-1].action if episode.steps else None,
            arrived=sum(report.taken for report in reports),
            queued=0,
            running=0,
            finished=sum(report.finished for report in reports),
            abandoned=sum(report.abandoned for report in reports),
            rejected=sum(report.failed for report in reports),
        )

    def log(self) -> EpisodeLog:
        """Return the measured log so far. Its deployment names provider and model, but no URL."""
        episode = self._running()
        return EpisodeLog(
            simulator_version=__version__,
            schema_hash=schema_hash(),
            task_id=episode.task.id,
            task_digest=self._digest(episode.task),
            deployment=self._config.deployment,
            seed=episode.seed,
            episode_id=episode.id,
            initial_observation=self._initial(episode),
            steps=list(episode.steps),
        )

    def fork(self, *, forecast: int | None = None) -> NoReturn:
        """Raise `NotForkable`, because an endpoint's state cannot be copied."""
        raise NotForkable(
            "an episode on a real endpoint cannot be forked: set LLMSERVE_MODE=sim to try what would happen"
        )

    def forecast(self, plan: Sequence[ServeAction]) -> NoReturn:
        """Raise `NotForkable`, because nobody knows what an endpoint will be asked."""
        raise NotForkable("an episode on a real endpoint cannot be forecast: set LLMSERVE_MODE=sim")

    def grade(self, log: EpisodeLog, *, tell_replay: bool = True) -> GradeReport:
        """Score a measured log against the simulator's references of the task.

        A measured log cannot be verified, so `verified` is null. A log that the simulator made is graded by replay.
        """
        if not is_measured(log):
            return grade(log, tell_replay=tell_replay)
        return grade_measured(log)

    def close(self) -> None:
        """Drop the episode. The connections stay open, because all sessions share them."""
        self._episode = None

    def _running(self) -> _Episode:
        if self._episode is None:
            raise EpisodeStateError("there is no episode: reset first")
        return self._episode

    def _digest(self, task: Task) -> str:
        return digest_of(task, self._config.deployment)

    def _rules(self, action: ServeAction) -> Rules:
        task = self._running().task
        return Rules(
            batch_cap=action.batch_cap,
            priority=action.priority_routing,
            patience_s=task.patience_s,
            window_s=task.window_s * self._config.time_scale,
            max_backoff_s=self._config.request_timeout_s,
        )

    def _initial(self, episode: _Episode) -> ServeObservation:
        return self._observe(episode, Measurement(), None, Usage(), done=False)

    def _read(
        self, episode: _Episode, action: ServeAction, sample: WindowSample, record: WindowRecord, usage: Usage
    ) -> tuple[ServeObservation, WindowReport]:
        report = report_of(sample, record, episode.slo, self._pricing, self._config)
        last = to_measurement(self.observation())
        now = measurement_of(sample, record, report, usage, last, episode.task, action)
        terms = terms_of([*episode.reports, report], episode.task)
        done = len(episode.steps) + 1 >= episode.task.windows
        observation = self._observe(episode, now, terms, usage, done=done)
        observation.metadata["real"] = report.model_dump(mode="json")
        return observation, report

    def _observe(
        self, episode: _Episode, now: Measurement, terms: RewardTerms | None, usage: Usage, *, done: bool
    ) -> ServeObservation:
        observation = to_observation(now, terms, task_id=episode.task.id, done=done)
        missing = unmeasured(usage, priced=self._pricing is not None)
        for group in ("reward_terms", "reward_shares"):
            if group in observation.metadata:
                shares = observation.metadata[group]
                gone = {name.partition(".")[2] for name in missing if name.startswith("reward_")}
                observation.metadata[group] = {name: value for name, value in shares.items() if name not in gone}
        observation.metadata.update(
            mode="real",
            endpoint={"provider": self._config.provider, "model": self._config.model},
            unapplied=list(UNAPPLIED),
            unmeasured=missing,
        )
        return observation


async def _read(page: MetricsPage | None, *, after_s: float = 0.0) -> Reading | None:
    if page is None:
        return None
    await asyncio.sleep(after_s)
    return await page.read()


def _refuse_foreign() -> NoReturn:
    raise VersionChanged("the stored steps were not measured by this server's real mode: start a new episode")
