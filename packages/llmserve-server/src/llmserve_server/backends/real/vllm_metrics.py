"""What a vLLM says about itself on its Prometheus page: KV cache in use, preemptions, draft tokens.

The names are those of vLLM's V1 engine (docs.vllm.ai, "Production metrics"); its older name of the KV gauge is read as
well. A page that is not there, is not vLLM's, or fails in between gives nothing: the figures are then unmeasured. The
endpoint's key is never sent to it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MetricsPage", "Reading", "Usage", "parse", "usage_between"]

_LOG = logging.getLogger(__name__)
_TIMEOUT_S: Final = 2.0
_MAX_BYTES: Final = 8 * 2**20
_KV: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_PREEMPTIONS: Final = "vllm:num_preemptions_total"
_DRAFTED: Final = "vllm:spec_decode_num_draft_tokens_total"
_ACCEPTED: Final = "vllm:spec_decode_num_accepted_tokens_total"


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the page; None for what it does not have. Counters count from the server's start, over its engines."""

    kv_share: float | None = None
    """KV blocks in use over all, mean of the engines, 0..1."""
    preemptions: int | None = None
    drafted: int | None = None
    accepted: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """A window as the page tells it; None for what it does not tell."""

    kv_cache_occupancy: float | None = None
    """At the window's end."""
    evictions: int | None = None
    drafted: int | None = None
    accepted: int | None = None


def parse(text: str) -> Reading | None:
    """Return what a page says; None for one that is no vLLM's. Raises `ValueError` for text that is no such page."""
    samples: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("vllm:"):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(sample.value)
    if not samples:
        return None
    shares = next((samples[name] for name in _KV if name in samples), None)
    return Reading(
        kv_share=None if shares is None else min(1.0, max(0.0, fmean(shares))),
        preemptions=_total(samples.get(_PREEMPTIONS)),
        drafted=_total(samples.get(_DRAFTED)),
        accepted=_total(samples.get(_ACCEPTED)),
    )


def usage_between(before: Reading | None, at_end: Reading | None, after: Reading | None) -> Usage:
    """Return what happened between readings before the window, at its end, and after its last request."""
    return Usage(
        kv_cache_occupancy=None if at_end is None else at_end.kv_share,
        evictions=_growth(before, after, "preemptions"),
        drafted=_growth(before, after, "drafted"),
        accepted=_growth(before, after, "accepted"),
    )


class MetricsPage:
    """Reads one page, for as long as it turns out to be a vLLM's. Use and close it on one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False)
        self._absent = False

    async def read(self) -> Reading | None:
        """Return what the page says now; None where it says nothing."""
        if self._absent:
            return None
        try:
            text = await self._fetch()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            _LOG.info("the metrics page did not answer: %s", type(error).__name__)
            return None
        try:
            reading = None if text is None else parse(text)
        except ValueError:
            reading = None
        if reading is None:
            self._absent = True
            _LOG.info("the endpoint has no vLLM metrics page: KV use, evictions and drafts stay unmeasured")
        return reading

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _fetch(self) -> str | None:
        async with self._client.stream("GET", self._url) as response:
            if response.status_code != httpx.codes.OK:
                return None
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    return None
            return body.decode("utf-8", errors="replace")


def _total(values: Iterable[float] | None) -> int | None:
    if values is None:
        return None
    total = sum(values)
    return int(total) if 0.0 <= total < float("inf") else None


def _growth(before: Reading | None, after: Reading | None, name: str) -> int | None:
    first, last = getattr(before, name, None), getattr(after, name, None)
    # A counter that fell belongs to a server that was started again in between.
    return None if first is None or last is None or last < first else last - first
