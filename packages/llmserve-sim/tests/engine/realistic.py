"""The default deployment, two A100-80G serving Llama-3.1-8B, and traffic for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import numpy as np

from llmserve_sim.engine import Slo, Traffic, WindowPlan
from llmserve_sim.engine.interface import DEPTHS, FP, PS_PER_S, TENANTS
from llmserve_sim.hardware import get_deployment
from llmserve_sim.performance.tables import build_fleet

MS = 10**9
US = 10**6
FP16, INT8, INT4 = 0, 1, 2
FLEET = build_fleet(get_deployment("a100-llama3.1-8b"), max_len=8192, max_unfinished=1024)
ALONE = replace(FLEET, replicas=1)
SLO = Slo(ttft_ps=(PS_PER_S, 2 * PS_PER_S), ttft_ps_per_prompt_token=250 * US, tpot_ps=(22 * MS, 30 * MS))
POOL = 27_000  # blocks: 56 GB at 131,072 bytes a token


def rates(acceptance: float = 0.7) -> tuple[tuple[int, ...], ...]:
    """Tokens per step at each depth, if each draft token is accepted with one probability."""
    row = tuple(int(FP * sum(acceptance**j for j in range(depth + 1))) for depth in range(DEPTHS))
    return (row,) * TENANTS


PLAN = WindowPlan(
    end_ps=PS_PER_S,
    batch_cap=256,
    depth=0,
    tier=FP16,
    split=False,
    priority=False,
    pool_blocks=POOL,
    resized=False,
    tokens_per_step=rates(),
)


def requests(rows: Iterable[tuple[float, int, int, int]]) -> Traffic:
    """Traffic of (arrival s, prompt, output, class), one tenant."""
    columns = [np.array(column) for column in zip(*sorted(rows), strict=True)]
    arrival = np.rint(columns[0] * PS_PER_S).astype(np.int64)
    return Traffic(arrival, *(c.astype(np.int64) for c in columns[1:]), tenant=np.zeros(len(arrival), np.int64))


def chat(rate: float, seconds: float, prompt: int = 400, output: int = 200, priority_share: float = 0.0) -> Traffic:
    """Poisson arrivals of conversations; lengths spread by a half around their means."""
    rng, now, rows = Random(7), 0.0, []
    while (now := now + rng.expovariate(rate)) < seconds:
        kind = int(rng.random() >= priority_share)
        rows.append((now, int(prompt * rng.uniform(0.5, 1.5)), int(output * rng.uniform(0.5, 1.5)), kind))
    return requests(rows)
