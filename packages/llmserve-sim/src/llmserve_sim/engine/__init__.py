"""The serving engine: a plain reference scheduler, and a fast event-leaping kernel that gives the same results."""

from __future__ import annotations

from llmserve_sim.engine.interface import (
    Engine,
    FleetSpec,
    Progress,
    RequestRecord,
    Slo,
    TierTables,
    Traffic,
    WindowPlan,
    WindowStats,
)
from llmserve_sim.engine.kernel.batch import KernelBatch
from llmserve_sim.engine.kernel.engine import KernelEngine
from llmserve_sim.engine.latencies import LatencySums
from llmserve_sim.engine.reference import ReferenceEngine

__all__ = [
    "Engine",
    "FleetSpec",
    "KernelBatch",
    "KernelEngine",
    "LatencySums",
    "Progress",
    "ReferenceEngine",
    "RequestRecord",
    "Slo",
    "TierTables",
    "Traffic",
    "WindowPlan",
    "WindowStats",
]
