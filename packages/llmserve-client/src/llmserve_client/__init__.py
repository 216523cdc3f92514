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
`llmserve_client._exceptions`. Start reading at `_core.py`: what a client does, without the I/O.
"""

from __future__ import annotations

from llmserve_client.__about__ import __version__
from llmserve_client._async_client import AsyncLLMServeEnv
from llmserve_client._client import LLMServeEnv
from llmserve_client._core import StepResult
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
