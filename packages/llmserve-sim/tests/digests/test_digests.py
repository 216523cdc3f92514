"""A short episode of every task gives the same bytes on every platform and Python version, with and without numba.

A digest that no longer holds means that the dynamics changed, or what is measured. If the dynamics changed, bump the
simulator's version. Regenerate with

    python packages/llmserve-sim/tests/digests/test_digests.py
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from llmserve_sim.__about__ import __version__
from llmserve_sim.engine.kernel.compiled import available
from llmserve_sim.env import EngineKind, Outcome, ServingEnv
from llmserve_sim.grid import GRID_SIZES, from_indices
from llmserve_sim.tasks import list_tasks

STORE = Path(__file__).with_name("digests.json")
SEED = 12
WINDOWS = 24
STRIDES = (3, 5, 2, 1, 1, 1)
"""Grid steps per change: every knob moves, and tier and split seldom, as their swaps stall the fleet."""
PERIODS = (1, 1, 2, 6, 8, 3)


def _bytes(outcome: Outcome) -> bytes:
    terms = () if outcome.terms is None else astuple(outcome.terms)
    values = [float(x) for x in (*astuple(outcome.measurement), *terms, outcome.reward)]
    return struct.pack(f"<{len(values)}d", *values)


def episode_digest(task: str, engine: EngineKind) -> str:
    """SHA-256 over every number of every window, as little-endian doubles."""
    env = ServingEnv(task, engine=engine)
    sha = hashlib.sha256(_bytes(env.start(SEED)))
    for window in range(WINDOWS):
        turns = zip(STRIDES, PERIODS, GRID_SIZES, strict=True)
        action = from_indices([(window // period) * stride % size for stride, period, size in turns])
        sha.update(_bytes(env.advance(action)))
    return sha.hexdigest()


def _stored() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(STORE.read_text(encoding="utf-8"))
    return stored


@pytest.mark.parametrize("task", [task.id for task in list_tasks()])
@pytest.mark.parametrize(
    "engine",
    ["python", pytest.param("numba", marks=pytest.mark.skipif(not available(), reason="numba is not installed"))],
)
def test_the_committed_digest_holds(task: str, engine: EngineKind) -> None:
    assert episode_digest(task, engine) == _stored()["digests"][task]


def test_the_digests_are_of_this_version() -> None:
    assert _stored()["simulator_version"] == __version__


if __name__ == "__main__":
    digests = {task.id: episode_digest(task.id, "auto") for task in list_tasks()}
    STORE.write_text(
        json.dumps({"simulator_version": __version__, "digests": digests}, indent=2) + "\n", encoding="utf-8"
    )
