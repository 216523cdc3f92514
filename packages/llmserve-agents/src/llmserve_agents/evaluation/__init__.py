"""Evaluations of agents on test seeds, graded by replay, with confidence intervals. Start at `runner.py`.

Also here: the baseline suites of ``llmserve baseline`` (`baseline.py`) and the value of each knob (`ablation.py`).
"""

from __future__ import annotations

from llmserve_agents.evaluation.runner import run, test_seeds

__all__ = ["run", "test_seeds"]
