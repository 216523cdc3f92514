"""A reward that counts: what it is worth to meet a request does not depend on the window in which it ends."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_sim.engine.interface import WindowStats
from llmserve_sim.env import ServingEnv
from llmserve_sim.grader import grade
from llmserve_sim.reward import CountedTerms, RewardMeter
from llmserve_sim.schema import EpisodeLog, ServeAction
from llmserve_sim.tasks import Task, load_task
from llmserve_sim.workload.replay import scenario_from_trace
from llmserve_sim.workload.scenario import generate
from llmserve_sim.workload.traces import Trace

QUALITY = (1.0, 0.75, 0.5, 0.25)
USD_PER_S = 0.001
LOAD = {"requests_per_s": 23.7, "output_tokens_per_s": 4017.0}

windows = st.lists(
    st.builds(
        lambda met, missed, good, more: WindowStats(
            met=list(met),
            due=[met[0] + missed[0], met[1] + missed[1]],
            good_tokens=list(good),
            delivered_tokens=sum(good) + more,
            offered_tokens=sum(good),
        ),
        st.tuples(st.integers(0, 500), st.integers(0, 500)),
        st.tuples(st.integers(0, 500), st.integers(0, 500)),
        st.tuples(*[st.integers(0, 10**5)] * 4),
        st.integers(0, 10**5),
    ),
    min_size=1,
    max_size=12,
)


@cache
def counted(task_id: str = "bursty_workload") -> Task:
    """A built-in task whose reward counts."""
    task = load_task(task_id)
    return load_task(task.model_copy(update={"id": "counted", "reward": task.reward.model_copy(update=LOAD)}))


def mean_of(stats: list[WindowStats], window_s: float = 5.0) -> float:
    """The mean reward per window, without memory pressure."""
    meter = RewardMeter.of(counted(), USD_PER_S * window_s, window_s)
    return float(np.mean([meter.read(one, 0.0, QUALITY).total for one in stats]))


def merged(first: WindowStats, second: WindowStats) -> WindowStats:
    """What one window would have counted in the time of two."""
    return WindowStats(
        met=[a + b for a, b in zip(first.met, second.met, strict=True)],
        due=[a + b for a, b in zip(first.due, second.due, strict=True)],
        good_tokens=[a + b for a, b in zip(first.good_tokens, second.good_tokens, strict=True)],
        delivered_tokens=first.delivered_tokens + second.delivered_tokens,
        offered_tokens=first.offered_tokens + second.offered_tokens,
    )


@given(windows, st.integers(0, 11), st.integers(0, 11))
def test_moving_misses_to_another_window_changes_nothing(stats: list[WindowStats], source: int, target: int) -> None:
    before = mean_of(stats)
    a, b = stats[source % len(stats)], stats[target % len(stats)]
    for name in (0, 1):
        moved = a.due[name] - a.met[name]
        a.due[name] -= moved
        b.due[name] += moved
    assert mean_of(stats) == before


@given(windows, st.integers(0, 11), st.integers(0, 11), st.sampled_from([0, 1]))
def test_a_met_request_is_worth_the_same_in_whatever_window_it_ends(
    stats: list[WindowStats], first: int, second: int, name: int
) -> None:
    before, gains = mean_of(stats), []
    for at in (first % len(stats), second % len(stats)):
        stats[at].met[name] += 1
        gains.append(mean_of(stats) - before)
        stats[at].met[name] -= 1
    weight = counted().priority.weight if name == 0 else 1.0
    assert gains == pytest.approx([counted().reward.slo * weight / (23.7 * 5.0 * len(stats))] * 2, rel=1e-6)


@given(windows.filter(lambda stats: len(stats) % 2 == 0))
def test_windows_of_twice_the_length_give_the_same_mean(stats: list[WindowStats]) -> None:
    longer = [merged(a, b) for a, b in zip(stats[::2], stats[1::2], strict=True)]
    assert mean_of(longer, 10.0) == pytest.approx(mean_of(stats, 5.0), rel=1e-12, abs=1e-12)


@given(windows, st.integers(0, 11))
def test_writing_a_window_off_never_gains(stats: list[WindowStats], at: int) -> None:
    before = mean_of(stats)
    stats[at % len(stats)].met = [0, 0]
    stats[at % len(stats)].good_tokens = [0, 0, 0, 0]
    assert mean_of(stats) <= before


def test_a_window_of_the_expected_load_served_whole_has_shares_of_one_and_a_burst_more() -> None:
    meter = RewardMeter.of(counted(), 0.005, 5.0)
    burst = WindowStats(met=[0, 237], due=[0, 237], good_tokens=[40_170, 0, 0, 0], delivered_tokens=40_170)
    terms = meter.read(burst, 0.0, (1.0, 1.0, 1.0, 1.0))
    assert (terms.slo_share, terms.throughput_share) == (pytest.approx(2.0), pytest.approx(2.0))
    assert terms.cost_share == pytest.approx(1.0 - 40_170 / 5000)
    idle = meter.read(WindowStats(), 0.0, QUALITY)
    assert (idle.slo_share, idle.throughput_share, idle.cost_share) == (0.0, 0.0, 1.0)


def test_a_fleet_without_a_price_has_no_cost() -> None:
    assert RewardMeter.of(counted(), 0.0, 5.0).read(WindowStats(delivered_tokens=7), 0.0, QUALITY).cost == 0.0


@pytest.mark.parametrize("action", [ServeAction(batch_cap=24, kv_budget_fraction=0.4), ServeAction(batch_cap=200)])
def test_a_replayed_trace_earns_the_same_with_windows_of_any_length(action: ServeAction) -> None:
    """The whole environment: the same requests, met and missed, in windows of 2.5, 5 and 10 seconds."""
    traffic = generate(load_task("bursty_workload"), 3).traffic
    first = slice(0, int(np.searchsorted(traffic.arrival_ps, 60 * 10**12)))
    trace = Trace("part", traffic.arrival_ps[first], traffic.prompt[first], traffic.output[first], 60 * 10**12)
    base = counted()
    still = base.acceptance.model_copy(update={"swing": 0.0, "noise_sd": 0.0})
    uniform = base.tenants[0].model_copy(update={"share": 1.0, "share_burst": 1.0})
    means = []
    for window_s in (2.5, 5.0, 10.0):
        fields = {"cotenant": None, "acceptance": still, "window_s": window_s, "tenants": (uniform,)}
        task = load_task(base.model_copy(update=fields))
        env = ServingEnv(task)
        env.start(1, scenario=scenario_from_trace(trace, task, drain_s=20.0))
        rewards = [env.advance(action).reward for _ in range(env.episode_length)]
        met = sum(step.observation.metadata["window"]["due_requests"] for step in env.episode_log().steps)
        assert met == len(trace)
        means.append(float(np.mean(rewards)))
    assert means == pytest.approx([means[0]] * 3, rel=1e-12)


def test_a_log_with_rewards_beyond_one_is_read_and_graded_by_the_episodes_sums() -> None:
    env = ServingEnv(counted())
    env.reset(seed=7)
    while not env.state().done:
        env.step({"batch_cap": 64, "quantization_tier": "INT8", "kv_budget_fraction": 0.4})
    text = env.episode_log().model_dump_json()
    log = EpisodeLog.model_validate_json(text)
    assert max(step.observation.reward for step in log.steps) > 1.0
    report = grade(text, task=counted())
    assert (report.verified, report.score) == (True, None)
    assert all(0.0 <= value <= 1.0 for value in report.components.values())
    env.start(7)
    played = [env.advance(step.action).terms for step in log.steps]
    counts = [terms.counts for terms in played if isinstance(terms, CountedTerms)]
    met, due = (sum(getattr(one, name) for one in counts) for name in ("met", "due"))
    assert report.components["slo"] == pytest.approx(met / due)
    shares = [step.observation.metadata["reward_shares"]["slo"] for step in log.steps]
    assert met == pytest.approx(sum(shares) * 23.7 * 5.0)
