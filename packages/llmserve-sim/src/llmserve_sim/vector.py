"""Gymnasium's `VectorEnv` over many episodes of one task, natively: one call per step, no worker processes.

Sub-environment i gives, step for step, what `ServingGymEnv` gives under the same seeds and actions. This module only
translates: spaces, seeds and infos; `batch.py` simulates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

try:
    from gymnasium.utils import seeding
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space, iterate
except ModuleNotFoundError as error:
    from llmserve_sim.errors import MissingExtraError

    raise MissingExtraError("gym", "llmserve_sim.vector") from error

import numpy as np

from llmserve_sim._lazy import renamed
from llmserve_sim.batch import ServingBatch
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.gym import ActionKind, action_space, decode_action, draw_seed, observation_space
from llmserve_sim.metrics import Measurement, ObservationKind, encode_batch
from llmserve_sim.schema import plain_integer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from llmserve_sim.engine.kernel.engine import Backend
    from llmserve_sim.hardware import Deployment
    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

__all__ = ["ServingVectorEnv"]


class ServingVectorEnv(VectorEnv["NDArray[np.float32]", Any, "NDArray[Any]"]):
    """`num_envs` episodes side by side; see `ServingGymEnv` for spaces, reward and arguments.

    Autoreset mode is `SAME_STEP`: when an episode is truncated, the returned observation is already the next episode's
    first, and the last one is in ``infos["final_obs"][i]``, its info in ``infos["final_info"]``. The next episode's
    seed is drawn from the task's training range by the sub-environment's own generator, which `reset(seed=...)` seeds.

    ``infos["reward_terms"]`` holds one array per term; ``infos["episode_seed"]`` the seeds of episodes just started.
    All episodes are at the same window, so they end together. `engine` is "auto", "numba" or "python"; `threads` run
    the windows of one step side by side (with numba), which pays from about 256 environments.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str | Path | Task = "static_workload",
        *,
        observation: ObservationKind = "base",
        action: ActionKind = "multi_discrete",
        deployment: str | Deployment | None = None,
        engine: Backend = "auto",
        threads: int = 1,
        render_mode: None = None,
    ) -> None:
        if type(num_envs) is not int or not 1 <= num_envs <= 65_536:
            raise InvalidInputError("num_envs", "must be an integer in 1..65536", got=num_envs)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = observation_space(observation)
        self.single_action_space = action_space(action)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.batch = ServingBatch(task, num_envs, deployment=deployment, backend=engine, threads=threads)
        """The batch that simulates the episodes."""
        self._kind: ObservationKind = observation
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start all episodes: with seeds n, n + 1, ... for an integer n, with a list of seeds, or with drawn ones."""
        if options:
            raise InvalidInputError("options", "must be empty: none are defined", got=options)
        super().reset(seed=None)
        seeds = self._seeds_of(plain_integer(seed))
        if len(seeds) != self.num_envs:
            raise InvalidInputError("seed", f"must have one entry for each of {self.num_envs} environments", got=seed)
        episode_seeds = [self._seed(i, one) for i, one in enumerate(seeds)]
        observations = self._start(episode_seeds)
        for i, one in enumerate(seeds):
            if one is not None:
                self._generators[i] = seeding.np_random(one)[0]
        return observations, self._seeds_info(episode_seeds)

    def step(
        self, actions: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Simulate one window of all episodes. A refused action (`InvalidInputError`) changes nothing."""
        outcome = self.batch.advance(self._decode(actions))
        observations = self._encode(outcome.measurement)
        terms = _terms_info({} if outcome.terms is None else outcome.terms.weighted())
        rewards = np.asarray(outcome.reward, dtype=np.float64)
        truncated = np.full(self.num_envs, outcome.done)
        infos: dict[str, Any] = {"reward_terms": terms, "_reward_terms": np.ones(self.num_envs, dtype=np.bool_)}
        if outcome.done:
            final = np.full(self.num_envs, None, dtype=object)
            final[:] = list(observations)
            infos = {
                "final_obs": final,
                "_final_obs": truncated.copy(),
                "final_info": infos,
                "_final_info": truncated.copy(),
            }
            seeds = [self._seed(i, None) for i in range(self.num_envs)]
            observations = self._start(seeds)
            infos |= self._seeds_info(seeds)
        return observations, rewards, np.zeros(self.num_envs, dtype=np.bool_), truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        if hasattr(self, "batch"):  # Gymnasium also closes an environment whose constructor raised
            self.batch.close()

    def _decode(self, actions: Any) -> list[ServeAction] | NDArray[np.integer]:
        if isinstance(actions, np.ndarray):
            if actions.ndim == 2 and np.issubdtype(actions.dtype, np.integer):
                return actions  # the batch decodes all indices at once
            actions = actions.tolist()
        elif isinstance(actions, dict):
            actions = iterate(self.action_space, actions)
        if not isinstance(actions, Iterable):
            raise InvalidInputError(
                "actions", f"must be {self.num_envs} actions, one for each environment", got=actions
            )
        decoded = [decode_action(action) for action in actions]
        if len(decoded) != self.num_envs:
            raise InvalidInputError("actions", f"must be {self.num_envs} actions, one for each environment")
        return decoded

    def _seeds_of(self, seed: object) -> list[Any]:
        """Return one seed or None per environment; the batch refuses seeds out of range."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return [seed + i for i in range(self.num_envs)]
        if isinstance(seed, list | tuple | np.ndarray):
            return [plain_integer(one) for one in seed]
        raise InvalidInputError("seed", "must be an integer, a list of integers, or None", got=seed)

    def _seed(self, i: int, seed: int | None) -> int:
        return draw_seed(self.batch.task, self._generators[i]) if seed is None else seed

    def _start(self, seeds: list[int]) -> NDArray[np.float32]:
        return self._encode(self.batch.start(seeds).measurement)

    def _encode(self, measurement: Measurement) -> NDArray[np.float32]:
        return encode_batch(measurement, self._kind, self.num_envs).astype(np.float32)

    def _seeds_info(self, seeds: list[int]) -> dict[str, Any]:
        return {
            "episode_seed": np.array(seeds, dtype=np.int64),
            "_episode_seed": np.ones(self.num_envs, dtype=np.bool_),
        }


def _terms_info(terms: dict[str, Any]) -> dict[str, Any]:
    """Return the terms as Gymnasium lays out a dictionary in `infos`: an array and a mask per key."""
    info: dict[str, Any] = {}
    for name, values in terms.items():
        info[name] = np.asarray(values, dtype=np.float64)
        info[f"_{name}"] = np.ones(len(info[name]), dtype=np.bool_)
    return info


if not TYPE_CHECKING:  # a type checker would take any name for an attribute
    __getattr__ = renamed(__name__, {"LLMServeVectorEnv": "llmserve_sim.vector.ServingVectorEnv"})
