"""The path of a request as the routes see it: without the prefix of a proxy, which uvicorn's ``root_path`` adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["KEPT_PREFIX", "PAGE", "is_page", "prefix_of", "route_path"]

PAGE: Final = "/web"
KEPT_PREFIX: Final = "llmserve.prefix"
"""Key of a scope: the prefix that `PrefixMiddleware` has removed, until `RestorePrefixMiddleware` puts it back."""


def route_path(scope: Mapping[str, Any]) -> str:
    """Return the path that routes are matched with."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if not prefix:
        return path
    if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
        return path[len(prefix) :]
    return path


def prefix_of(scope: Mapping[str, Any]) -> str:
    """Return the prefix of a proxy, "" for none."""
    # The root path of a mounted application has the path of the mount at its end.
    return str(scope.get(KEPT_PREFIX) or scope.get("app_root_path", scope.get("root_path", "")))


def is_page(path: str) -> bool:
    """Return whether `path` is the page or something below it."""
    return path == PAGE or path.startswith(f"{PAGE}/")
