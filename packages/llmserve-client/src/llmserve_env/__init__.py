"""The import name of the documented example, ``from llmserve_env import LLMServeEnv``; it is llmserve_client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmserve_client.__about__ import __version__ as __version__
from llmserve_sim._lazy import attach

if TYPE_CHECKING:
    from llmserve_client import AsyncLLMServeEnv as AsyncLLMServeEnv
    from llmserve_client import LLMServeEnv as LLMServeEnv

    __all__: list[str]
else:
    __getattr__, __dir__, __all__ = attach(__name__)
