"""Which of a task's requests are sent, and what they ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmserve_server.backends.real.config import RealConfig
from llmserve_server.backends.real.prompts import WORDS, prompt_of
from llmserve_server.backends.real.sampling import RequestSampler
from llmserve_sim.tasks import load_task
from llmserve_sim.workload.scenario import generate


def sampler(config: RealConfig, task_id: str = "static_workload", seed: int = 7) -> RequestSampler:
    task = load_task(task_id)
    return RequestSampler(task, seed, generate(task, seed), config)


@pytest.fixture
def plain(config: Callable[..., RealConfig]) -> RealConfig:
    return config(max_requests_per_step=8, max_prompt_tokens=100, max_completion_tokens=50, time_scale=0.5)


def test_a_window_never_sends_more_than_the_limit(plain: RealConfig) -> None:
    """In any window of a task whose load swings, at any limit."""
    for limit in (1, 3, 8, 1024):
        drawn = sampler(replace(plain, max_requests_per_step=limit), "bursty_workload")
        assert all(len(drawn.window(i).requests) <= limit for i in range(120))


def test_everything_is_sent_where_the_limit_admits_it(plain: RealConfig) -> None:
    """Then the sample is the window."""
    drawn = sampler(replace(plain, max_requests_per_step=1024))
    for i in (0, 17, 119):
        sample = drawn.window(i)
        assert (sample.share, sample.capped, len(sample.requests)) == (1.0, False, sample.arrivals)


def test_busy_windows_stay_busier_than_calm_ones(plain: RealConfig) -> None:
    """The share is the task's and not the window's, so that a burst is still one."""
    drawn = sampler(plain, "bursty_workload")
    samples = [drawn.window(i) for i in range(120)]
    calm = [s for s in samples if s.arrivals < 40]
    busy = [s for s in samples if s.arrivals > 60]
    assert calm
    assert busy
    assert sum(len(s.requests) for s in busy) / len(busy) > 1.5 * sum(len(s.requests) for s in calm) / len(calm)


def test_every_request_has_the_same_chance(plain: RealConfig) -> None:
    """Over many seeds the share of requests taken is the stated one, early and late in a window alike."""
    halves: Counter[bool] = Counter()
    taken = arrivals = 0
    task = load_task("phase_shift")
    config = replace(plain, max_requests_per_step=30)
    for seed in range(40):
        drawn = sampler(config, task.id, seed)
        for window in range(0, 120, 10):
            sample = drawn.window(window)
            if not sample.capped:
                taken, arrivals = taken + len(sample.requests), arrivals + sample.arrivals
            halves.update(request.due_s > 1.25 for request in sample.requests)
    assert taken / arrivals == pytest.approx(drawn.share, rel=0.05)
    assert halves[True] == pytest.approx(halves[False], rel=0.1)


def test_the_same_episode_sends_the_same_requests(plain: RealConfig) -> None:
    """Task, seed and limits say what is sent; another seed sends something else."""
    assert sampler(plain).window(3) == sampler(plain).window(3)
    assert sampler(plain).window(3) != sampler(plain, seed=8).window(3)


def test_orders_are_in_order_scaled_and_clipped(plain: RealConfig) -> None:
    """Due times within the scaled window, lengths within the limits, and what was clipped is counted."""
    drawn = sampler(plain)
    for window in range(120):
        sample = drawn.window(window)
        dues = [request.due_s for request in sample.requests]
        assert dues == sorted(dues)
        assert all(0.0 <= due < 2.5 for due in dues)
        assert all(
            1 <= request.prompt_tokens <= 100 and 1 <= request.completion_tokens <= 50 for request in sample.requests
        )
        assert sum(request.prompt_tokens == 100 for request in sample.requests) >= sample.clipped_prompts
    assert any(drawn.window(window).clipped_completions for window in range(120))


@pytest.mark.parametrize("length", [1, 5, 23, 24, 300])
def test_a_prompt_has_as_many_words_as_tokens_were_asked_for(length: int) -> None:
    """One word is taken for one token."""
    assert len(prompt_of(1, 2, length).split()) == length


def test_prompts_are_deterministic_and_share_no_beginning() -> None:
    """The same for the same request; between requests and seeds the first words differ, so no prefix is cached."""
    assert prompt_of(1, 2, 50) == prompt_of(1, 2, 50)
    beginnings = {tuple(prompt_of(seed, request, 50).split()[:4]) for seed in range(20) for request in range(50)}
    assert len(beginnings) == 1000


def test_the_words_are_256_short_ones() -> None:
    """So that a byte picks one, and a tokenizer needs one token for each."""
    assert len(set(WORDS)) == len(WORDS) == 256
    assert all(word.isascii() and word.islower() and len(word) <= 8 for word in WORDS)


def test_the_configuration_says_openai_where_no_url_is_given(config: Any) -> None:
    """And no vLLM's metrics page is looked for there."""
    assert replace(config(), base_url=None).is_openai
    assert replace(config(), base_url=None).page_url is None
    assert config("https://h.example:1/v1").page_url == "https://h.example:1/metrics"
