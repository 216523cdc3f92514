"""The typed client of a running LLMServeEnv server, synchronous and asynchronous side by side.

::

    from llmserve_client import LLMServeEnv

    with LLMServeEnv.from_url("http://localhost:7860") as env:
        observation = env.reset(task_id="bursty_workload", seed=42)
        while not observation.done:
            observation, reward, done, info = env.step({"batch_cap": 64, "quantization_tier": "INT8"})
        print(env.grade())

Beside it: `llmserve_client.gym` (extra ``gym``), `llmserve_client.openenv` (extra ``openenv``) and
`llmserve_client.testing`, which serves the same contract in your tests' own process. The error tree is drawn in
`llmserve_client._exceptions`. Start reading at `_protocol.py`: what a client does, without the I/O.

This module only names things and loads them when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmserve_client.__about__ import __version__

if TYPE_CHECKING:
    from llmserve_client._async_client import AsyncLLMServeEnv
    from llmserve_client._client import LLMServeEnv
    from llmserve_client._endpoint import Endpoint, space_url
    from llmserve_client._exceptions import (
        AmbiguousError,
        AnswerError,
        AtCapacityError,
        ClientClosedError,
        ClientError,
        ConnectError,
        ConnectionLostError,
        DeadlineError,
        EpisodeStateError,
        InvalidFieldError,
        MissingApiKeyError,
        NotForkableError,
        RefusedError,
        ServerFailureError,
        StepConflictError,
        TooLargeError,
        TransportError,
        UnauthorizedError,
        UnknownEpisodeError,
        UnknownSessionError,
        UnknownTaskError,
        VersionChangedError,
        WebSocketUnavailableError,
    )
    from llmserve_client._network import AsyncDialer, AsyncSocket, SyncDialer, SyncSocket
    from llmserve_client._options import Retries, Timeouts
    from llmserve_client._protocol import StepResult
    from llmserve_sim.schema import EpisodeLog, GradeReport, ServeAction, ServeObservation, ServeState

__all__ = [
    "AmbiguousError",
    "AnswerError",
    "AsyncDialer",
    "AsyncLLMServeEnv",
    "AsyncSocket",
    "AtCapacityError",
    "ClientClosedError",
    "ClientError",
    "ConnectError",
    "ConnectionLostError",
    "DeadlineError",
    "Endpoint",
    "EpisodeLog",
    "EpisodeStateError",
    "GradeReport",
    "InvalidFieldError",
    "LLMServeEnv",
    "MissingApiKeyError",
    "NotForkableError",
    "RefusedError",
    "Retries",
    "ServeAction",
    "ServeObservation",
    "ServeState",
    "ServerFailureError",
    "StepConflictError",
    "StepResult",
    "SyncDialer",
    "SyncSocket",
    "Timeouts",
    "TooLargeError",
    "TransportError",
    "UnauthorizedError",
    "UnknownEpisodeError",
    "UnknownSessionError",
    "UnknownTaskError",
    "VersionChangedError",
    "WebSocketUnavailableError",
    "__version__",
    "space_url",
]

_HOME = {
    "AmbiguousError": "llmserve_client._exceptions",
    "AnswerError": "llmserve_client._exceptions",
    "AsyncDialer": "llmserve_client._network",
    "AsyncLLMServeEnv": "llmserve_client._async_client",
    "AsyncSocket": "llmserve_client._network",
    "AtCapacityError": "llmserve_client._exceptions",
    "ClientClosedError": "llmserve_client._exceptions",
    "ClientError": "llmserve_client._exceptions",
    "ConnectError": "llmserve_client._exceptions",
    "ConnectionLostError": "llmserve_client._exceptions",
    "DeadlineError": "llmserve_client._exceptions",
    "Endpoint": "llmserve_client._endpoint",
    "EpisodeLog": "llmserve_sim.schema",
    "EpisodeStateError": "llmserve_client._exceptions",
    "GradeReport": "llmserve_sim.schema",
    "InvalidFieldError": "llmserve_client._exceptions",
    "LLMServeEnv": "llmserve_client._client",
    "MissingApiKeyError": "llmserve_client._exceptions",
    "NotForkableError": "llmserve_client._exceptions",
    "RefusedError": "llmserve_client._exceptions",
    "Retries": "llmserve_client._options",
    "ServeAction": "llmserve_sim.schema",
    "ServeObservation": "llmserve_sim.schema",
    "ServeState": "llmserve_sim.schema",
    "ServerFailureError": "llmserve_client._exceptions",
    "StepConflictError": "llmserve_client._exceptions",
    "StepResult": "llmserve_client._protocol",
    "SyncDialer": "llmserve_client._network",
    "SyncSocket": "llmserve_client._network",
    "Timeouts": "llmserve_client._options",
    "TooLargeError": "llmserve_client._exceptions",
    "TransportError": "llmserve_client._exceptions",
    "UnauthorizedError": "llmserve_client._exceptions",
    "UnknownEpisodeError": "llmserve_client._exceptions",
    "UnknownSessionError": "llmserve_client._exceptions",
    "UnknownTaskError": "llmserve_client._exceptions",
    "VersionChangedError": "llmserve_client._exceptions",
    "WebSocketUnavailableError": "llmserve_client._exceptions",
    "space_url": "llmserve_client._endpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
