"""Lets the tests here import `strategies.py`, `realistic.py` and `lru.py` as `engine_*`, and offers each implementation."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmserve_sim.engine import Engine, KernelEngine, ReferenceEngine

NUMBA = importlib.util.find_spec("numba") is not None


def _register(name: str) -> None:
    """Make a module of this folder importable: test folders are no packages, and paths stay as they are."""
    spec = importlib.util.spec_from_file_location(f"engine_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"engine_{name}"] = module
    spec.loader.exec_module(module)


_register("strategies")
_register("realistic")
_register("lru")


@pytest.fixture(scope="session", params=["reference", "kernel"])
def make_engine(request: pytest.FixtureRequest) -> Callable[..., Engine]:
    """A constructor `(workload, *, record=True) -> Engine`, once per implementation."""

    def make(workload: object, *, record: bool = True) -> Engine:
        parts = (workload.fleet, workload.slo, workload.traffic)  # type: ignore[attr-defined]
        if request.param == "reference":
            return ReferenceEngine(*parts, record=record)
        return KernelEngine(*parts, record=record, backend="python")

    return make


@pytest.fixture(scope="session")
def backends() -> list[str]:
    """The kernel's speeds that this environment has: numba is an extra."""
    return ["python", "numba"] if NUMBA else ["python"]
