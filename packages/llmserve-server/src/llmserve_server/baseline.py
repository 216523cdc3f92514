"""Run the suites behind ``GET /baseline``, those of llmserve-agents, in threads and within limits.

The deterministic suite is computed once for each task, seed and version, one at a time. The openai suite spends the
owner's key. So it runs one at a time, with a minimum interval between runs and a maximum number of requests, all of
them settings. A run stops at its next window if its caller has gone. Both suites use the simulator in this process.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeAlias

from llmserve_agents.environment import InProcess
from llmserve_agents.errors import EndpointError, MissingKeyError, RequestCapError
from llmserve_agents.evaluation.baseline import LLMOptions, Progress, default_seeds, run_suite, validator_tasks
from llmserve_agents.evaluation.baseline_report import BaselineReport
from llmserve_agents.llm.endpoint import Patience
from llmserve_server.errors import Busy, EndpointFailed, InvalidField, MissingApiKey, to_service_error
from llmserve_server.settings import Settings
from llmserve_sim.__about__ import __version__ as simulator_version
from llmserve_sim.env import EngineKind
from llmserve_sim.errors import LLMServeError
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["BaselineRunner"]

_log = logging.getLogger(__name__)
_KEPT: Final = 256
"""Number of deterministic reports that are kept; one takes about 10 KB."""
_WAITING: Final = 16
"""Number of deterministic runs that may wait for one another; further callers get `Busy`."""
_RETRY_S: Final = 5
"""`retry_after_s` of that `Busy`: a run takes about a second."""
_MAX_SEED: Final = 2**63 - 1
_Key: TypeAlias = tuple[str | None, int | None, str]
"""Task, seed, simulator version."""


class BaselineRunner:
    """Runs baseline suites for a server. Call its methods on one event loop; the work runs in daemon threads.

    Args:
        settings: key, endpoint and limits.
        engine: returns the simulator's engine, and may wait until it is compiled; the setting's by default.
        clock: monotonic seconds, for the interval between runs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Callable[[], EngineKind] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._engine: Callable[[], EngineKind] = (lambda: settings.engine) if engine is None else engine
        self._clock = clock
        self._reports: OrderedDict[_Key, BaselineReport] = OrderedDict()
        self._guard = threading.Lock()
        """Guards `_reports` and `_waiting`; held only briefly."""
        self._turn = threading.Lock()
        """Held for a whole deterministic run."""
        self._waiting = 0
        self._spending = False
        self._spent_at: float | None = None
        self._closed = threading.Event()

    async def run(
        self,
        *,
        use_openai: bool = False,
        task_id: str | None = None,
        seed: int | None = None,
        model: str | None = None,
    ) -> BaselineReport:
        """Return a suite's report, for one task or the validators' three, and for one seed or the first test seeds.

        Raises a `ServiceError`: `UnknownTask`, `InvalidField`, `MissingApiKey`, `Busy`, or `EndpointFailed`.
        """
        self._check(use_openai, task_id, seed, model)
        if use_openai:
            return await self._ask_model(task_id, seed, model or self._settings.baseline_models[0])
        return await self._deterministic(task_id, seed)

    def check_key(self) -> str:
        """Return the key that the openai suite spends; raise `MissingApiKey` if there is none."""
        key = self._settings.openai_api_key
        if key is None or not key.get_secret_value().strip():
            raise MissingApiKey("the OpenAI baseline needs an API key: set OPENAI_API_KEY where the server runs")
        return key.get_secret_value()

    def close(self) -> None:
        """Make a running suite stop at its next window."""
        self._closed.set()

    def _check(self, use_openai: bool, task_id: str | None, seed: int | None, model: str | None) -> None:
        if task_id is not None:
            try:
                catalogue_task(task_id)
            except LLMServeError as error:
                raise to_service_error(error) from None
        if seed is not None and not 0 <= seed <= _MAX_SEED:
            bound = "must be an integer in 0..2^63-1"
            raise InvalidField(f"seed: {bound}", field="seed", bound=bound)
        if model is not None and not use_openai:
            bound = "goes with use_openai=true"
            raise InvalidField(f"model: {bound}", field="model", bound=bound)
        if model is not None and model not in self._settings.baseline_models:
            bound = f"must be one of {', '.join(self._settings.baseline_models)} (LLMSERVE_BASELINE_MODELS)"
            raise InvalidField(f"model: {bound}", field="model", bound=bound)

    async def _deterministic(self, task_id: str | None, seed: int | None) -> BaselineReport:
        key = (task_id, seed, simulator_version)
        with self._guard:
            found = self._reports.get(key)
            if found is not None:
                self._reports.move_to_end(key)
                return found
            if self._waiting >= _WAITING:
                raise Busy("other baselines are being computed: come back in a moment", retry_after_s=_RETRY_S)
            self._waiting += 1
        try:
            return await _in_thread(lambda: self._compute(key))
        except _StoppedError:
            raise Busy("the server is shutting down", retry_after_s=_RETRY_S) from None
        except LLMServeError as error:
            raise to_service_error(error) from None

    def _compute(self, key: _Key) -> BaselineReport:
        task_id, seed, _ = key
        try:
            with self._turn:
                found = self._reports.get(key)  # another caller may have made the same report meanwhile
                if found is not None:
                    return found
                report = run_suite(
                    tasks=None if task_id is None else [task_id],
                    seeds=None if seed is None else [seed],
                    environment=InProcess(engine=self._engine()),
                    progress=self._stop_if(self._closed),
                )
                with self._guard:
                    self._reports[key] = report
                    while len(self._reports) > _KEPT:
                        self._reports.popitem(last=False)
                return report
        finally:
            with self._guard:
                self._waiting -= 1

    async def _ask_model(self, task_id: str | None, seed: int | None, model: str) -> BaselineReport:
        settings = self._settings
        key = self.check_key()
        self._check_cap(task_id, seed)
        self._take_turn()
        abandoned = threading.Event()
        options = LLMOptions(
            api_key=key,
            base_url=settings.openai_base_url,
            patience=Patience(max_requests=settings.baseline_max_requests),
        )

        def work() -> BaselineReport:
            try:
                return run_suite(
                    "openai",
                    tasks=None if task_id is None else [task_id],
                    seeds=None if seed is None else [seed],
                    model=model,
                    llm=options,
                    environment=InProcess(engine=self._engine()),
                    progress=self._stop_if(abandoned, self._closed),
                )
            finally:
                self._spent_at = self._clock()
                self._spending = False

        _log.info("openai baseline started: model %s, task %s", model, task_id or "all")
        try:
            report = await _in_thread(work)
        except asyncio.CancelledError:
            abandoned.set()
            raise
        except _StoppedError:
            raise Busy("the server is shutting down", retry_after_s=_RETRY_S) from None
        except MissingKeyError as error:
            raise MissingApiKey(str(error)) from None
        except (EndpointError, RequestCapError) as error:
            raise EndpointFailed(str(error)) from None
        except LLMServeError as error:
            raise to_service_error(error) from None
        used = report.agents[0]
        _log.info("openai baseline done: %d requests, cost in USD %s", used.requests, used.cost_usd)
        return report

    def _check_cap(self, task_id: str | None, seed: int | None) -> None:
        cap = self._settings.baseline_max_requests
        tasks = validator_tasks() if task_id is None else (task_id,)
        seeds = {task: 1 if seed is not None else len(default_seeds("openai", task)) for task in tasks}
        needed = sum(catalogue_task(task).windows * seeds[task] for task in tasks)
        if needed > cap:
            bound = f"must name a task of at most {cap} windows (LLMSERVE_BASELINE_MAX_REQUESTS)"
            raise InvalidField(f"task_id: {bound}; this suite has {needed}", field="task_id", bound=bound)

    def _take_turn(self) -> None:
        interval = self._settings.baseline_min_interval_s
        if self._spending:
            raise Busy("an OpenAI baseline is running: one at a time", retry_after_s=max(1, math.ceil(interval)))
        left = 0.0 if self._spent_at is None else self._spent_at + interval - self._clock()
        if left > 0:
            raise Busy("the last OpenAI baseline has only just ended", retry_after_s=math.ceil(left))
        self._spending = True

    @staticmethod
    def _stop_if(*events: threading.Event) -> Callable[[Progress], None]:
        def check(_: Progress) -> None:
            if any(event.is_set() for event in events):
                raise _StoppedError

        return check


class _StoppedError(Exception):
    """The caller of the run has gone."""


def _in_thread(work: Callable[[], BaselineReport]) -> asyncio.Future[BaselineReport]:
    """Do `work` in a daemon thread, and return its result as a future of this event loop."""
    done: Future[BaselineReport] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            done.set_exception(error)

    threading.Thread(target=run, name="llmserve-baseline", daemon=True).start()
    return asyncio.wrap_future(done)
