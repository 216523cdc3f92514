"""Searches for the best fixed configuration, and the batches of simulated episodes that they and others run.

`grid.py` holds the loop over a batch and the search on the action grid, `refine.py` the search between the grid's
points. `alternation.py` is a probe, a command: whether a policy that looks at nothing beats a fixed configuration.
"""

from __future__ import annotations

from llmserve_agents.search.grid import (
    MAX_BATCH_SIZE,
    STARTS,
    best_by_regime,
    best_static,
    evaluate_actions,
    evaluate_static,
    mean_rewards,
    rollout,
    simulate_plans,
)
from llmserve_agents.search.refine import RefineBudget, Refined, refine, refine_static

__all__ = [
    "MAX_BATCH_SIZE",
    "STARTS",
    "RefineBudget",
    "Refined",
    "best_by_regime",
    "best_static",
    "evaluate_actions",
    "evaluate_static",
    "mean_rewards",
    "refine",
    "refine_static",
    "rollout",
    "simulate_plans",
]
