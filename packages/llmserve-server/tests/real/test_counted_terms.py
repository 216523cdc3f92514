"""A reward that counts, on a real endpoint: the expected load is that of the sampled share of the requests."""

from __future__ import annotations

import pytest

from llmserve_server.backends.real.measure import WindowReport, terms_of
from llmserve_sim.tasks import Task, load_task


def counted() -> Task:
    """A task that expects 20 weighted requests and 4000 tokens a second, in windows of 5 s."""
    task = load_task("bursty_workload")
    load = {"requests_per_s": 20.0, "output_tokens_per_s": 4000.0, "cost_scale_usd_per_1k": 0.001}
    return load_task(task.model_copy(update={"id": "mine", "reward": task.reward.model_copy(update=load)}))


def report(cost_usd: float | None, tokens: int = 1000) -> WindowReport:
    """A window of a tenth of the requests, all of which met their targets."""
    return WindowReport(
        arrivals=100,
        taken=10,
        share=0.1,
        capped=False,
        clipped_prompts=0,
        clipped_completions=0,
        time_scale=1.0,
        elapsed_s=5.0,
        finished=8,
        abandoned=0,
        failed=0,
        failures={},
        due=(1, 7),
        met=(1, 7),
        prompt_tokens_asked=0,
        prompt_tokens_counted=None,
        offered_tokens=tokens,
        delivered_tokens=tokens,
        good_tokens=tokens,
        estimated_requests=0,
        cost_usd=cost_usd,
        price_source=None,
    )


def test_counts_are_over_the_sampled_share_of_the_expected_load() -> None:
    terms = terms_of([report(0.002)], counted())
    assert terms.slo_share == pytest.approx((3 + 7) / (20.0 * 5.0 * 0.1))
    assert terms.throughput_share == pytest.approx(1000 / (4000.0 * 5.0 * 0.1))
    assert terms.cost_share == pytest.approx(1.0 - 1000 / 2000)


def test_a_window_is_priced_by_its_own_cost_and_not_by_the_windows_before() -> None:
    assert terms_of([report(0.1), report(0.002)], counted()) == terms_of([report(0.002)], counted())
    assert terms_of([report(None)], counted()).cost == 0.0
