"""Fixtures that every test folder shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve_sim.fidelity.data import data_dir


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of measured runs; tests that need it skip where it is absent."""
    folder = data_dir()
    if folder is None:
        pytest.skip("no measured runs: LLMSERVE_DATA is not set and there is no shared/data beside the repository")
    return folder
