"""Latencies that an engine keeps are those of its records and histograms, and keeping them changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from engine_strategies import random_workload

from llmserve_sim.engine import KernelEngine, LatencySums, ReferenceEngine
from llmserve_sim.engine.histogram import bin_middle_ps
from llmserve_sim.engine.interface import FP, PS_PER_S
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import EpisodeStateError

BOUNDS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


@pytest.mark.parametrize("seed", range(12))
def test_both_schedulers_count_the_same_and_what_their_records_say(seed: int) -> None:
    w = random_workload(seed)
    kernel = KernelEngine(w.fleet, w.slo, w.traffic, latencies=True)
    plain = KernelEngine(w.fleet, w.slo, w.traffic)
    reference = ReferenceEngine(w.fleet, w.slo, w.traffic, record=True)
    sums = [LatencySums(BOUNDS_S) for _ in range(2)]
    e2e_ps, ttft, itl = [], np.zeros(1), np.zeros(1)
    for plan in w.plans:
        stats = reference.step(plan)
        assert vars(kernel.step(plan)) == vars(plain.step(plan))
        assert kernel.state_bytes() == plain.state_bytes()
        kernel.count_latencies(sums[0])
        reference.count_latencies(sums[1])
        e2e_ps += [
            record.last_ps - int(w.traffic.arrival_ps[record.id])
            for record in reference.records()
            if record.status == "finished"
        ]
        ttft, itl = ttft + np.array(stats.ttft_hist), itl + np.array(stats.itl_hist)
    assert sums[0].e2e() == sums[1].e2e()
    assert sums[0].ttft(BOUNDS_S) == sums[1].ttft(BOUNDS_S)
    assert sums[0].itl(BOUNDS_S) == sums[1].itl(BOUNDS_S)
    within, total = sums[0].e2e()
    assert within == [*(sum(x <= bound * PS_PER_S for x in e2e_ps) for bound in BOUNDS_S), len(e2e_ps)]
    assert total == pytest.approx(sum(e2e_ps) / PS_PER_S)
    middles_s = np.array([bin_middle_ps(index) for index in range(len(ttft))]) / PS_PER_S
    assert sums[0].ttft(BOUNDS_S)[0] == [*(ttft[middles_s <= bound].sum() for bound in BOUNDS_S), ttft.sum()]
    assert sums[0].itl(BOUNDS_S)[0] == [*(itl[middles_s <= bound].sum() / FP for bound in BOUNDS_S), itl.sum() / FP]


def test_the_windows_of_several_episodes_add_up() -> None:
    """There are more than wait to be counted together."""
    sums, finished = LatencySums(BOUNDS_S), 0
    for seed in range(3):
        env = ServingEnv("static_workload", latencies=True)
        env.reset(seed)
        for _ in range(100):
            env.step({"batch_cap": 64})
            env.count_latencies(sums)
        finished += env.state().finished
    assert sums.e2e()[0][-1] == finished


def test_an_environment_that_keeps_none_says_so() -> None:
    env = ServingEnv("static_workload")
    env.reset(1)
    env.step({})
    with pytest.raises(EpisodeStateError, match="latencies=True"):
        env.count_latencies(LatencySums(BOUNDS_S))
