"""LLMServeEnv for Prime Intellect's `verifiers`: ``vf-eval --env.taskset.id llmserve-verifiers``.

One task is one episode with a seed of its own, so all rollouts of a group face the same traffic. A model plays it with
the tools of `llmserve_agents.tools`. It needs ``pip install 'llmserve-agents[verifiers]'``.
"""

from __future__ import annotations

try:
    from llmserve_verifiers.taskset import ServingTaskset
except ImportError as error:
    if (error.name or "").partition(".")[0] != "verifiers":
        raise
    from llmserve_agents.errors import MissingExtraError

    raise MissingExtraError("verifiers", "llmserve_verifiers") from error

__all__ = ["ServingTaskset"]  # verifiers looks for exactly one taskset here
