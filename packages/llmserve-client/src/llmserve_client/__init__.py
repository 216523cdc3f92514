"""This package will hold the typed client, synchronous and asynchronous, of a running LLMServeEnv server.

Version 0.1.0 holds nothing yet but its name and version.
"""

from __future__ import annotations

from llmserve_client.__about__ import __version__

__all__ = ["__version__"]
