"""Compile the kernel with numba: import the same source files a second time and decorate every function.

The plain modules stay plain, so that both versions can run in one process. Numba caches machine code on disk: in
`NUMBA_CACHE_DIR`, beside the source, or in the user's cache directory if the source folder is not writable. If none of
these is writable, every process compiles again and a warning says so.

Numba freezes constants and callees from other files into the machine code, but checks only a function's own file for
changes. So the qualified name of every compiled function contains a digest of all the files: if one of them changes,
no old cache entry is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmserve_sim.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["available", "compiled_fleet"]

_HERE = Path(__file__).parent
_PARTS = ("linked", "histograms", "costs", "requests", "iterations", "fleet")
_CONSTANTS = (_HERE / "layout.py", _HERE.parent / "histogram.py", _HERE.parent / "interface.py")


def available() -> bool:
    """Return whether numba is installed (the extra `fast`)."""
    return importlib.util.find_spec("numba") is not None


@cache
def compiled_fleet() -> ModuleType:
    """Return the kernel's `fleet` module with every function compiled; the first call of a function compiles it.

    Raises:
        MissingExtraError: numba is not installed.
    """
    if not available():
        raise MissingExtraError("fast", "the compiled kernel")
    import numba

    jit = numba.njit(cache=_can_cache(numba), nogil=True, error_model="numpy")
    sources = [_HERE / f"{part}.py" for part in _PARTS]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in (*sources, *_CONSTANTS))).hexdigest()[:16]
    modules = [_import_again(source, f"llmserve_sim.engine.kernel.{source.stem}_{digest}") for source in sources]
    compiled: dict[str, Any] = {}
    for module in modules:
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value):
                if value.__module__ == module.__name__:
                    value.__qualname__ = f"{name}_{digest}"
                    compiled[name] = jit(value)
                setattr(module, name, compiled[name])
    return modules[-1]


def _can_cache(numba: ModuleType) -> bool:
    """Return whether numba finds a folder for its cache. With `cache=True` and no folder it would raise an error."""

    def probe() -> None: ...

    probe.__code__ = probe.__code__.replace(co_filename=str(_HERE / "fleet.py"))
    try:
        numba.njit(cache=True)(probe)
    except RuntimeError:
        warnings.warn(
            "no folder to keep compiled code in, so every process compiles the kernel again: set NUMBA_CACHE_DIR",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _import_again(source: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {source.name} a second time")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
