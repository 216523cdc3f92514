"""Measured serving runs against the same runs in the simulator: predicted, measured, error, bound.

`python -m llmserve_sim.fidelity` prints the table; `check()` returns its rows. The measurements are other people's and are
not part of the package: see `data.py` for where they are looked for.
"""

from __future__ import annotations

from llmserve_sim.fidelity.bars import Row, check
from llmserve_sim.fidelity.data import data_dir
from llmserve_sim.fidelity.replay import RecordedRun, Replay, replay

__all__ = ["RecordedRun", "Replay", "Row", "check", "data_dir", "replay"]
