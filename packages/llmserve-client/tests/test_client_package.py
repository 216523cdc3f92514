"""What the distribution promises: its names, its version, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import llmserve_client
import llmserve_env

NAMES = [
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


def test_import_name_reports_the_version_of_the_installed_distribution() -> None:
    """The version in __about__.py and the one that installers see are the same."""
    assert llmserve_client.__version__ == metadata.version("llmserve-client")


def test_the_public_names_are_these_and_sorted() -> None:
    assert llmserve_client.__all__ == sorted(NAMES)
    assert all(hasattr(llmserve_client, name) for name in NAMES)


def test_every_exception_of_the_tree_is_public_and_drawn() -> None:
    """The docstring's tree and the classes are the same."""
    from llmserve_client import _exceptions

    classes = {name for name, item in vars(_exceptions).items() if isinstance(item, type) and name != "Any"}
    assert classes <= set(NAMES)
    assert all(f"── {name}" in (_exceptions.__doc__ or "") for name in classes)


def test_the_documented_import_name_is_the_client() -> None:
    assert llmserve_env.LLMServeEnv is llmserve_client.LLMServeEnv
    assert llmserve_env.AsyncLLMServeEnv is llmserve_client.AsyncLLMServeEnv


@pytest.mark.parametrize("module", ["llmserve_client", "llmserve_env", "llmserve_client.testing"])
def test_importing_it_loads_no_openenv_no_gymnasium_and_no_server(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"openenv", "gymnasium", "fastapi", "uvicorn", "torch", "llmserve_server", "llmserve_agents"}
    # A client needs no array; a socket is loaded when one is opened; the local server runs the simulator itself.
    heavy |= set() if module == "llmserve_client.testing" else {"numpy", "numba", "websockets"}
    assert heavy.isdisjoint(loaded)
