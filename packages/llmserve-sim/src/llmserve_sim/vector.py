"""Gymnasium's `VectorEnv` over many episodes of one task, natively: one call per step, no worker processes.

Sub-environment i gives, step for step, what `LLMServeEnv` gives under the same seeds and actions. This module knows
nothing about simulation; `engine/batch.py` runs all episodes' windows in one compiled call where numba is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

from llmserve_sim.env import EngineKind, Outcome, ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.gym import ActionKind, action_space, decode_action, draw_seed, observation_space
from llmserve_sim.metrics import ObservationKind, encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from llmserve_sim.hardware import Deployment
    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

__all__ = ["LLMServeVectorEnv"]

_TERMS = ("throughput", "slo", "memory", "cost")


class LLMServeVectorEnv(VectorEnv["NDArray[np.float32]", Any, "NDArray[Any]"]):
    """`num_envs` episodes side by side; see `LLMServeEnv` for spaces, reward and arguments.

    Autoreset mode is `SAME_STEP`: when an episode is truncated, the returned observation is already the next episode's
    first, and the last one is in ``infos["final_obs"][i]``, its info in ``infos["final_info"]``. The next episode's seed
    is drawn from the task's training range by the sub-environment's own generator, which `reset(seed=...)` seeds.

    ``infos["reward_terms"]`` holds one array per term; ``infos["episode_seed"]`` the seeds of episodes just started.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str | Path | Task = "static_workload",
        *,
        observation: ObservationKind = "base",
        action: ActionKind = "multi_discrete",
        deployment: str | Deployment | None = None,
        engine: EngineKind = "auto",
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
        self.envs = [ServingEnv(task, deployment=deployment, engine=engine) for _ in range(num_envs)]
        """The environments behind; stepping one of them by hand takes it out of step with the others."""
        self._kind: ObservationKind = observation
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode everywhere: with seeds n, n + 1, ... for an integer, those of a list, or drawn ones."""
        super().reset(seed=None)
        seeds: Sequence[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        else:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if len(seeds) != self.num_envs:
            raise InvalidInputError("seed", f"must have one entry for each of {self.num_envs} environments", got=seed)
        observations = self._empty()
        episode_seeds = np.zeros(self.num_envs, dtype=np.int64)
        for i, one in enumerate(seeds):
            if one is not None:
                self._generators[i] = seeding.np_random(one)[0]
            outcome, episode_seeds[i] = self._start(i, one)
            observations[i] = encode(outcome.measurement, self._kind)
        return observations, {"episode_seed": episode_seeds, "_episode_seed": np.ones(self.num_envs, dtype=np.bool_)}

    def step(
        self, actions: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Simulate one window everywhere. A refused action (`InvalidInputError`) leaves every episode as it was."""
        outcomes = self._advance(self._decode(actions))
        observations = self._empty()
        rewards = np.empty(self.num_envs, dtype=np.float64)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        terms = np.zeros((len(_TERMS), self.num_envs), dtype=np.float64)
        for i, outcome in enumerate(outcomes):
            observations[i] = encode(outcome.measurement, self._kind)
            rewards[i] = outcome.reward
            truncated[i] = outcome.done
            if outcome.terms is not None:
                terms[:, i] = (outcome.terms.throughput, outcome.terms.slo, outcome.terms.memory, outcome.terms.cost)
        infos = self._autoreset(observations, terms, truncated) if truncated.any() else {}
        going = ~truncated
        if going.any():
            infos["reward_terms"] = _terms_info(terms, going)
            infos["_reward_terms"] = going
        return observations, rewards, np.zeros(self.num_envs, dtype=np.bool_), truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Drop all episodes."""
        for env in self.envs:
            env.close()

    def _decode(self, actions: Any) -> list[ServeAction]:
        if isinstance(actions, np.ndarray):
            actions = actions.tolist()
        elif isinstance(actions, dict):
            actions = iterate(self.action_space, actions)
        decoded = [decode_action(action) for action in actions]
        if len(decoded) != self.num_envs:
            raise InvalidInputError("actions", f"must be {self.num_envs} actions, one for each environment")
        return decoded

    def _advance(self, actions: list[ServeAction]) -> list[Outcome]:
        # All actions are checked before the first window is run, so that a refused one changes nothing anywhere.
        settings = [env.prepare(action) for env, action in zip(self.envs, actions, strict=True)]
        return [env.run(setting) for env, setting in zip(self.envs, settings, strict=True)]

    def _start(self, i: int, seed: int | None) -> tuple[Outcome, int]:
        env = self.envs[i]
        episode_seed = draw_seed(env.task, self._generators[i]) if seed is None else seed
        return env.start(episode_seed), episode_seed

    def _autoreset(
        self, observations: NDArray[np.float32], terms: NDArray[np.float64], over: NDArray[np.bool_]
    ) -> dict[str, Any]:
        final = np.full(self.num_envs, None, dtype=object)
        episode_seeds = np.zeros(self.num_envs, dtype=np.int64)
        for i in np.flatnonzero(over).tolist():
            final[i] = observations[i].copy()
            outcome, episode_seeds[i] = self._start(i, None)
            observations[i] = encode(outcome.measurement, self._kind)
        return {
            "final_obs": final,
            "_final_obs": over.copy(),
            "final_info": {"reward_terms": _terms_info(terms, over), "_reward_terms": over.copy()},
            "_final_info": over.copy(),
            "episode_seed": episode_seeds,
            "_episode_seed": over.copy(),
        }

    def _empty(self) -> NDArray[np.float32]:
        return np.empty(self.observation_space.shape or (), dtype=np.float32)


def _terms_info(terms: NDArray[np.float64], mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the terms as Gymnasium lays out a dictionary in `infos`: an array and a mask per key."""
    info: dict[str, Any] = {}
    for name, values in zip(_TERMS, terms, strict=True):
        info[name] = np.where(mask, values, 0.0)
        info[f"_{name}"] = mask.copy()
    return info
