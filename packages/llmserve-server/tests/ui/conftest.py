"""Fixtures of the page's tests: a controller over a registry of the test's own."""

from __future__ import annotations

import pytest

from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.ui.controller import PageController
from llmserve_sim.policies import POLICIES


@pytest.fixture
def controller(registry: SessionRegistry) -> PageController:
    """A controller with the simulator's plain policies as agents."""
    return PageController(registry, POLICIES)
