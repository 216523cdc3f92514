"""The comparison server: the least that an OpenEnv environment can do, served by OpenEnv's own `create_app`.

`python -m benchmarks.load.echo --host HOST --port PORT` serves it; it answers with the message that it gets.
"""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class EchoAction(Action):  # type: ignore[misc]
    """A message."""

    message: str


class EchoObservation(Observation):  # type: ignore[misc]
    """The same message."""

    message: str


class EchoEnvironment(Environment[EchoAction, EchoObservation, State]):  # type: ignore[misc]
    """Answers with the message that it gets, and counts steps."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State(step_count=0)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> EchoObservation:
        """Set the count to 0."""
        self._state = State(episode_id=episode_id, step_count=0)
        return EchoObservation(message="", reward=0.0, done=False)

    def step(self, action: EchoAction, timeout_s: float | None = None, **kwargs: Any) -> EchoObservation:
        """Return the message."""
        self._state.step_count += 1
        return EchoObservation(message=action.message, reward=1.0, done=False)

    @property
    def state(self) -> State:
        """Return the count."""
        return self._state


def main() -> None:
    """Serve the environment until the process is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    app = create_app(EchoEnvironment, EchoAction, EchoObservation, env_name="echo", max_concurrent_envs=64)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
