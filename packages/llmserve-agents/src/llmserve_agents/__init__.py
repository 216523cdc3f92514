"""This package will hold the reference policies, their training and their evaluation.

Version 0.1.0 holds nothing yet but its name and version.
"""

from __future__ import annotations

from llmserve_agents.__about__ import __version__

__all__ = ["__version__"]
