"""Fixtures of the page's tests: a desk over a registry of the test's own."""

from __future__ import annotations

import pytest

from llmserve_server.sessions import SessionRegistry
from llmserve_server.ui.desk import Desk
from llmserve_sim.policies import POLICIES


@pytest.fixture
def desk(registry: SessionRegistry) -> Desk:
    """A desk with the simulator's plain policies as agents."""
    return Desk(registry, POLICIES)
