"""What `import llmserve_sim` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import llmserve_sim


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert llmserve_sim.__version__ == metadata.version("llmserve-sim")


@pytest.mark.parametrize("name", llmserve_sim.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(llmserve_sim, name) is not None
    assert name in dir(llmserve_sim)


def test_exported_names_are_sorted_and_an_unknown_one_is_an_attribute_error() -> None:
    assert llmserve_sim.__all__ == sorted(llmserve_sim.__all__)
    with pytest.raises(AttributeError, match="levitate"):
        _ = llmserve_sim.levitate


@pytest.mark.parametrize("module", ["llmserve_sim", "llmserve_sim.schema", "llmserve_sim.errors"])
def test_importing_the_package_or_its_schema_loads_no_array_library(module: str) -> None:
    heavy = "{'numpy', 'numba', 'gymnasium', 'typer', 'rich', 'matplotlib'}"
    code = f"import sys, {module}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
