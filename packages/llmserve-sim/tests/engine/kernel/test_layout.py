"""Every field of a plan and of a window's statistics has the place in an arena row that its name says."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from engine_strategies import random_workload

from llmserve_sim.engine.interface import TOTALS, WindowPlan, WindowStats
from llmserve_sim.engine.kernel import layout
from llmserve_sim.engine.kernel.engine import pack_plan, read_stats
from llmserve_sim.engine.kernel.layout import H_PLAN, HIST_TTFT, PLAN_SIZE, STATS, STATS_SIZE, WINDOW_STATS

HISTOGRAMS = {"ttft_hist", "itl_hist"}


def test_every_figure_of_a_window_is_read_from_the_place_that_carries_its_name() -> None:
    row = np.arange(HIST_TTFT)
    stats = read_stats(row, histograms=False)
    for name in {field.name for field in fields(WindowStats)} - HISTOGRAMS:
        value = getattr(stats, name)
        first = value[0] if isinstance(value, list) else value
        assert first == getattr(layout, f"W_{name.upper()}"), name


def test_the_figures_fill_their_part_of_a_row_and_the_totals_come_first() -> None:
    read = vars(read_stats(np.arange(HIST_TTFT), histograms=False))
    values = [read[field.name] for field in fields(WindowStats)]
    flat = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    assert flat == list(range(STATS, STATS + STATS_SIZE))
    assert [read[name] for name in TOTALS] == list(range(STATS, WINDOW_STATS))


def test_every_setting_of_a_plan_is_at_the_place_that_carries_its_name() -> None:
    for seed in range(20):
        for plan in random_workload(seed).plans:
            packed = pack_plan(plan)
            assert len(packed) == PLAN_SIZE
            for field in fields(WindowPlan)[:-1]:
                name = field.name.upper()
                assert packed[getattr(layout, f"P_{name}")] == getattr(plan, field.name)
                assert getattr(layout, f"PLAN_{name}") == H_PLAN + getattr(layout, f"P_{name}")
            assert packed[layout.P_TOKENS_PER_STEP :].tolist() == np.ravel(plan.tokens_per_step).tolist()
