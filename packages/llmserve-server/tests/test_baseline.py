"""What is behind GET /baseline: one computation per suite, one paid run at a time, and limits that are kept."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmserve_agents.errors import AgentError
from llmserve_agents.evaluation.baseline import run_suite
from llmserve_agents.evaluation.baseline_report import BaselineReport
from llmserve_agents.policy import AGENTS
from llmserve_server import baseline
from llmserve_server.baseline import BaselineRunner
from llmserve_server.errors import AgentUnavailable, Busy, EndpointFailed, InvalidField, MissingApiKey, UnknownTask
from llmserve_server.settings import Settings
from llmserve_sim.policies import StaticPolicy
from llmserve_sim.schema import ServeAction

KEY = "sk-test-77aa-never-to-be-seen"
TASK = "bursty_workload"


class Model:
    """An OpenAI-compatible endpoint that always gives one action, or an error; it can be told to hold its answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.met = threading.Event()
        """Set once it was asked."""
        self.go = threading.Event()
        """Answers wait for it."""
        self.go.set()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                owner.asked += 1
                owner.met.set()
                owner.go.wait(10)
                message = {"role": "assistant", "content": json.dumps(ServeAction().model_dump())}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                body: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
                body |= {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
                if owner.status != 200:
                    body = {"error": {"message": f"no: {KEY}"}}
                text = json.dumps(body).encode()
                self.send_response(owner.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Stop."""
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def model() -> Iterator[Model]:
    server = Model()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def paying(model: Model, clock: Callable[[], float] | None = None, **settings: Any) -> BaselineRunner:
    """A runner with a key and that endpoint."""
    given = {"openai_api_key": KEY, "openai_base_url": model.url} | settings
    return BaselineRunner(Settings(**given), **({} if clock is None else {"clock": clock}))


def test_the_deterministic_suite_is_the_command_s_byte_for_byte_and_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[Any] = []

    def counted(*arguments: Any, **named: Any) -> BaselineReport:
        runs.append(named)
        return run_suite(*arguments, **named)

    monkeypatch.setattr(baseline, "run_suite", counted)
    runner = BaselineRunner(Settings())

    async def ask() -> list[BaselineReport]:
        together = await asyncio.gather(*(runner.run(task_id=TASK) for _ in range(4)))
        return [*together, await runner.run(task_id=TASK)]

    reports = asyncio.run(ask())
    assert len(runs) == 1
    assert {report.model_dump_json() for report in reports} == {run_suite(tasks=[TASK]).model_dump_json()}


def test_tasks_and_seeds_have_reports_of_their_own() -> None:
    runner = BaselineRunner(Settings())

    async def ask() -> tuple[BaselineReport, BaselineReport]:
        return await runner.run(task_id=TASK, seed=7), await runner.run(task_id="static_workload", seed=7)

    first, second = asyncio.run(ask())
    assert {episode.seed for episode in first.episodes} == {7}
    assert (first.tasks, second.tasks) == ([TASK], ["static_workload"])


def test_the_event_loop_goes_on_while_a_suite_runs() -> None:
    runner = BaselineRunner(Settings())

    async def ask() -> int:
        run = asyncio.create_task(runner.run(task_id=TASK, seed=11))
        turns = 0
        while not run.done():
            await asyncio.sleep(0)
            turns += 1
        await run
        return turns

    assert asyncio.run(ask()) > 10


def test_an_agent_without_weights_is_a_refusal_and_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    class Untrained(StaticPolicy):
        def reset(self, task_id: str, seed: int) -> None:
            raise AgentError(f"there are no weights for {task_id} in /secret/folder")

    monkeypatch.setitem(AGENTS, "random", Untrained)
    with pytest.raises(AgentUnavailable, match="weights") as refused:
        asyncio.run(BaselineRunner(Settings()).run(task_id=TASK, seed=3))
    assert "/secret" not in refused.value.message


def test_too_many_different_suites_at_once_are_asked_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "_WAITING", 2)
    runner = BaselineRunner(Settings())

    async def ask() -> list[Any]:
        runs = [runner.run(task_id=TASK, seed=seed) for seed in range(4)]
        return await asyncio.gather(*runs, return_exceptions=True)

    answers = asyncio.run(ask())
    refused = [answer for answer in answers if isinstance(answer, Busy)]
    assert len(refused) == 2
    assert all(answer.retry_after_s for answer in refused)
    assert isinstance(asyncio.run(runner.run(task_id=TASK, seed=3)), BaselineReport)


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        ({"task_id": "nothing"}, UnknownTask, "task_id"),
        ({"task_id": "../../etc/passwd.toml"}, UnknownTask, "task_id"),
        ({"seed": -1}, InvalidField, "seed"),
        ({"seed": 2**63}, InvalidField, "seed"),
        ({"model": "gpt-4.1"}, InvalidField, "model"),
        ({"model": "", "use_openai": True}, InvalidField, "model"),
    ],
)
def test_wrong_arguments_are_refused_by_field(arguments: dict[str, Any], error: type[Exception], field: str) -> None:
    runner = BaselineRunner(Settings())
    with pytest.raises(error) as caught:
        asyncio.run(runner.run(**arguments))
    assert caught.value.field == field  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", [None, "  ", "sk-é"])
def test_without_a_usable_key_the_openai_suite_is_refused(key: str | None) -> None:
    runner = BaselineRunner(Settings(openai_api_key=key))
    with pytest.raises(MissingApiKey, match="OPENAI_API_KEY"):
        asyncio.run(runner.run(use_openai=True))


def test_the_openai_suite_runs_in_this_process_and_its_key_is_nowhere(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    report = asyncio.run(paying(model, baseline_models="own").run(use_openai=True, task_id=TASK, model="own"))
    assert (report.runtime, report.agent, report.model) == ("in-process", "openai", "own")
    assert report.verified
    assert model.asked == 120
    assert "openai baseline done" in caplog.text
    assert KEY not in caplog.text + report.model_dump_json()


def test_one_openai_run_at_a_time_and_an_interval_between_two(model: Model, clock: Any) -> None:
    runner = paying(model, clock, baseline_min_interval_s=60)

    async def ask() -> None:
        model.go.clear()
        first = asyncio.create_task(runner.run(use_openai=True, task_id=TASK))
        assert await asyncio.to_thread(model.met.wait, 30)
        with pytest.raises(Busy, match="one at a time"):
            await runner.run(use_openai=True, task_id=TASK)
        model.go.set()
        await first
        with pytest.raises(Busy, match="only just ended") as caught:
            await runner.run(use_openai=True, task_id=TASK)
        assert caught.value.retry_after_s == 60
        clock.now += 60
        await runner.run(use_openai=True, task_id=TASK)

    asyncio.run(ask())
    assert model.asked == 240


def test_a_refused_call_takes_no_turn(model: Model) -> None:
    runner = paying(model)
    with pytest.raises(UnknownTask):
        asyncio.run(runner.run(use_openai=True, task_id="nothing"))
    assert asyncio.run(runner.run(use_openai=True, task_id=TASK)).verified


def test_a_suite_over_the_cap_is_refused_with_the_setting_s_name(model: Model) -> None:
    with pytest.raises(InvalidField, match="LLMSERVE_BASELINE_MAX_REQUESTS") as caught:
        asyncio.run(paying(model, baseline_max_requests=200).run(use_openai=True))
    assert caught.value.field == "task_id"
    assert model.asked == 0


def test_an_endpoint_that_refuses_is_reported_without_the_key(model: Model) -> None:
    model.status = 401
    with pytest.raises(EndpointFailed, match="401") as caught:
        asyncio.run(paying(model).run(use_openai=True, task_id=TASK))
    assert KEY not in caught.value.message
    assert (caught.value.status, caught.value.code) == (502, "endpoint_failed")


def test_a_run_that_nobody_waits_for_stops_spending(model: Model) -> None:
    runner = paying(model, baseline_min_interval_s=0)

    async def ask() -> None:
        model.go.clear()
        run = asyncio.create_task(runner.run(use_openai=True, task_id=TASK))
        assert await asyncio.to_thread(model.met.wait, 30)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        model.go.set()
        while True:  # until the thread has noticed
            try:
                return await runner.run(use_openai=True, task_id=TASK)
            except Busy:
                await asyncio.sleep(0.01)

    asyncio.run(ask())
    assert 120 < model.asked <= 122


def test_a_server_that_shuts_down_stops_its_run(model: Model) -> None:
    runner = paying(model)

    async def ask() -> None:
        model.go.clear()
        run = asyncio.create_task(runner.run(use_openai=True, task_id=TASK))
        assert await asyncio.to_thread(model.met.wait, 30)
        runner.close()
        model.go.set()
        with pytest.raises(Busy, match="shutting down"):
            await run

    asyncio.run(ask())
    assert model.asked <= 2
