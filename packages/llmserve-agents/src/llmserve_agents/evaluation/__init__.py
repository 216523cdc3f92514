"""What agents are worth: episodes on test seeds, graded by replay, with intervals. `runner.py` runs them all.

Beside it: the baseline suites of the documented command (`baseline.py`) and what each knob is worth (`ablation.py`).
"""

from __future__ import annotations

from llmserve_agents.evaluation.runner import run, test_seeds

__all__ = ["run", "test_seeds"]
