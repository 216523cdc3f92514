"""The version of llmserve-sim, read by hatchling at build time and by the package at import."""

from __future__ import annotations

__version__ = "0.1.0"
