"""The compiled kernel runs wherever the package can be imported, and forgets nothing it was compiled from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llmserve_sim
from llmserve_sim.engine.kernel import compiled

pytestmark = pytest.mark.skipif(not compiled.available(), reason="needs numba (extra fast)")

PROBE = """
import warnings
from llmserve_sim.engine.kernel import compiled
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(compiled.can_cache(), [str(w.message) for w in caught])
"""


def probe(package: Path, home: Path) -> str:
    """What a new process says that imports the package from `package`'s parent and has `home` for a home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    environment |= {"HOME": str(home), "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", PROBE]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_where_no_cache_folder_can_be_written_the_kernel_is_compiled_without_one_and_says_so(tmp_path: Path) -> None:
    package = tmp_path / "llmserve_sim"
    shutil.copytree(Path(llmserve_sim.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (
        package / "engine" / "kernel" / "__pycache__"
    ).touch()  # a file where the folder would be: not even root can use it
    nowhere = tmp_path / "file"
    nowhere.touch()
    said = probe(package, nowhere / "home")
    assert said.startswith("False")
    assert "NUMBA_CACHE_DIR" in said
    assert probe(package, tmp_path).strip() == "True []"
