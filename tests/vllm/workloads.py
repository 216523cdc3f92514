"""Random workloads by regime, from a seed; plain records that both sides read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REGIMES", "Arrival", "Workload", "make_workload", "shrink"]

US = 10**6
MS = 10**9


@dataclass(frozen=True)
class Arrival:
    """One request. Its id is its index in the workload."""

    arrival_ps: int
    prompt: int
    output: int
    priority: int
    """0 before 1, as in vLLM."""
    tenant: int = 0
    """The class of acceptance rate: the tokens of its decoding requests come in lock-step."""
    text: tuple[tuple[int, int], ...] = ()
    """Its prompt and output where vLLM caches prefixes, as runs of (token, length)."""

    def tokens(self) -> list[int]:
        """Return its prompt and output, token by token."""
        text = [token for token, length in self.text for _ in range(length)]
        return text[: self.prompt + self.output]


@dataclass(frozen=True)
class Workload:
    """Requests and the settings of the scheduler that serves them."""

    regime: str
    budget: int
    """vLLM's `max_num_batched_tokens`."""
    blocks: int
    caps: tuple[tuple[int, int], ...]
    """(from ps, batch cap), the first from 0. A cap that is lowered preempts nothing."""
    priority: bool
    """vLLM's policy `priority`; False: `fcfs`."""
    depth: int
    """Draft tokens; 0: no speculation."""
    acceptance: float
    requests: tuple[Arrival, ...]
    asynchronous: bool = False
    """A step is scheduled while the one before it runs."""
    length_known: bool = True
    """Requests end by `max_tokens`, else by a stop token."""
    caching: bool = False
    """vLLM's `enable_prefix_caching`."""

    def __str__(self) -> str:
        rows = "\n".join(f"    {r}" for r in self.requests)
        settings = f"budget {self.budget}, {self.blocks} blocks, caps {self.caps}, depth {self.depth}"
        policy = "priority" if self.priority else "fcfs"
        mode = "asynchronous" if self.asynchronous else "synchronous"
        end = "max_tokens" if self.length_known else "a stop token"
        caching = "on" if self.caching else "off"
        rest = f"{policy}, {mode}, ends by {end}, prefix caching {caching}"
        return f"{self.regime}: {settings}, acceptance {self.acceptance}, {rest}\n{rows}"


@dataclass(frozen=True)
class Regime:
    """Ranges from which a workload is drawn."""

    requests: tuple[int, int]
    gap_ms: tuple[float, float]
    """Mean time between arrivals; it is drawn once for a workload."""
    prompt: tuple[int, int]
    output: tuple[int, int]
    spare_blocks: tuple[int, int]
    """Blocks beyond what the largest request needs."""
    budgets: tuple[int, ...] = (2048,)
    caps: tuple[int, ...] = (16, 64, 128)
    changes: int = 0
    """Changes of the cap in mid-run."""
    depths: tuple[int, ...] = (0,)
    together: float = 0.05
    """Share of requests that arrive at the very time of the one before."""
    policies: tuple[bool, ...] = (False, True)
    beginnings: int = 0
    """Beginnings that requests share, some of them branches of others; 0: vLLM caches no prefixes."""
    turns: float = 0.0
    """Share of requests that go on from all that an earlier one said and was told. Their prompts come on top of it."""
    aligned: int = 1
    """Texts part after multiples of that many tokens. A reference that knows blocks and not tokens needs 16 where a
    block's hash covers the token behind it too (0.33 with speculation)."""


REGIMES = {
    "light": Regime((5, 40), (50, 800), (2, 2000), (1, 200), (20_000, 20_000)),
    "saturated": Regime((30, 120), (1, 20), (2, 1500), (1, 150), (20_000, 20_000)),
    "starved": Regime((10, 60), (1, 60), (2, 1500), (1, 500), (0, 200)),
    "lowered cap": Regime((20, 80), (1, 40), (2, 1000), (1, 300), (50, 5000), caps=(2, 8, 32), changes=4),
    "priority": Regime((15, 60), (1, 60), (2, 1500), (1, 500), (0, 150), together=0.3, policies=(True,)),
    "long prompts": Regime((5, 30), (5, 300), (1500, 9000), (1, 200), (0, 1500), budgets=(1024, 2048, 8192)),
    "small budget": Regime((8, 50), (1, 80), (2, 1500), (1, 400), (0, 300), budgets=(64, 128, 256, 512), caps=(4, 8)),
    "speculation": Regime((10, 60), (1, 80), (2, 1500), (1, 400), (50, 5000), depths=(1, 3, 5)),
    "speculation, starved": Regime((10, 50), (1, 60), (2, 1200), (1, 500), (0, 120), depths=(1, 3, 5)),
    "shared beginnings": Regime((20, 80), (1, 80), (2, 1000), (1, 150), (0, 1500), beginnings=6),
    "sessions": Regime((20, 80), (5, 150), (2, 400), (1, 200), (0, 1500), beginnings=3, turns=0.7),
    "caching, starved": Regime((10, 60), (1, 60), (2, 1200), (1, 500), (0, 150), beginnings=4, turns=0.3),
    "caching, small budget": Regime(
        (8, 50), (1, 80), (2, 1200), (1, 400), (0, 300), budgets=(64, 128, 512), caps=(4, 8), beginnings=4, turns=0.3
    ),
    "caching, speculation": Regime(
        (10, 50), (1, 60), (2, 1200), (1, 300), (0, 500), depths=(1, 3, 5), beginnings=5, aligned=16
    ),
}
OWN = 1000
"""Tokens from here on are one request's own words; those from 10 on are of shared beginnings."""
LONGEST = 9000
"""Tokens beyond which a session is not continued."""


def make_workload(regime: str, seed: int) -> Workload:
    """Return the workload of a regime and a seed."""
    rng, ranges = Random(f"{regime}/{seed}"), REGIMES[regime]
    mean = rng.uniform(*ranges.gap_ms)
    budget, depth = rng.choice(ranges.budgets), rng.choice(ranges.depths)
    now, requests = 0, list[Arrival]()
    for _ in range(rng.randint(*ranges.requests)):
        if not requests or rng.random() >= ranges.together:
            now += int(rng.expovariate(1 / mean) * MS)
        prompt, output = rng.randint(*ranges.prompt), rng.randint(*ranges.output)
        requests.append(Arrival(now, prompt, output, rng.randint(0, 1), rng.randint(0, 3)))
    if ranges.beginnings:
        requests = _with_texts(requests, ranges, rng)
    # Every cap leaves each decoding request its whole draft: the simulator cuts the depth for all, vLLM for the last.
    caps = [cap for cap in ranges.caps if cap * (depth + 1) <= budget]
    changes = sorted(rng.randint(1, now + 2000 * MS) for _ in range(ranges.changes))
    largest = max(r.prompt + r.output for r in requests) + 2 * depth + 1
    return Workload(
        regime=regime,
        budget=budget,
        blocks=-(-largest // 16) + 4 + rng.randint(*ranges.spare_blocks),
        caps=tuple((start, rng.choice(caps)) for start in (0, *changes)),
        priority=rng.choice(ranges.policies),
        depth=depth,
        acceptance=rng.uniform(0.2, 0.9),
        requests=tuple(requests),
        asynchronous=rng.random() < 0.5,
        length_known=rng.random() < 0.5,
        caching=ranges.beginnings > 0,
    )


def _with_texts(requests: list[Arrival], ranges: Regime, rng: Random) -> list[Arrival]:
    """Return the requests with texts that begin alike, and longer prompts where they go on from an earlier request."""
    beginnings: list[list[int]] = [[]]
    for index in range(ranges.beginnings):
        stem = rng.choice(beginnings)
        length = rng.choice((40, 300, 1500))
        at, length = (n - n % ranges.aligned for n in (rng.randint(0, len(stem)), length))
        beginnings.append(stem[:at] + [10 + index] * length)
    told: list[list[int]] = []
    """What was said in each session."""
    result = []
    for index, r in enumerate(requests):
        if told and rng.random() < ranges.turns:
            session = rng.randrange(len(told))
            before = told[session]
            if len(before) > LONGEST:
                before = []
            prompt = len(before) + r.prompt
        else:
            session, before, prompt = len(told), rng.choice(beginnings), r.prompt
            told.append([])
        whole = prompt + r.output
        text = (before + [OWN + index] * whole)[:whole]
        told[session] = text
        runs = tuple((token, len(list(run))) for token, run in groupby(text))
        result.append(replace(r, prompt=prompt, text=runs))
    return result


def shrink(workload: Workload, differs: Callable[[Workload], bool], attempts: int = 400) -> Workload:
    """Return a smaller workload that still differs: fewer requests, fewer changes of the cap, shorter outputs."""
    size = max(len(workload.requests) // 2, 1)
    while attempts > 0:
        candidates = _smaller(workload, size)[:attempts]
        found = next((index for index, candidate in enumerate(candidates) if differs(candidate)), None)
        attempts -= len(candidates) if found is None else found + 1
        if found is not None:
            workload = candidates[found]
        elif size == 1:
            break
        else:
            size = max(size // 2, 1)
    return workload


def _smaller(workload: Workload, size: int) -> list[Workload]:
    """Return it without each run of `size` requests; at size 1 also without a change of the cap, or an output halved."""
    requests, caps = workload.requests, workload.caps
    starts = range(0, len(requests), size) if len(requests) > size else ()
    smaller = [replace(workload, requests=requests[:i] + requests[i + size :]) for i in starts]
    if size == 1:
        smaller += [replace(workload, caps=caps[:i] + caps[i + 1 :]) for i in range(1, len(caps))]
        for i, r in enumerate(requests):
            if r.output > 1:
                shorter = (*requests[:i], replace(r, output=r.output // 2), *requests[i + 1 :])
                smaller.append(replace(workload, requests=shorter))
    return smaller
