"""The client that OpenEnv's tools look for at the root of a Space; the code is in llmserve-client."""

from __future__ import annotations

from llmserve_client import AsyncLLMServeEnv, LLMServeEnv

__all__ = ["AsyncLLMServeEnv", "LLMServeEnv"]
