"""The import name of the documented example, ``from llmserve_env import LLMServeEnv``: llmserve_client under a short name."""

from __future__ import annotations

from llmserve_client import AsyncLLMServeEnv, LLMServeEnv, __version__

__all__ = ["AsyncLLMServeEnv", "LLMServeEnv", "__version__"]
