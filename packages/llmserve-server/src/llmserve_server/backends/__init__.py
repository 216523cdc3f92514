"""The backends of an episode: the simulator, or a real endpoint."""

from __future__ import annotations

from llmserve_server.backends.backend import Backend, BackendFactory, StoredStep
from llmserve_server.backends.simulated import SimulatedBackend

__all__ = ["Backend", "BackendFactory", "SimulatedBackend", "StoredStep"]
