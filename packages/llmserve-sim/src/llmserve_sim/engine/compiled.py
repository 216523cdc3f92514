"""The kernel compiled by numba: the same source file, imported a second time and decorated function by function.

The plain module stays plain, so that both can run side by side in one process. Machine code is cached on disk by
numba (`NUMBA_CACHE_DIR`, or beside the source, or in the user's cache directory where that is not writable).
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from llmserve_sim.errors import MissingExtraError

__all__ = ["available", "compiled_kernel"]

_NAME = "llmserve_sim.engine._compiled_kernel"


def available() -> bool:
    """Whether numba is installed (the extra `fast`)."""
    return importlib.util.find_spec("numba") is not None


@cache
def compiled_kernel() -> ModuleType:
    """The kernel as a module of compiled functions, plus `run_batch`. The first call of a function compiles it.

    Raises:
        MissingExtraError: numba is not installed.
    """
    if not available():
        raise MissingExtraError("fast", "the compiled kernel")
    import numba

    source = Path(__file__).with_name("kernel.py")
    spec = importlib.util.spec_from_file_location(_NAME, source)
    if spec is None or spec.loader is None:
        raise MissingExtraError("fast", f"{source.name}, which could not be read,")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    spec.loader.exec_module(module)
    jit = numba.njit(cache=True, nogil=True)
    # in the order of the source: a callee must be compiled code before its caller is looked at
    functions = [value for value in vars(module).values() if inspect.isfunction(value) and value.__module__ == _NAME]
    for function in sorted(functions, key=_first_line):
        setattr(module, function.__name__, jit(function))
    return module


def _first_line(function: FunctionType) -> Any:
    return function.__code__.co_firstlineno
