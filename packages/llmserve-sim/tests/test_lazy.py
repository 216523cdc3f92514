"""Public names load on first use, are listed once, and old ones say what replaces them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import llmserve_sim
from llmserve_sim._lazy import renamed

INIT = """
from typing import TYPE_CHECKING

__version__ = "1.0"
from llmserve_sim._lazy import attach

if TYPE_CHECKING:
    from os import PathLike

    from lazy_example.parts import First as First, second as other

    __all__: list[str]
else:
    __getattr__, __dir__, __all__ = attach(__name__, {"Old": "lazy_example.First", "moved": "json.dumps"})
"""
PARTS = """
class First: ...
def second(): ...
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT, encoding="utf-8")
    (folder / "parts.py").write_text(PARTS, encoding="utf-8")
    return tmp_path


def _python(path: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def test_a_name_loads_its_module_on_first_use_and_no_sooner(package: Path) -> None:
    code = """
import lazy_example
assert "lazy_example.parts" not in sys.modules and "json" not in sys.modules
first = lazy_example.First
assert first is sys.modules["lazy_example.parts"].First
assert vars(lazy_example)["First"] is first
assert lazy_example.other is sys.modules["lazy_example.parts"].second
"""
    assert _python(package, code) == ""


def test_the_public_names_are_those_imported_as_themselves(package: Path) -> None:
    code = "import lazy_example as it; print(it.__all__, dir(it)); from lazy_example import *; print(First, other)"
    shown = _python(package, code)
    assert shown.count("['First', '__version__', 'other']") == 2
    assert "First'> <function second" in shown


def test_an_unknown_name_is_an_attribute_error_that_suggests_one(package: Path) -> None:
    code = "import lazy_example\ntry: lazy_example.Frist\nexcept AttributeError as error: print(error, error.name, error.obj)"
    assert "module 'lazy_example' has no attribute 'Frist' Frist <module" in _python(package, code)
    with pytest.raises(ImportError):
        from llmserve_sim import levitate  # type: ignore[attr-defined]  # noqa: F401 - there is no such name


def test_a_deprecated_name_warns_where_it_is_used_and_names_the_new_one(package: Path) -> None:
    code = """
import warnings, lazy_example, json
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    assert lazy_example.Old is lazy_example.First
    assert lazy_example.moved is json.dumps
for one in found: print(one.category.__name__, one.filename, one.message)
"""
    first, second = _python(package, code).splitlines()
    assert first == (
        "DeprecationWarning <string> lazy_example.Old is deprecated and will be removed in the next version: "
        "use lazy_example.First"
    )
    assert second.endswith("use json.dumps")


def test_a_module_has_deprecated_names_of_its_own() -> None:
    load = renamed("llmserve_sim.grid", {"OLD_SIZES": "llmserve_sim.grid.GRID_SIZES"})
    with pytest.warns(DeprecationWarning, match=r"llmserve_sim\.grid\.OLD_SIZES .* use llmserve_sim\.grid\.GRID_SIZES"):
        assert len(load("OLD_SIZES")) == 6
    with pytest.raises(AttributeError, match="no attribute 'levitate'"):
        load("levitate")


def test_it_works_from_a_zip_archive_and_says_so_where_the_source_is_missing(package: Path) -> None:
    archive = package / "example.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("__init__.py", "parts.py"):
            file.write(package / "lazy_example" / name, f"lazy_example/{name}")
    assert "First" in _python(archive, "import lazy_example; print(lazy_example.First)")
    code = """
import compileall, pathlib
folder = pathlib.Path(sys.path[0], "lazy_example")
compileall.compile_dir(folder, quiet=1, legacy=True)
(folder / "__init__.py").unlink()
try: import lazy_example
except ImportError as error: print(error)
"""
    assert "lazy_example was installed without its source" in _python(package, code)


def test_the_package_s_names_are_visible_to_the_interpreter() -> None:
    assert "ServingEnv" in dir(llmserve_sim)
    assert llmserve_sim.ServingEnv.__module__ == "llmserve_sim.env"
