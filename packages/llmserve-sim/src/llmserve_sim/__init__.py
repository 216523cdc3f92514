"""LLMServeEnv's simulator: a deterministic, request-level model of an LLM serving fleet, useful on its own.

This module only names things: importing it (or `llmserve_sim.schema`) loads neither numpy nor numba.
"""

from __future__ import annotations

from llmserve_sim.__about__ import __version__

__all__ = ["__version__"]
