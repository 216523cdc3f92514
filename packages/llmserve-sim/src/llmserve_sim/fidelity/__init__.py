"""Measured serving runs against the same runs in the simulator: predicted, measured, error, bound.

`python -m llmserve_sim.fidelity` prints the table; `check()` returns its rows. The measurements are
published by others and are not part of the package; `data.py` says where they are looked up.
"""

from __future__ import annotations

from llmserve_sim.fidelity.bars import Row, check
from llmserve_sim.fidelity.data import data_dir
from llmserve_sim.fidelity.replay import RecordedRun, Replay, replay

__all__ = ["RecordedRun", "Replay", "Row", "check", "data_dir", "replay"]
