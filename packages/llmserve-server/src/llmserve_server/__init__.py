"""This package will hold the OpenEnv FastAPI application around llmserve-sim: sessions, routes, web page, real mode.

Version 0.1.0 holds nothing yet but its name and version.
"""

from __future__ import annotations

from llmserve_server.__about__ import __version__

__all__ = ["__version__"]
