"""Turn the results of a window's requests into an observation and a reward, with the simulator's definitions.

A `WindowReport` holds a window's counts. It is stored in the observation's ``metadata.real``, so that an episode can be
restored from its observations. Percentiles are nearest-rank. A figure that is not measured is 0 and named in
``metadata.unmeasured``. A reward term without a measurement is left out of the reward and named there too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import fsum
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from llmserve_sim.configuration import TIER_INDEX
from llmserve_sim.engine.interface import PRIORITY, PS_PER_S, STANDARD, TENANTS, WindowStats
from llmserve_sim.metrics import Measurement
from llmserve_sim.reward import HISTORY_WINDOWS, RewardMeter, RewardTerms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmserve_server.backends.real.config import RealConfig
    from llmserve_server.backends.real.load_generator import RequestResult, WindowRecord
    from llmserve_server.backends.real.pricing import Pricing
    from llmserve_server.backends.real.sampling import WindowSample
    from llmserve_server.backends.real.vllm_metrics import Usage
    from llmserve_sim.engine.interface import Slo
    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

__all__ = ["UNAPPLIED", "WindowReport", "measurement_of", "report_of", "terms_of", "unmeasured"]

UNAPPLIED: Final = ("kv_budget_fraction", "prefill_decode_split", "quantization_tier", "speculation_depth")
"""Knobs that cannot be applied to an OpenAI-compatible endpoint."""
_NEVER: Final = (
    "gpu_memory_used_gb",
    "reward_shares.quality",
    "reward_terms.memory",
    "window.cotenant_gb",
    "window.forced_evictions",
    "window.kv_pool_gb",
    "window.memory_pressure",
    "window.prefix_cache_share",
    "window.stall_s",
)
_NO_LOSS: Final = (1.0,) * TENANTS
"""Quality factors: the tier is not applied, so no quality is lost."""
_MS: Final = 1000.0


class WindowReport(BaseModel):
    """The counts of a window, in the order of ``metadata.real``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arrivals: int
    """Requests of the task in this window."""
    taken: int
    """Of those, the requests in the sample."""
    share: float
    """Share of the episode's requests that is sampled."""
    capped: bool
    clipped_prompts: int
    clipped_completions: int
    time_scale: float
    elapsed_s: float
    """Wall seconds until the last request was done."""
    finished: int
    abandoned: int
    failed: int
    failures: dict[str, int]
    """Number of failures by kind, see `Failure`."""
    due: tuple[int, int]
    met: tuple[int, int]
    """Requests that met their targets, by class: priority, standard."""
    prompt_tokens_asked: int
    prompt_tokens_counted: int | None
    """Sum of the endpoint's counts over the requests that have one; None if none has one."""
    offered_tokens: int
    delivered_tokens: int
    good_tokens: int
    estimated_requests: int
    """Requests without the endpoint's count of output tokens; their pieces of text are counted instead."""
    cost_usd: float | None
    price_source: str | None


def report_of(
    sample: WindowSample, record: WindowRecord, slo: Slo, pricing: Pricing | None, config: RealConfig
) -> WindowReport:
    """Return the counts of a served window."""
    results = record.results
    met = [result for result in results if _met(result, slo)]
    counted = [result.answer.prompt_tokens for result in results if result.answer.prompt_tokens is not None]
    return WindowReport(
        arrivals=sample.arrivals,
        taken=len(sample.requests),
        share=sample.share,
        capped=sample.capped,
        clipped_prompts=sample.clipped_prompts,
        clipped_completions=sample.clipped_completions,
        time_scale=config.time_scale,
        elapsed_s=record.elapsed_s,
        finished=sum(result.status == "finished" for result in results),
        abandoned=sum(result.status == "abandoned" for result in results),
        failed=sum(result.status == "failed" for result in results),
        failures=dict(
            sorted(Counter(result.answer.failure.value for result in results if result.answer.failure).items())
        ),
        due=_by_class(results),
        met=_by_class(met),
        prompt_tokens_asked=sum(request.prompt_tokens for request in sample.requests),
        prompt_tokens_counted=sum(counted) if counted else None,
        offered_tokens=sum(_offered(result) for result in results),
        delivered_tokens=sum(result.answer.tokens for result in results),
        good_tokens=sum(result.answer.tokens for result in met),
        estimated_requests=sum(result.answer.estimated for result in results),
        cost_usd=None if pricing is None else pricing.cost_usd(results, record.elapsed_s),
        price_source=None if pricing is None else pricing.source,
    )


def terms_of(reports: Sequence[WindowReport], task: Task) -> RewardTerms:
    """Return the reward's terms for the last of `reports`; a term without a measurement is 0."""
    # Terms that count look at one window, so its own cost is the price of its tokens.
    recent = reports[-1:] if task.reward.counted else reports[-HISTORY_WINDOWS:]
    costs = [report.cost_usd for report in recent if report.cost_usd is not None]
    priced = len(costs) == len(recent)
    usd = fsum(costs) / len(recent) if priced else 0.0
    meter = RewardMeter.of(task, usd, task.window_s, share=reports[-1].share)
    terms = [meter.read(_stats(report), 0.0, _NO_LOSS) for report in recent][-1]
    return replace(terms, memory=0.0) if priced else replace(terms, memory=0.0, cost=0.0)


def measurement_of(
    sample: WindowSample,
    record: WindowRecord,
    report: WindowReport,
    usage: Usage,
    last: Measurement,
    task: Task,
    action: ServeAction,
) -> Measurement:
    """Return the figures of a window; a percentile or ratio without samples repeats that of `last`."""
    window_s = task.window_s * report.time_scale
    arrivals = len(sample.requests)
    ttfts = [(result.ttft_s, 1.0) for result in record.results if result.ttft_s is not None]
    itls = [gap for result in record.results for gap in result.answer.itl_s()]
    priority = sum(request.priority == PRIORITY for request in sample.requests)
    delivered, step = report.delivered_tokens, last.step_index + 1
    cost, drafted = report.cost_usd, usage.drafted
    return Measurement(
        queue_depth=sum(record.queue),
        active_requests=record.running,
        kv_cache_occupancy=usage.kv_cache_occupancy or 0.0,
        mean_prompt_length=_ratio(report.prompt_tokens_asked, arrivals, last.mean_prompt_length),
        p50_ttft_ms=_percentile_ms(ttfts, 0.50, last.p50_ttft_ms),
        p99_ttft_ms=_percentile_ms(ttfts, 0.99, last.p99_ttft_ms),
        p50_itl_ms=_percentile_ms(itls, 0.50, last.p50_itl_ms),
        throughput_tps=delivered / report.elapsed_s,
        slo_compliance_rate=_ratio(sum(report.met), sum(report.due), 1.0),
        estimated_cost_per_1k=0.0 if cost is None else _ratio(cost * 1000.0, delivered, last.estimated_cost_per_1k),
        request_arrival_rate=arrivals / window_s,
        spec_acceptance_rate=_ratio(min(usage.accepted or 0, drafted), drafted, last.spec_acceptance_rate)
        if drafted
        else last.spec_acceptance_rate,
        eviction_events=usage.evictions or 0,
        step_index=step,
        progress=step / task.windows,
        queue_priority=record.queue[PRIORITY],
        queue_standard=record.queue[STANDARD],
        oldest_wait_s=record.oldest_wait_s,
        prefilling_requests=record.prefilling,
        priority_arrival_rate=priority / window_s,
        slo_compliance_priority=_ratio(report.met[PRIORITY], report.due[PRIORITY], 1.0),
        slo_compliance_standard=_ratio(report.met[STANDARD], report.due[STANDARD], 1.0),
        due_requests=sum(report.due),
        abandoned_requests=report.abandoned,
        rejected_requests=report.failed,
        goodput_tps=report.good_tokens / report.elapsed_s,
        batch_cap=action.batch_cap,
        kv_budget_fraction=action.kv_budget_fraction,
        depth_share=action.speculation_depth / 8,
        tier_fp16=1 * (TIER_INDEX[action.quantization_tier] == 0),
        tier_int8=1 * (TIER_INDEX[action.quantization_tier] == 1),
        tier_int4=1 * (TIER_INDEX[action.quantization_tier] == 2),
        split=1 * action.prefill_decode_split,
        priority=1 * action.priority_routing,
    )


def unmeasured(usage: Usage, *, priced: bool) -> list[str]:
    """Return the dotted names of the figures that are not measured; they are 0, or repeat the last measured value."""
    names = list(_NEVER)
    if usage.kv_cache_occupancy is None:
        names.append("kv_cache_occupancy")
    if usage.evictions is None:
        names.append("eviction_events")
    if usage.drafted is None or usage.accepted is None:
        names.append("spec_acceptance_rate")
    if not priced:
        names += ["estimated_cost_per_1k", "reward_terms.cost"]
    return sorted(names)


def _met(result: RequestResult, slo: Slo) -> bool:
    """Return whether a request met the simulator's targets, from its requested lengths and measured times."""
    if result.status != "finished" or result.ttft_s is None:
        return False
    answer, request = result.answer, result.request
    if (
        round(result.ttft_s * PS_PER_S)
        > slo.ttft_ps[request.priority] + request.prompt_tokens * slo.ttft_ps_per_prompt_token
    ):
        return False
    return round(answer.tpot_s * PS_PER_S) <= slo.tpot_ps[request.priority]


def _offered(result: RequestResult) -> int:
    """Return the output tokens of a request: those it got if its answer is complete, else those it asked for."""
    return result.answer.tokens if result.status == "finished" else result.request.completion_tokens


def _by_class(results: Sequence[RequestResult]) -> tuple[int, int]:
    priority = sum(result.request.priority == PRIORITY for result in results)
    return priority, len(results) - priority


def _stats(report: WindowReport) -> WindowStats:
    return WindowStats(
        offered_tokens=report.offered_tokens,
        delivered_tokens=report.delivered_tokens,
        # All under one tenant: without an applied tier, the tokens of all tenants have the same value.
        good_tokens=[report.good_tokens, 0, 0, 0],
        due=list(report.due),
        met=list(report.met),
    )


def _ratio(part: float, whole: float, otherwise: float) -> float:
    return part / whole if whole else otherwise


def _percentile_ms(samples: Sequence[tuple[float, float]], share: float, otherwise: float) -> float:
    """Return the nearest-rank percentile of (seconds, weight) pairs, in milliseconds."""
    if not samples:
        return otherwise
    ordered = sorted(samples)
    rank = share * fsum(weight for _, weight in ordered)
    seen = 0.0
    for seconds, weight in ordered:
        seen += weight
        if seen >= rank - 1e-9:
            return seconds * _MS
    return ordered[-1][0] * _MS
