"""Read vLLM's Prometheus metrics: KV cache in use, preemptions, draft tokens.

The names are those of vLLM's V1 engine (docs.vllm.ai, "Production metrics"); the older name of the KV gauge is also
read. If the page is missing, is not vLLM's or fails, the figures are unmeasured. The endpoint's key is never sent to
it. Of a page, only the lines of these metrics are parsed: a page may have megabytes, and parsing delays every session.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from llmserve_agents.llm.transport import UnacceptableBodyError, bare_url, guarded_client

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MetricsPage", "Reading", "Usage", "parse", "usage_between"]

_LOG = logging.getLogger(__name__)
_TIMEOUT_S: Final = 2.0
"""For the whole page."""
_MAX_BYTES: Final = 8 * 2**20
_MAX_LINES: Final = 2000
"""Most lines of our metrics; a server has one for each engine."""
_KV: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_PREEMPTIONS: Final = "vllm:num_preemptions_total"
_DRAFTED: Final = "vllm:spec_decode_num_draft_tokens_total"
_ACCEPTED: Final = "vllm:spec_decode_num_accepted_tokens_total"
_NAMES: Final = (*_KV, _PREEMPTIONS, _DRAFTED, _ACCEPTED)


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics at one time; None for missing ones. Counters are sums over the engines since the server's start."""

    kv_share: float | None = None
    """Share of KV blocks in use, 0..1, mean of the engines."""
    preemptions: int | None = None
    drafted: int | None = None
    accepted: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """The metrics of a window; None for missing ones."""

    kv_cache_occupancy: float | None = None
    """At the window's end."""
    evictions: int | None = None
    drafted: int | None = None
    accepted: int | None = None


def parse(text: str) -> Reading | None:
    """Return the metrics of a page; None if it is not vLLM's. Raises `ValueError` if it is not a Prometheus page."""
    samples: dict[str, list[float]] = {}
    lines = [line for line in text.splitlines() if line.startswith(_NAMES)]
    if len(lines) > _MAX_LINES:
        return None
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample.value)
    if not samples and "\nvllm:" not in f"\n{text}":
        return None
    shares = next((samples[name] for name in _KV if name in samples), None)
    return Reading(
        kv_share=None if shares is None else min(1.0, max(0.0, fmean(shares))),
        preemptions=_total(samples.get(_PREEMPTIONS)),
        drafted=_total(samples.get(_DRAFTED)),
        accepted=_total(samples.get(_ACCEPTED)),
    )


def usage_between(before: Reading | None, at_end: Reading | None, after: Reading | None) -> Usage:
    """Return the window's metrics from readings before it, at its end, and after its last request."""
    return Usage(
        kv_cache_occupancy=None if at_end is None else at_end.kv_share,
        evictions=_growth(before, after, "preemptions"),
        drafted=_growth(before, after, "drafted"),
        accepted=_growth(before, after, "accepted"),
    )


class MetricsPage:
    """Reads one page, until it proves not to be vLLM's. Use and close it on one event loop."""

    def __init__(self, url: str) -> None:
        self._url = bare_url(url)
        self._client = guarded_client(
            httpx, url, max_bytes=_MAX_BYTES, max_connections=2, timeout=_TIMEOUT_S, trust_env=False
        )
        self._absent = False

    async def read(self) -> Reading | None:
        """Return the current metrics; None if there are none."""
        if self._absent:
            return None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                text = await self._fetch()
        except UnacceptableBodyError:
            text = None
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
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
            body: bytes = await response.aread()
            return body.decode("utf-8", errors="replace")


def _total(values: Iterable[float] | None) -> int | None:
    if values is None:
        return None
    total = sum(values)
    return int(total) if 0.0 <= total < float("inf") else None


def _growth(before: Reading | None, after: Reading | None, name: str) -> int | None:
    first, last = getattr(before, name, None), getattr(after, name, None)
    # A counter falls if the server was restarted meanwhile.
    return None if first is None or last is None or last < first else last - first
