"""A session's episode in real mode: what it observes, what it is worth, what it says it does not know, how it ends."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from llmserve_server.backends.backend import StoredStep
from llmserve_server.backends.real.backend import RealBackend, RealBackendFactory
from llmserve_server.backends.real.config import RealConfig
from llmserve_server.backends.real.endpoint import Endpoint
from llmserve_server.backends.real.measure import UNAPPLIED
from llmserve_server.backends.real.worker import Worker
from llmserve_server.errors import MissingApiKey, NotForkable, ShuttingDown, VersionChanged
from llmserve_server.settings import Settings
from llmserve_sim.errors import EpisodeStateError, InvalidInputError, UnknownTaskError
from llmserve_sim.observation import vector
from llmserve_sim.schema import EpisodeLog, ServeAction, ServeObservation
from llmserve_sim.tasks import load_task

ACTION = ServeAction(batch_cap=8)
PAGE = """
vllm:kv_cache_usage_perc{{engine="0"}} 0.375
vllm:num_preemptions_total{{engine="0"}} {count}
vllm:spec_decode_num_draft_tokens_total{{engine="0"}} {drafted}
vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {accepted}
"""


@pytest.fixture
def backends(endpoint: Any, config: Callable[..., RealConfig], say: Any) -> Iterator[Callable[..., RealBackendFactory]]:
    """Make backends on the scripted endpoint, which answers every request well unless told otherwise."""
    made: list[RealBackendFactory] = []

    def script(body: dict[str, Any], _: int) -> Any:
        count = body["max_tokens"]
        return say.tokens(count, usage=say.usage(len(body["messages"][0]["content"].split()) + 3, count))

    endpoint.script = script

    def make(**values: Any) -> RealBackendFactory:
        fields = {"token_limit_field": "max_tokens", "max_requests_per_step": 4, **values}
        made.append(RealBackendFactory(config(endpoint.url, **fields)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def started(backends: RealBackendFactory, task_id: str = "static_workload", seed: int = 11) -> RealBackend:
    backend = backends()
    assert isinstance(backend, RealBackend)
    backend.reset(task_id, seed, "e1")
    return backend


def stored(backend: RealBackend) -> list[StoredStep]:
    """What a store keeps of an episode: JSON, and back."""
    return [
        StoredStep(
            ServeAction.model_validate_json(step.action.model_dump_json()),
            ServeObservation.model_validate_json(step.observation.model_dump_json()),
        )
        for step in backend.log().steps
    ]


def test_reset_sends_nothing_and_says_what_it_cannot_do(backends: Any, endpoint: Any) -> None:
    """The first observation follows no action; limits of real mode are in it already."""
    backend = backends()()
    first = backend.reset("bursty_workload", 5, "e1")
    assert endpoint.requests == []
    assert (first.step_index, first.reward, first.done, first.task_id) == (0, 0.0, False, "bursty_workload")
    assert first.metadata["mode"] == "real"
    assert first.metadata["unapplied"] == list(UNAPPLIED)
    assert {"gpu_memory_used_gb", "kv_cache_occupancy", "eviction_events"} <= set(first.metadata["unmeasured"])
    assert not backend.replayable
    assert backend.observation() == first


def test_a_step_sends_the_sampled_requests_and_observes_them(backends: Any, endpoint: Any) -> None:
    """Requests in, tokens out, counts that add up."""
    backend = started(backends())
    seen = backend.step(ACTION)
    real = seen.metadata["real"]
    assert 0 < real["taken"] == len(endpoint.requests) <= 4
    assert real["taken"] == real["finished"] == sum(real["due"])
    assert real["failures"] == {}
    assert real["arrivals"] > real["taken"]
    assert real["prompt_tokens_counted"] == real["prompt_tokens_asked"] + 3 * real["taken"]
    assert real["delivered_tokens"] == real["offered_tokens"] == sum(body["max_tokens"] for body in endpoint.requests)
    assert seen.throughput_tps == pytest.approx(real["delivered_tokens"] / real["elapsed_s"])
    assert seen.request_arrival_rate == pytest.approx(real["taken"] / 0.05)
    assert 0.0 < seen.p50_ttft_ms <= seen.p99_ttft_ms
    assert seen.step_index == 1
    assert len(vector(seen, "extended")) > len(vector(seen, "base"))


def test_the_reward_is_the_sum_of_its_measured_terms(backends: Any) -> None:
    """Memory pressure, and cost without a price, are not measured: they are named as such and not in the reward."""
    seen = started(backends()).step(ACTION)
    terms = seen.metadata["reward_terms"]
    assert set(terms) == {"throughput", "slo"}
    assert seen.reward == pytest.approx(sum(terms.values()))
    assert set(seen.metadata["reward_shares"]) == {"throughput", "slo"}
    assert {"reward_terms.memory", "reward_terms.cost", "reward_shares.quality"} <= set(seen.metadata["unmeasured"])


def test_good_answers_are_worth_the_task_s_full_weights(backends: Any) -> None:
    """Everything offered was delivered within the targets (which are seconds, and these answers take milliseconds)."""
    task = load_task("static_workload")
    seen = started(backends(request_timeout_s=30.0)).step(ACTION)
    if seen.slo_compliance_rate == 1.0:  # a machine that stalled for two seconds would say otherwise
        assert seen.reward == pytest.approx(task.reward.throughput + task.reward.slo)


def test_failures_are_missed_targets_and_are_counted_by_kind(backends: Any, endpoint: Any, say: Any) -> None:
    """Nothing was delivered, every target was missed, and the reward knows."""
    endpoint.script = lambda _, number: say.refusal(500) if number % 2 else say.Reply([], hang_up=True)
    backend = started(backends())
    seen = backend.step(ACTION)
    real = seen.metadata["real"]
    assert sum(real["failures"].values()) == real["failed"] == real["taken"]
    assert set(real["failures"]) <= {"server_error", "connection"}
    assert seen.slo_compliance_rate == 0.0
    assert seen.throughput_tps == 0.0
    assert seen.reward == pytest.approx(0.0)
    state = backend.state()
    assert state.rejected == state.arrived == real["taken"]


def test_requests_are_conserved(backends: Any, endpoint: Any, say: Any) -> None:
    """Arrived = finished + abandoned + rejected, since nothing is in flight between steps."""
    good = endpoint.script
    endpoint.script = lambda body, number: say.refusal(429) if number % 3 == 0 else good(body, number)
    backend = started(backends())
    for _ in range(3):
        backend.step(ACTION)
    state = backend.state()
    assert state.step_count == 3
    assert state.arrived == len(endpoint.requests) == state.finished + state.abandoned + state.rejected
    assert (state.queued, state.running) == (0, 0)
    assert state.rejected > 0
    assert state.total_reward == pytest.approx(sum(step.observation.reward for step in backend.log().steps))


def test_a_price_makes_cost_a_measurement(backends: Any) -> None:
    """Per million tokens of what the endpoint counted, in the observation and in the reward."""
    backend = started(backends(usd_per_1m_prompt_tokens=1.0, usd_per_1m_completion_tokens=2.0))
    seen = backend.step(ACTION)
    real = seen.metadata["real"]
    assert real["cost_usd"] == pytest.approx((real["prompt_tokens_counted"] + 2 * real["delivered_tokens"]) / 1e6)
    assert seen.estimated_cost_per_1k == pytest.approx(real["cost_usd"] * 1000 / real["delivered_tokens"])
    assert "estimated_cost_per_1k" not in seen.metadata["unmeasured"]
    assert -0.05 <= seen.metadata["reward_terms"]["cost"] < 0.0
    assert seen.reward == pytest.approx(sum(seen.metadata["reward_terms"].values()))


def test_a_vllm_s_own_page_fills_in_what_it_knows(backends: Any, endpoint: Any) -> None:
    """KV use at the window's end, preemptions and drafts of the window; GPU memory stays unmeasured."""
    endpoint.page = PAGE.format(count=5, drafted=100, accepted=10)
    good = endpoint.script

    def script(body: dict[str, Any], number: int) -> Any:
        endpoint.page = PAGE.format(count=7, drafted=200, accepted=70)
        return good(body, number)

    endpoint.script = script
    seen = started(backends()).step(ACTION)
    assert seen.kv_cache_occupancy == 0.375
    assert seen.eviction_events == 2
    assert seen.spec_acceptance_rate == pytest.approx(0.6)
    unmeasured = set(seen.metadata["unmeasured"])
    assert not {"kv_cache_occupancy", "eviction_events", "spec_acceptance_rate"} & unmeasured
    assert "gpu_memory_used_gb" in unmeasured


def test_an_episode_taken_up_from_its_stored_steps_is_the_same(backends: Any, endpoint: Any) -> None:
    """State, log and last observation to the byte, with no request sent; the next step continues the same traffic."""
    shared = backends(usd_per_hour=2.0)
    backend = started(shared)
    for _ in range(3):
        backend.step(ACTION)
    sent = len(endpoint.requests)
    again = shared()
    again.restore("static_workload", 11, "e1", stored(backend))
    assert len(endpoint.requests) == sent
    assert again.state() == backend.state()
    assert again.log().model_dump_json() == backend.log().model_dump_json()
    assert again.observation().model_dump_json() == backend.observation().model_dump_json()
    backend.step(ACTION)
    following = [body["messages"] for body in endpoint.requests[sent:]]
    again.step(ACTION)
    key = json.dumps
    assert sorted(map(key, following)) == sorted(
        key(body["messages"]) for body in endpoint.requests[sent + len(following) :]
    )


def test_steps_of_another_making_are_refused(backends: Any) -> None:
    """A simulated observation, or none, is no measurement."""
    backend = started(backends())
    seen = backend.step(ACTION)
    foreign = seen.model_copy(update={"metadata": {}})
    for observation in (None, foreign):
        with pytest.raises(VersionChanged):
            backend.restore("static_workload", 11, "e1", [StoredStep(ACTION, observation)])
    assert backend.state().step_count == 1


def test_a_measured_episode_cannot_be_forked(backends: Any) -> None:
    """The refusal says what would work."""
    with pytest.raises(NotForkable, match="LLMSERVE_MODE=sim"):
        started(backends()).fork()


def test_a_measured_log_is_scored_without_being_verified(backends: Any) -> None:
    """Against the task's references; missing windows count at the random reference."""
    backend = started(backends())
    backend.step(ACTION)
    report = backend.grade(EpisodeLog.model_validate_json(backend.log().model_dump_json()))
    assert report.verified is None
    assert report.reason is not None
    assert "cannot be replayed" in report.reason
    assert (report.complete, report.steps, report.episode_length) == (False, 1, 120)
    assert set(report.components) == {"throughput", "slo"}
    if report.references is not None:
        assert report.score is not None
        assert 0.0 <= report.score <= 0.1


def test_a_log_of_nothing_or_of_another_version_has_no_score(backends: Any) -> None:
    """And says why."""
    backend = started(backends())
    empty = backend.grade(backend.log())
    assert (empty.score, empty.verified) == (None, None)
    backend.step(ACTION)
    old = backend.log().model_copy(update={"simulator_version": "0.0.1"})
    assert (backend.grade(old).score, backend.grade(old).verified) == (None, None)
    long = backend.log().model_copy(update={"steps": backend.log().steps * 121})
    assert backend.grade(long).score is None


def test_a_simulated_log_is_still_graded_by_replay(backends: Any) -> None:
    """Real mode takes nothing away from the simulator's logs."""
    from llmserve_sim.env import ServingEnv

    env = ServingEnv("static_workload", engine="python")
    env.reset(3)
    env.step(ACTION)
    assert started(backends()).grade(env.episode_log()).verified is True


def test_refused_calls_leave_the_episode_alone(backends: Any, endpoint: Any) -> None:
    """Unknown tasks, bad seeds, bad actions, steps before reset."""
    backend = backends()()
    with pytest.raises(EpisodeStateError):
        backend.step(ACTION)
    backend.reset("static_workload", 1, "e1")
    with pytest.raises(UnknownTaskError):
        backend.reset("no_such_task", 1, "e2")
    with pytest.raises(InvalidInputError):
        backend.reset("static_workload", -1, "e2")
    with pytest.raises(InvalidInputError):
        backend.step({"batch_cap": 0})
    assert backend.state().episode_id == "e1"
    assert endpoint.requests == []
    backend.close()
    backend.close()
    with pytest.raises(EpisodeStateError):
        backend.state()


def test_an_episode_ends_after_its_last_window(backends: Any) -> None:
    """The observation says done, and a further step is refused."""
    backend = started(backends())
    backend.step(ACTION)
    one = stored(backend)[0]
    backend.restore("static_workload", 11, "e1", [one] * 119)
    assert backend.step(ACTION).done
    assert backend.state().done
    with pytest.raises(EpisodeStateError, match="120"):
        backend.step(ACTION)


def test_a_seed_is_drawn_from_the_training_split(backends: Any) -> None:
    """Where none is given."""
    backend = backends()()
    backend.reset("static_workload", None, "e1")
    assert load_task("static_workload").seeds.split_of(backend.state().seed) == "train"


def test_closing_cuts_a_running_step_short_and_keeps_nothing(backends: Any, endpoint: Any, say: Any) -> None:
    """The step raises, the episode stands where it stood, and further steps are refused at once."""
    arrived = threading.Event()

    def script(*_: Any) -> Any:
        arrived.set()
        return say.Reply([60.0])

    endpoint.script = script
    shared = backends(request_timeout_s=60.0)
    backend = started(shared)
    raised: list[BaseException] = []

    def step() -> None:
        try:
            backend.step(ACTION)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
            raised.append(error)

    thread = threading.Thread(target=step)
    thread.start()
    assert arrived.wait(10)
    shared.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [type(error) for error in raised] == [ShuttingDown]
    assert backend.state().step_count == 0
    with pytest.raises(ShuttingDown):
        backend.step(ACTION)
    shared.close()


def test_sessions_run_side_by_side(backends: Any, endpoint: Any) -> None:
    """Two sessions step at once on one loop, and each gets its own requests back."""
    together = threading.Barrier(2, timeout=10)
    shared = backends()
    results: list[ServeObservation] = []

    def play(seed: int) -> None:
        backend = started(shared, seed=seed)
        together.wait()
        results.append(backend.step(ACTION))

    threads = [threading.Thread(target=play, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 2
    assert sum(result.metadata["real"]["taken"] for result in results) == len(endpoint.requests)


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    backends: Any, endpoint: Any, say: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Not into observation, state, log, grade, repr, log lines or errors; not even where the endpoint repeats it."""
    caplog.set_level(logging.DEBUG)
    good = endpoint.script

    def script(body: dict[str, Any], number: int) -> Any:
        if number % 2 == 0:
            return say.refusal(401, f"Incorrect API key provided: {say.KEY}")
        return (
            say.Reply([say.event({"error": {"message": f"bad key {say.KEY}"}})]) if number == 1 else good(body, number)
        )

    endpoint.script = script
    shared = backends()
    backend = started(shared)
    for _ in range(3):
        backend.step(ACTION)
    assert any(say.KEY in head for head in endpoint.heads)
    shown = [
        *(step.observation.model_dump_json() for step in backend.log().steps),
        backend.state().model_dump_json(),
        backend.log().model_dump_json(),
        backend.grade(backend.log()).model_dump_json(),
        repr(shared.config),
        str(vars(backend)),
        caplog.text,
        *(str(vars(record)) for record in caplog.records),
    ]
    assert not any(say.KEY in text for text in shown)
    assert "127.0.0.1" not in backend.log().model_dump_json()


def test_real_mode_without_a_key_says_which_variable_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and not at the first request; another endpoint may need none."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingApiKey, match="OPENAI_API_KEY"):
        RealBackendFactory(Settings(mode="real"))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    RealBackendFactory(Settings(mode="real")).close()


def test_the_documented_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the README, and the client's own two."""
    values = {
        "LLMSERVE_MODE": "real",
        "LLMSERVE_REAL_PROVIDER": "openai",
        "LLMSERVE_REAL_MODEL": "gpt-4.1-mini",
        "LLMSERVE_REAL_MAX_REQUESTS_PER_STEP": "5",
        "LLMSERVE_REAL_MAX_PROMPT_TOKENS": "70",
        "LLMSERVE_REAL_MAX_COMPLETION_TOKENS": "9",
        "LLMSERVE_REAL_TIME_SCALE": "0.5",
        "LLMSERVE_REAL_EXTRA_BODY": '{"ignore_eos": true}',
        "OPENAI_API_KEY": "sk-1234567890",
        "OPENAI_BASE_URL": "http://user:secret@gpu.example:8000/v1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    config = RealBackendFactory(Settings()).config
    assert (config.max_requests_per_step, config.max_prompt_tokens, config.max_completion_tokens) == (5, 70, 9)
    assert (config.provider, config.model, config.time_scale) == ("openai", "gpt-4.1-mini", 0.5)
    assert config.extra_body == {"ignore_eos": True}
    assert config.api_key == SecretStr("sk-1234567890")
    assert config.token_limit_field == "max_completion_tokens"  # noqa: S105 - the name of a field
    assert config.deployment == "real:openai/gpt-4.1-mini"
    assert "secret" not in repr(config)


def test_a_worker_that_never_ran_closes_at_once() -> None:
    """No thread is started for nothing."""
    before = threading.active_count()
    worker = Worker()
    worker.close()
    worker.close()
    assert threading.active_count() == before

    async def idle() -> None:
        """Do nothing."""

    with pytest.raises(ShuttingDown):
        worker.run(idle())


@pytest.fixture
def exact(leaping_loop: Any, config: Callable[..., RealConfig], say: Any) -> Iterator[Callable[..., ServeObservation]]:
    """Run one window at full length against a schedule, on a clock that leaps."""
    made: list[RealBackendFactory] = []

    def run(script: Any, action: ServeAction, **values: Any) -> ServeObservation:
        fields = {"time_scale": 1.0, "max_requests_per_step": 12, "max_completion_tokens": 11, **values}
        shared = RealBackendFactory(config(**fields), worker=Worker(leaping_loop))
        made.append(shared)
        client = httpx2.AsyncClient(transport=say.Transport(script))
        shared._endpoint = Endpoint(shared.config, http_client=client)
        shared._endpoint._client._platform = "Linux"  # looked up in a thread, for which a leaping clock does not wait
        return started(shared).step(action)

    yield run
    for one in made:
        one.close()


def test_a_known_schedule_is_observed_exactly(exact: Any, say: Any) -> None:
    """Text after 200 ms and every 20 ms: so say the percentiles, the throughput and the targets."""
    seen = exact(say.tokens(11, first_s=0.2, gap_s=0.02, usage=say.usage(9, 11)), ServeAction(batch_cap=512))
    real = seen.metadata["real"]
    assert seen.p50_ttft_ms == pytest.approx(200.0, abs=0.01)
    assert seen.p99_ttft_ms == pytest.approx(200.0, abs=0.01)
    assert seen.p50_itl_ms == pytest.approx(20.0)
    assert real["delivered_tokens"] == 11 * real["taken"]
    assert seen.throughput_tps == pytest.approx(11 * real["taken"] / real["elapsed_s"])
    assert 5.0 <= real["elapsed_s"] <= 5.4
    assert seen.slo_compliance_rate == 1.0
    assert seen.request_arrival_rate == pytest.approx(real["taken"] / 5.0)


def test_latencies_beyond_the_targets_are_misses(exact: Any, say: Any) -> None:
    """static_workload wants 30 ms per token (22 for priority): 25 ms is good for one class only, 31 ms for none."""
    between = exact(say.tokens(5, first_s=0.2, gap_s=0.025), ServeAction(batch_cap=512), max_requests_per_step=60)
    assert between.metadata["window"]["slo_compliance_standard"] == 1.0
    assert between.metadata["window"]["slo_compliance_priority"] == 0.0
    slow = exact(say.tokens(5, first_s=0.2, gap_s=0.031), ServeAction(batch_cap=512))
    assert slow.slo_compliance_rate == 0.0
    assert slow.metadata["reward_terms"]["throughput"] == 0.0


def test_a_small_batch_cap_makes_requests_wait(exact: Any, say: Any) -> None:
    """One at a time at 1.2 s each: the queue grows, latencies grow with it, and those who waited too long give up."""
    reply = say.tokens(11, first_s=1.0, gap_s=0.02)
    wide, narrow = exact(reply, ServeAction(batch_cap=512)), exact(reply, ServeAction(batch_cap=1))
    assert wide.p99_ttft_ms == pytest.approx(1000.0, abs=0.01)
    assert narrow.p99_ttft_ms > 3 * wide.p99_ttft_ms
    assert narrow.queue_depth > wide.queue_depth == 0
    assert narrow.active_requests == 1
    assert narrow.slo_compliance_rate < wide.slo_compliance_rate
    assert narrow.metadata["real"]["elapsed_s"] > wide.metadata["real"]["elapsed_s"]
    assert narrow.reward < wide.reward
