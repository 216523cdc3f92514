"""Gymnasium's `Env` over a remote server (extra `gym`).

    from llmserve_client.gym import RemoteLLMServeEnv

    env = RemoteLLMServeEnv("http://localhost:7860", task="bursty_workload", observation="extended")

Spaces, encodings and seeds are those of `llmserve_sim.gym`, so a policy trained there runs here unchanged.
"""

from __future__ import annotations

try:
    import gymnasium
except ModuleNotFoundError as error:
    from llmserve_sim.errors import MissingExtraError

    raise MissingExtraError("gym", "llmserve_client.gym") from error

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from llmserve_client._client import LLMServeEnv, SyncOptions
from llmserve_client._exceptions import AnswerError, UnknownTaskError
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.gym import NO_TERMS, ActionKind, action_space, decode_action, observation_space
from llmserve_sim.hardware import get_deployment
from llmserve_sim.metrics import ObservationKind
from llmserve_sim.observation import vector
from llmserve_sim.schema import ServeObservation, plain_integer
from llmserve_sim.tasks import list_tasks

__all__ = ["RemoteLLMServeEnv"]


class RemoteLLMServeEnv(gymnasium.Env["NDArray[np.float32]", Any]):
    """One session of a server, with the spaces, rewards and seeds of `llmserve_sim.gym.ServingGymEnv`.

    ## Arguments
    - `server`: the server's address, or an `LLMServeEnv` client. `close` closes that client too.
    - `task`: the id of a task on the server.
    - `observation`: "base" (default) or "extended".
    - `action`: "multi_discrete" (default) or "dict".
    - `options`: options of `LLMServeEnv`; allowed only with an address.

    `reset()` draws a seed from the server's training range of the task; `reset(seed=n)` runs the episode with seed n.
    The infos have the keys of `ServingGymEnv`. It holds a connection, so it cannot be copied or pickled.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it this way

    def __init__(
        self,
        server: str | LLMServeEnv,
        task: str = "static_workload",
        *,
        observation: ObservationKind = "base",
        action: ActionKind = "multi_discrete",
        render_mode: None = None,
        **options: Unpack[SyncOptions],
    ) -> None:
        if options and not isinstance(server, str):
            raise InvalidInputError("options", "must be given to the client that was passed in", got=sorted(options))
        self.render_mode = render_mode
        self.observation_space = observation_space(observation)
        self.action_space = action_space(action, can_split=_can_split(task))
        self.client = LLMServeEnv.from_url(server, **options) if isinstance(server, str) else server
        """The client. Its `state()`, `episode_log()`, `grade()` and `fork()` work on the running episode."""
        self._task = task
        self._kind: ObservationKind = observation
        self._seeds: range | None = None
        self._episode_seed = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode with `seed`, or with a seed drawn from the task's training seeds."""
        if options:
            raise InvalidInputError("options", "must be empty: none are defined", got=options)
        seed = plain_integer(seed)  # type: ignore[assignment] # the client checks it
        episode_seed = self._draw() if seed is None else seed
        observation = self.client.reset(self._task, episode_seed)
        super().reset(seed=seed)
        self._episode_seed = episode_seed
        return self._encode(observation), self._info({})

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Run one window; raises `InvalidInputError` for an action outside its space."""
        observation, reward, done, info = self.client.step(decode_action(action))
        return self._encode(observation), reward, False, done, self._info(info.get("reward_terms", {}))

    def close(self) -> None:
        """Close the connection and free the session's place; the session can be resumed by its id."""
        self.client.close()

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        """Refuse to be copied or pickled, as the client does."""
        return self.client.__reduce_ex__(protocol)

    def _info(self, terms: Mapping[str, float]) -> dict[str, Any]:
        return {"episode_seed": self._episode_seed, "reward_terms": {**NO_TERMS, **terms}}

    def _encode(self, observation: ServeObservation) -> NDArray[np.float32]:
        return np.array(vector(observation, self._kind), dtype=np.float32)

    def _draw(self) -> int:
        if self._seeds is None:
            self._seeds = self._training_seeds()
        return int(self.np_random.integers(self._seeds.start, self._seeds.stop))

    def _training_seeds(self) -> range:
        """Read the range of training seeds from the server's list of tasks."""
        rows = {row.get("id"): row for row in self.client.tasks()}
        if self._task not in rows:
            known = "must be one of " + ", ".join(map(str, rows))
            raise UnknownTaskError(f"task: {known}", code="unknown_task", status=404, field="task", bound=known)
        return _range_of(rows[self._task])


def _can_split(task: str) -> bool:
    """Return whether the task's deployment allows `prefill_decode_split`; True for a task that only the server has."""
    deployments = {known.id: get_deployment(known.deployment) for known in list_tasks()}
    return task not in deployments or deployments[task].can_split


def _range_of(row: Mapping[str, Any]) -> range:
    train = (row.get("splits") or {}).get("train") or {}
    start, stop = train.get("start"), train.get("stop")
    if type(start) is not int or type(stop) is not int or start >= stop:
        raise AnswerError("the server's catalogue holds no training seeds for the task: pass seed=")
    return range(start, stop)
