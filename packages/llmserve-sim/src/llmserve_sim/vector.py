"""Gymnasium's `VectorEnv` over many episodes of one task, natively: one call per step, no worker processes.

Sub-environment i gives, step for step, what `ServingGymEnv` gives under the same seeds and actions. This module only
translates: spaces, seeds, infos and Gymnasium's autoreset modes; `batch.py` simulates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

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
from llmserve_sim.errors import EpisodeStateError, InvalidInputError
from llmserve_sim.gym import (
    NO_TERMS,
    ActionKind,
    action_space,
    check_step_limit,
    decode_action,
    draw_seed,
    observation_space,
)
from llmserve_sim.metrics import Measurement, ObservationKind, encode_batch
from llmserve_sim.schema import plain_integer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from llmserve_sim.engine.kernel.engine import Backend
    from llmserve_sim.hardware import Deployment
    from llmserve_sim.schema import ServeAction
    from llmserve_sim.tasks import Task

    Results = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]

__all__ = ["ServingVectorEnv"]


class ServingVectorEnv(VectorEnv["NDArray[np.float32]", Any, "NDArray[Any]"]):
    """`num_envs` episodes side by side; see `ServingGymEnv` for spaces, reward and arguments.

    All episodes are at the same window, so they end together: after the task's windows, or after `max_episode_steps`
    if that is less (-1: no such limit). What follows depends on `autoreset_mode`, one of Gymnasium's `AutoresetMode` or
    its text:

    - "SameStep" (default): the step that ends the episodes returns the next episodes' first observations. The last ones
      are in ``infos["final_obs"][i]``, their infos in ``infos["final_info"]``.
    - "NextStep": the step after that starts the next episodes. It ignores its actions, and its rewards are 0.
      Gymnasium's wrappers for observations want this mode.
    - "Disabled": the caller resets; a step before that raises `EpisodeStateError`.

    The next episode's seed is drawn from the task's training range by the sub-environment's own generator, which
    `reset(seed=...)` seeds. ``infos["episode_seed"]`` holds the seeds, ``infos["reward_terms"]`` one array per term, 0
    where no window was simulated. `engine` is "auto", "numba" or "python"; `threads` run the windows of one step side by
    side (with numba), which pays from about 256 environments.

    A copy (`copy.copy`, `copy.deepcopy`, pickle) continues identically and shares nothing with the original. `close`
    drops the episodes and stops the threads; the environment can be reset again.
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
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: None = None,
    ) -> None:
        num_envs = plain_integer(num_envs)  # type: ignore[assignment] # checked in the next line
        if type(num_envs) is not int or not 1 <= num_envs <= 65_536:
            raise InvalidInputError("num_envs", "must be an integer in 1..65536", got=num_envs)
        if render_mode is not None:
            raise InvalidInputError("render_mode", "must be None: ServingGymEnv draws", got=render_mode)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self._mode = _mode_of(autoreset_mode)
        self._limit = check_step_limit(max_episode_steps)
        self.metadata = {"render_modes": [], "autoreset_mode": self._mode}
        self.batch = ServingBatch(task, num_envs, deployment=deployment, backend=engine, threads=threads)
        """The batch that simulates the episodes."""
        self.single_observation_space = observation_space(observation)
        self.single_action_space = action_space(action, can_split=self.batch.can_split)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._kind: ObservationKind = observation
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self._episode_seeds: NDArray[np.int64] = np.zeros(num_envs, dtype=np.int64)
        self._ended = False
        """Whether the last step ended the episodes and nothing has started new ones."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start all episodes: with seeds n, n + 1, ... for an integer n, with a list of seeds, or with drawn ones.

        The only option is Gymnasium's ``reset_mask``. It must be true for every environment, since all are at the same
        window.
        """
        self._check_options(options)
        seeds = self._seeds_of(plain_integer(seed))
        if len(seeds) != self.num_envs:
            raise InvalidInputError("seed", f"must have one entry for each of {self.num_envs} environments", got=seed)
        super().reset(seed=None)
        observations = self._start([self._seed(i, one) for i, one in enumerate(seeds)])
        for i, one in enumerate(seeds):
            if one is not None:
                self._generators[i] = seeding.np_random(one)[0]
        self.closed = False
        return observations, self._infos(None)

    def step(self, actions: Any) -> Results:
        """Simulate one window of all episodes. A refused action (`InvalidInputError`) changes nothing.

        Raises `EpisodeStateError` before `reset`, after `close`, and (with "Disabled") after the episodes' end.
        """
        if self.closed:
            raise EpisodeStateError("the environment was closed: reset first")
        if self._ended:
            return self._autoreset()
        outcome = self.batch.advance(self._decode(actions))
        observations = self._encode(outcome.measurement)
        rewards = np.asarray(outcome.reward, dtype=np.float64)
        infos = self._infos(None if outcome.terms is None else outcome.terms.weighted())
        ended = outcome.done or self.batch.window >= self._limit
        truncated = np.full(self.num_envs, ended)
        if ended:
            self._ended = True
            if self._mode is AutoresetMode.SAME_STEP:
                final = np.full(self.num_envs, None, dtype=object)
                final[:] = list(observations)
                finals = {"final_obs": final, "final_info": infos}
                observations = self._start_next()
                infos = finals | {f"_{name}": truncated.copy() for name in finals} | self._infos(None)
        return observations, rewards, np.zeros(self.num_envs, dtype=np.bool_), truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Drop the episodes and stop the threads."""
        if hasattr(self, "batch"):  # Gymnasium also closes an environment whose constructor raised
            self.batch.close()
            self._ended = False

    def __copy__(self) -> Self:
        return deepcopy(self)

    def _autoreset(self) -> Results:
        """Start the next episodes in place of a step."""
        if self._mode is AutoresetMode.DISABLED:
            raise EpisodeStateError("the episodes have ended: reset first")
        observations = self._start_next()
        nothing = np.zeros(self.num_envs, dtype=np.bool_)
        return observations, np.zeros(self.num_envs), nothing, nothing.copy(), self._infos(None)

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

    def _check_options(self, options: dict[str, Any] | None) -> None:
        unknown = sorted((options or {}).keys() - {"reset_mask"})
        if unknown:
            raise InvalidInputError("options", "must hold nothing but reset_mask", got=unknown)
        mask = True if not options else options["reset_mask"]
        if not np.all(mask) or np.shape(mask) not in {(), (self.num_envs,)}:
            bound = f"must be true for each of {self.num_envs} environments: all episodes are at the same window"
            raise InvalidInputError("options.reset_mask", bound, got=mask)

    def _seeds_of(self, seed: object) -> list[Any]:
        """Return one seed or None per environment; the batch refuses seeds out of range."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int) and not isinstance(seed, bool):
            return [seed + i for i in range(self.num_envs)]
        if isinstance(seed, list | tuple | np.ndarray):
            return [plain_integer(one) for one in seed]
        raise InvalidInputError("seed", "must be an integer, a list of integers, or None", got=seed)

    def _seed(self, i: int, seed: int | None) -> int:
        return draw_seed(self.batch.task, self._generators[i]) if seed is None else seed

    def _start_next(self) -> NDArray[np.float32]:
        """Start episodes with seeds that the sub-environments' generators draw."""
        return self._start([self._seed(i, None) for i in range(self.num_envs)])

    def _start(self, seeds: list[int]) -> NDArray[np.float32]:
        observations = self._encode(self.batch.start(seeds).measurement)
        self._episode_seeds, self._ended = np.array(seeds, dtype=np.int64), False
        return observations

    def _encode(self, measurement: Measurement) -> NDArray[np.float32]:
        return encode_batch(measurement, self._kind, self.num_envs).astype(np.float32)

    def _infos(self, terms: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the infos as Gymnasium lays them out: for each key an array, or a dictionary of arrays, and a mask.

        `terms` is None where no window was simulated.
        """
        by_term: dict[str, Any] = {}
        for name, values in (terms or dict.fromkeys(NO_TERMS)).items():
            by_term[name] = np.zeros(self.num_envs) if values is None else np.asarray(values, dtype=np.float64)
            by_term[f"_{name}"] = np.ones(self.num_envs, dtype=np.bool_)
        return {
            "episode_seed": self._episode_seeds.copy(),
            "_episode_seed": np.ones(self.num_envs, dtype=np.bool_),
            "reward_terms": by_term,
            "_reward_terms": np.ones(self.num_envs, dtype=np.bool_),
        }


def _mode_of(mode: str | AutoresetMode) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(one.value for one in AutoresetMode)
        raise InvalidInputError("autoreset_mode", f"must be one of {known}", got=mode) from None


if not TYPE_CHECKING:  # a type checker would take any name for an attribute
    __getattr__ = renamed(__name__, {"LLMServeVectorEnv": "llmserve_sim.vector.ServingVectorEnv"})
