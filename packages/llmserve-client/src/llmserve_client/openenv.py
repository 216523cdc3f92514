"""OpenEnv's own client class, typed for this environment (extra `openenv`). The only module that imports OpenEnv.

    from llmserve_client.openenv import OpenEnvClient

    with OpenEnvClient("http://localhost:7860").sync() as env:
        result = env.reset(task_id="static_workload", seed=42)
        while not result.done:
            result = env.step(ServeAction(batch_cap=32))

Use it for OpenEnv's own methods, containers and Spaces (`from_docker_image`, `from_env`). OpenEnv is a heavy
dependency: `llmserve_client.LLMServeEnv` starts in a tenth of the time and can also grade, fork and resume.
"""

from __future__ import annotations

try:
    from openenv.core import EnvClient
    from openenv.core.client_types import StepResult
except ModuleNotFoundError as error:
    from llmserve_sim.errors import MissingExtraError

    raise MissingExtraError("openenv", "llmserve_client.openenv") from error

from collections.abc import Mapping
from typing import Any

from llmserve_client._wire import check_action, read_observation, read_state
from llmserve_sim.schema import ServeAction, ServeObservation, ServeState

__all__ = ["OpenEnvClient"]


class OpenEnvClient(EnvClient[ServeAction, ServeObservation, ServeState]):  # type: ignore[misc] # OpenEnv is untyped
    """OpenEnv's `EnvClient` for an LLMServeEnv server. An action is a `ServeAction` or a mapping of its fields."""

    def _step_payload(self, action: ServeAction | Mapping[str, object]) -> dict[str, Any]:
        return check_action(action).model_dump()

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[ServeObservation]:
        observation = read_observation(payload)
        return StepResult(
            observation=observation,
            reward=observation.reward,
            done=observation.done,
            metadata=dict(observation.metadata),
        )

    def _parse_state(self, payload: dict[str, Any]) -> ServeState:
        return read_state(payload)
