"""Stable-Baselines3's `VecEnv` over the native vector environment (extra `sb3`).

    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor

    from llmserve_sim.sb3 import ServingVecEnv

    model = PPO("MlpPolicy", VecMonitor(ServingVecEnv(16, "bursty_workload", observation="extended")))

One call steps all episodes, so this is many times faster than SB3's own `DummyVecEnv` over `gymnasium.make`, with the
same numbers. This module only translates; `vector.py` simulates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

try:
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    from llmserve_sim.errors import MissingExtraError

    raise MissingExtraError("sb3", "llmserve_sim.sb3") from error

from llmserve_sim.vector import ServingVectorEnv

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from llmserve_sim.engine.kernel.engine import Backend
    from llmserve_sim.hardware import Deployment
    from llmserve_sim.metrics import ObservationKind
    from llmserve_sim.tasks import Task

__all__ = ["ServingVecEnv"]


class ServingVecEnv(VecEnv):
    """`num_envs` episodes side by side, for SB3's algorithms; arguments as for `ServingVectorEnv`.

    Actions are grid indices (SB3 has no `Dict` of actions). `seed(n)` and then `reset()` run the episodes with seeds n,
    n + 1, ...; later episodes draw training seeds. The infos hold ``episode_seed`` and ``reward_terms``, and SB3's
    ``TimeLimit.truncated`` and, at the end, ``terminal_observation``. For SB3's log of episode rewards, wrap it in SB3's
    `VecMonitor`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str | Path | Task = "static_workload",
        *,
        observation: ObservationKind = "base",
        deployment: str | Deployment | None = None,
        engine: Backend = "auto",
        threads: int = 1,
        max_episode_steps: int | None = None,
    ) -> None:
        self.env = ServingVectorEnv(
            num_envs,
            task,
            observation=observation,
            deployment=deployment,
            engine=engine,
            threads=threads,
            max_episode_steps=max_episode_steps,
        )
        """The vector environment that simulates."""
        self._actions: Any = None
        super().__init__(num_envs, self.env.single_observation_space, self.env.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Start all episodes, with the seeds that `seed` has set."""
        observations, infos = self.env.reset(seed=list(self._seeds))
        self.reset_infos = _each(infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[np.integer]) -> None:
        """Remember the actions of the next `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Simulate one window of all episodes; where they end, start the next ones."""
        observations, rewards, _, truncated, infos = self.env.step(self._actions)
        ended = bool(truncated[0])
        rows = _each(infos["final_info"] if ended else infos)
        for i, row in enumerate(rows):
            row["TimeLimit.truncated"] = ended
            if ended:
                row["terminal_observation"] = infos["final_obs"][i]
        if ended:
            self.reset_infos = _each(infos)
        return observations, rewards.astype("float32"), truncated, rows

    def close(self) -> None:
        """Drop the episodes and stop the threads."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return an attribute of the vector environment, once for each index."""
        return [getattr(self.env, attr_name)] * len(self._asked(indices))

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Refuse: the episodes are no environments of their own."""
        raise AttributeError(f"{attr_name} cannot be set: the episodes are no environments of their own")

    def env_method(
        self, method_name: str, *arguments: Any, indices: int | Iterable[int] | None = None, **named: Any
    ) -> list[Any]:
        """Refuse: the episodes are no environments of their own."""
        raise AttributeError(f"{method_name} cannot be called: the episodes are no environments of their own")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: int | Iterable[int] | None = None) -> list[bool]:
        """Return False for each index: an episode has no wrappers."""
        return [False] * len(self._asked(indices))

    def _asked(self, indices: int | Iterable[int] | None) -> Sequence[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else list(indices)


def _each(infos: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the infos of a vector environment as one dictionary for each episode."""
    terms = {name: values.tolist() for name, values in infos["reward_terms"].items() if not name.startswith("_")}
    rows = (dict(zip(terms, row, strict=True)) for row in zip(*terms.values(), strict=True))
    return [
        {"episode_seed": seed, "reward_terms": row}
        for seed, row in zip(infos["episode_seed"].tolist(), rows, strict=True)
    ]
