"""Compile the kernel with numba: import the same source files a second time and decorate every function.

The plain modules stay plain, so that both versions can run in one process. Numba caches machine code on disk: in
`NUMBA_CACHE_DIR`, beside the source, or in the user's cache directory if the source folder is not writable. If none of
these is writable, every process compiles again and a warning says so.

Numba freezes constants and callees from other files into the machine code, but checks only a function's own file for
changes. So the qualified name of every compiled function contains a digest of all the files: if one of them changes,
no old cache entry is used.

Compiling takes from half a minute to a few minutes. `load` does it ahead of the first window, `is_cached` says whether
it would be short, and `is_loaded` whether it is done.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import logging
import sys
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmserve_sim.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["available", "can_cache", "compiled_fleet", "compiled_module", "is_cached", "is_loaded", "load"]

_HERE = Path(__file__).parent
_PARTS = ("linked", "histograms", "costs", "blocks", "requests", "iterations", "fleet")
_CONSTANTS = tuple(_HERE.parent / name for name in ("kernel/layout.py", "histogram.py", "interface.py", "prefixes.py"))
_log = logging.getLogger(__name__)
_building = threading.Lock()
"""Held while the modules are imported again: `cache` alone would let two threads do it at once."""


def available() -> bool:
    """Return whether numba is installed (the extra `fast`)."""
    return importlib.util.find_spec("numba") is not None


def load() -> None:
    """Compile the kernel, or read it from numba's cache, so that no later window waits for it.

    Raises:
        MissingExtraError: numba is not installed.
    """
    if not is_loaded() and not is_cached():
        _log.info("compiling the kernel: half a minute to a few, once on a machine")
    fleet = compiled_fleet()
    for name, types in _signatures().items():
        getattr(fleet, name).compile(types)


def is_loaded() -> bool:
    """Return whether this process has the compiled kernel, so that a window does not wait for it."""
    return _decorated.cache_info().currsize > 0 and bool(_decorated()["fleet"].run_window.signatures)


def is_cached() -> bool:
    """Return whether numba's cache holds the kernel for this processor, so that `load` takes about a second.

    False where numba keeps no cache, or keeps it in a form that this function does not know.

    Raises:
        MissingExtraError: numba is not installed.
    """
    fleet = compiled_fleet()
    try:
        for name, types in _signatures().items():
            function = getattr(fleet, name)
            # numba has no public question for this: its index maps the signature and the processor to a file.
            kept = function._cache  # noqa: SLF001
            index = kept._cache_file._load_index()  # noqa: SLF001
            if kept._index_key(types, function.targetctx.codegen()) not in index:  # noqa: SLF001
                return False
    except Exception as error:  # noqa: BLE001 - whatever a release of numba has changed: ask it to load instead
        _log.debug("numba's cache cannot be looked at: %s", error)
        return False
    return True


@cache
def can_cache() -> bool:
    """Return whether numba finds a folder for its cache. With `cache=True` and no folder it would raise an error."""
    import numba

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


def compiled_fleet() -> ModuleType:
    """Return the kernel's `fleet` module with every function compiled; the first call of a function compiles it.

    Raises:
        MissingExtraError: numba is not installed.
    """
    return compiled_module("fleet")


def compiled_module(name: str) -> ModuleType:
    """Return a module of the kernel with every function compiled; the first call of a function compiles it.

    Raises:
        MissingExtraError: numba is not installed.
    """
    with _building:
        return _decorated()[name]


@cache
def _decorated() -> dict[str, ModuleType]:
    if not available():
        raise MissingExtraError("fast", "the compiled kernel")
    import numba

    jit = numba.njit(cache=can_cache(), nogil=True, error_model="numpy")
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
    return dict(zip(_PARTS, modules, strict=True))


def _signatures() -> dict[str, tuple[Any, ...]]:
    """Return the functions that are called from Python, with the only types that they are called with."""
    from numba import int64

    row, rows = int64[::1], int64[:, ::1]
    return {
        "run_window": (row, row, row, row, row, int64),
        "run_batch": (rows, row, rows, row, row, rows, row, int64, int64),
    }


def _import_again(source: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {source.name} a second time")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
