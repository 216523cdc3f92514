"""Names that load on first use, and deprecated names. Standard library only; importing it costs next to nothing.

A package's ``__init__.py`` writes each public name once, as an import that only type checkers run. `attach` reads the
same lines from the source and imports a name when it is first used::

    if TYPE_CHECKING:
        from package.env import ServingEnv as ServingEnv

        __all__: list[str]
    else:
        __getattr__, __dir__, __all__ = attach(__name__)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["attach", "renamed"]


def attach(
    package: str, deprecated: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package that loads its public names on first use.

    The public names are those that the package's ``if TYPE_CHECKING:`` block imports in the form ``from x import Y as
    Y``, and ``__version__``. `deprecated` maps old names to the full dotted names that replace them, see `renamed`.

    Raises `ImportError` if the source of the package is not there to be read.
    """
    module = sys.modules[package]
    homes = _public_names(package)
    names = sorted([*homes, "__version__"])

    def load(name: str) -> Any:
        if name not in homes:
            return _replacement(package, deprecated or {}, name)
        home, original = homes[name]
        value = getattr(import_module(home), original)
        setattr(module, name, value)  # the next use finds it without asking
        return value

    return load, lambda: list(names), names


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module with deprecated names.

    `names` maps each old name to the full dotted name that replaces it. Using an old name warns with a
    `DeprecationWarning`; any other name is an `AttributeError`.
    """
    return lambda name: _replacement(module, names, name)


def _replacement(module: str, names: Mapping[str, str], name: str) -> Any:
    if name not in names:
        raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name, obj=sys.modules[module])
    import warnings

    new = names[name]
    message = f"{module}.{name} is deprecated and will be removed in the next version: use {new}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)  # the line that uses the name, above `__getattr__`
    home, _, attribute = new.rpartition(".")
    return getattr(import_module(home), attribute)


def _public_names(package: str) -> dict[str, tuple[str, str]]:
    """Return where each public name comes from: (module, its name there)."""
    import ast

    loader: Any = getattr(sys.modules[package].__spec__, "loader", None)
    source = loader.get_source(package)
    if source is None:
        raise ImportError(f"{package} was installed without its source, which lists its public names", name=package)
    return {
        alias.asname: (statement.module, alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module is not None
        for alias in statement.names
        if alias.asname is not None
    }
