"""What is read off a vLLM's Prometheus page, and what is not believed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmserve_server.backends.real.vllm_metrics import MetricsPage, Reading, Usage, parse, usage_between

PAGE = """
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
vllm:num_preemptions_total{engine="1",model_name="m"} 4.0
# TYPE vllm:spec_decode_num_draft_tokens counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 100.0
# TYPE vllm:spec_decode_num_accepted_tokens counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 60.0
"""


def test_gauges_are_averaged_and_counters_added_over_the_engines() -> None:
    """One page may tell of several engines."""
    assert parse(PAGE) == Reading(kv_share=0.5, preemptions=7, drafted=100, accepted=60)


def test_the_older_name_of_the_gauge_is_read_as_well() -> None:
    """Before its V1 engine vLLM called it gpu_cache_usage_perc."""
    reading = parse('vllm:gpu_cache_usage_perc{model_name="m"} 0.1\n')
    assert reading == Reading(kv_share=0.1)


def test_a_page_without_vllm_is_none() -> None:
    """Another program's metrics say nothing about a KV cache."""
    assert parse("# TYPE up gauge\nup 1\n") is None


def test_a_window_is_the_difference_of_its_counters() -> None:
    """And the gauge is the one at the window's end."""
    before, at_end = Reading(0.9, 7, 100, 60), Reading(0.5, 8, 150, 90)
    assert usage_between(before, at_end, Reading(0.0, 9, 200, 130)) == Usage(0.5, 2, 100, 70)


def test_what_is_missing_or_ran_backwards_is_unknown() -> None:
    """A server that was started again in between counts from zero."""
    assert usage_between(None, None, None) == Usage()
    assert usage_between(Reading(0.1, 7), Reading(0.2), Reading(0.1, 2)) == Usage(kv_cache_occupancy=0.2)


def read(url: str, times: int = 1) -> list[Reading | None]:
    async def run() -> list[Reading | None]:
        page = MetricsPage(url)
        try:
            return [await page.read() for _ in range(times)]
        finally:
            await page.close()

    return asyncio.run(run())


def test_a_page_is_read_over_http(endpoint: Any) -> None:
    """At the root of the endpoint; it is never shown a key."""
    endpoint.page = PAGE
    [reading] = read(endpoint.url.replace("/v1", "/metrics"))
    assert reading == parse(PAGE)
    assert "authorization" not in endpoint.page_heads[0].lower()


@pytest.mark.parametrize("page", [None, "<html>", "up 1\n", "vllm:kv_cache_usage_perc{ 1"])
def test_a_page_that_is_no_vllms_is_asked_for_once(endpoint: Any, page: str | None) -> None:
    """404, nonsense, another program: unmeasured from then on."""
    endpoint.page = page
    assert read(endpoint.url.replace("/v1", "/metrics"), times=3) == [None] * 3
    assert len(endpoint.page_heads) == 1


def test_a_page_that_does_not_answer_is_tried_again() -> None:
    """It may come back: nothing is remembered against it."""
    assert read("http://127.0.0.1:9/metrics", times=2) == [None, None]
