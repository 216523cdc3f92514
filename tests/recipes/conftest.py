"""What tests of recipes share: a recipe as a module, and a server that really runs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from local_server import Running, running

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def recipe() -> Callable[[str], ModuleType]:
    """Import a script of recipes/ by name; it runs nothing."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server without the page, which takes half its start."""
    if importlib.util.find_spec("llmserve_server") is None:
        pytest.skip("llmserve-server is not installed: nox -s recipes")
    with running(tmp_path_factory.mktemp("server"), env={"LLMSERVE_WEB": "false"}) as server:
        yield server
