"""The import name of the documented example, ``from llmserve_env import LLMServeEnv``; it is llmserve_client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmserve_client.__about__ import __version__

if TYPE_CHECKING:
    from llmserve_client import AsyncLLMServeEnv, LLMServeEnv

__all__ = ["AsyncLLMServeEnv", "LLMServeEnv", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import llmserve_client

    return getattr(llmserve_client, name)
