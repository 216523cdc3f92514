"""The options of the server: `Settings`, and how its fields become variables, bounds and rows of the documentation."""

from __future__ import annotations

from llmserve_server.settings.settings import (
    DOCUMENTATION_URL,
    ROOT_PATH,
    Setting,
    Settings,
    SettingsError,
    describe,
    unknown_variables,
)

__all__ = ["DOCUMENTATION_URL", "ROOT_PATH", "Setting", "Settings", "SettingsError", "describe", "unknown_variables"]
