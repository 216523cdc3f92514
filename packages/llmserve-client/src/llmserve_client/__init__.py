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

from typing import TYPE_CHECKING

from llmserve_client.__about__ import __version__ as __version__
from llmserve_sim._lazy import attach

if TYPE_CHECKING:
    from llmserve_client._async_client import AsyncLLMServeEnv as AsyncLLMServeEnv
    from llmserve_client._client import LLMServeEnv as LLMServeEnv
    from llmserve_client._endpoint import Endpoint as Endpoint
    from llmserve_client._endpoint import space_url as space_url
    from llmserve_client._exceptions import AmbiguousError as AmbiguousError
    from llmserve_client._exceptions import AnswerError as AnswerError
    from llmserve_client._exceptions import AtCapacityError as AtCapacityError
    from llmserve_client._exceptions import ClientClosedError as ClientClosedError
    from llmserve_client._exceptions import ClientError as ClientError
    from llmserve_client._exceptions import ConnectError as ConnectError
    from llmserve_client._exceptions import ConnectionLostError as ConnectionLostError
    from llmserve_client._exceptions import DeadlineError as DeadlineError
    from llmserve_client._exceptions import EpisodeStateError as EpisodeStateError
    from llmserve_client._exceptions import InvalidFieldError as InvalidFieldError
    from llmserve_client._exceptions import MissingApiKeyError as MissingApiKeyError
    from llmserve_client._exceptions import NotForkableError as NotForkableError
    from llmserve_client._exceptions import RefusedError as RefusedError
    from llmserve_client._exceptions import ServerFailureError as ServerFailureError
    from llmserve_client._exceptions import StepConflictError as StepConflictError
    from llmserve_client._exceptions import TooLargeError as TooLargeError
    from llmserve_client._exceptions import TransportError as TransportError
    from llmserve_client._exceptions import UnauthorizedError as UnauthorizedError
    from llmserve_client._exceptions import UnknownEpisodeError as UnknownEpisodeError
    from llmserve_client._exceptions import UnknownSessionError as UnknownSessionError
    from llmserve_client._exceptions import UnknownTaskError as UnknownTaskError
    from llmserve_client._exceptions import VersionChangedError as VersionChangedError
    from llmserve_client._exceptions import WebSocketUnavailableError as WebSocketUnavailableError
    from llmserve_client._network import AsyncDialer as AsyncDialer
    from llmserve_client._network import AsyncSocket as AsyncSocket
    from llmserve_client._network import SyncDialer as SyncDialer
    from llmserve_client._network import SyncSocket as SyncSocket
    from llmserve_client._options import Retries as Retries
    from llmserve_client._options import Timeouts as Timeouts
    from llmserve_client._protocol import StepResult as StepResult
    from llmserve_sim.schema import EpisodeLog as EpisodeLog
    from llmserve_sim.schema import GradeReport as GradeReport
    from llmserve_sim.schema import ServeAction as ServeAction
    from llmserve_sim.schema import ServeObservation as ServeObservation
    from llmserve_sim.schema import ServeState as ServeState

    __all__: list[str]
else:
    __getattr__, __dir__, __all__ = attach(__name__)
