"""Gymnasium's `Env` over `ServingEnv`, and the registered ids (extra `gym`).

    import gymnasium
    import llmserve_sim.gym

    env = gymnasium.make("LLMServe/BurstyWorkload-v0", observation="extended")

This module only translates: spaces, seeds and tuples. The vector environment is in `vector.py`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final, Literal, Self

try:
    import gymnasium
except ModuleNotFoundError as error:
    from llmserve_sim.errors import MissingExtraError

    raise MissingExtraError("gym", "llmserve_sim.gym") from error

import numpy as np
from gymnasium import spaces

from llmserve_sim._lazy import renamed
from llmserve_sim.env import EngineKind, Outcome, ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import from_indices, grid_sizes
from llmserve_sim.metrics import ObservationKind, encode, features
from llmserve_sim.schema import ACTION_FIELDS, ServeAction, parse_action, plain_integer
from llmserve_sim.tasks import list_tasks, load_task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from llmserve_sim.hardware import Deployment
    from llmserve_sim.tasks import Task

__all__ = [
    "IDS",
    "NO_TERMS",
    "ActionKind",
    "ServingGymEnv",
    "action_space",
    "check_step_limit",
    "decode_action",
    "draw_seed",
    "observation_space",
]

ActionKind = Literal["multi_discrete", "dict"]
IDS: Final[dict[str, str]] = {f"LLMServe/{task.id.title().replace('_', '')}-v0": task.id for task in list_tasks()}
"""Registered ids and the tasks that they run: ``LLMServe/BurstyWorkload-v0`` runs ``bursty_workload``, and so on."""

NO_TERMS: Final[dict[str, float]] = dict.fromkeys(("throughput", "slo", "memory", "cost"), 0.0)
"""``info["reward_terms"]`` after a reset, which simulates no window: infos have the same keys after every call."""


def observation_space(kind: ObservationKind) -> spaces.Box[np.float32]:
    """Return Box(0, 1, (n,), float32) with one entry per feature of `metrics.BASE` or `metrics.EXTENDED`."""
    return spaces.Box(np.float32(0.0), np.float32(1.0), (len(features(kind)),), np.float32)


def action_space(kind: ActionKind, *, can_split: bool = True) -> spaces.Space[Any]:
    """Return the space of actions: the grid's `MultiDiscrete`, or a `Dict` with every value the schema allows.

    Without `can_split` (a deployment with a single replica) the only choice of `prefill_decode_split` is 0, off.
    """
    if kind == "multi_discrete":
        return spaces.MultiDiscrete(list(grid_sizes(can_split=can_split)))
    if kind != "dict":
        raise InvalidInputError("action", "must be one of multi_discrete, dict", got=kind)
    entries: dict[str, spaces.Space[Any]] = {}
    for name, row in ACTION_FIELDS.items():
        low, high = row.low or 0.0, row.high or 0.0
        if row.kind == "float":
            entries[name] = spaces.Box(low, high, (), np.float64)
        elif row.kind == "int":
            entries[name] = spaces.Discrete(int(high - low) + 1, start=int(low))
        elif name == "prefill_decode_split" and not can_split:
            entries[name] = spaces.Discrete(1)
        else:
            entries[name] = spaces.Discrete(len(row.choices) or 2)
    return spaces.Dict(entries)


def decode_action(action: Any) -> ServeAction:
    """Return the `ServeAction` that an element of either action space stands for.

    Raises `InvalidInputError` naming the field and its bound.
    """
    if not isinstance(action, dict):
        return from_indices(action.tolist() if isinstance(action, np.ndarray) else action)
    plain: dict[str, object] = {}
    for name, value in action.items():
        row = ACTION_FIELDS.get(name)
        number = value.item() if isinstance(value, np.ndarray | np.generic) else value
        if row is None or row.kind in {"int", "float"}:
            plain[name] = number
            continue
        choices = row.choices or (False, True)
        if not isinstance(number, int) or not 0 <= number < len(choices):
            raise InvalidInputError(name, f"must be an integer in 0..{len(choices) - 1}", got=value)
        plain[name] = choices[number]
    return parse_action(plain)


def check_step_limit(max_episode_steps: object) -> float:
    """Return Gymnasium's limit on the steps of an episode: infinity for None and for -1, which turns it off."""
    steps = plain_integer(max_episode_steps)
    if steps is None or (type(steps) is int and steps == -1):
        return float("inf")
    if type(steps) is not int or steps < 1:
        raise InvalidInputError("max_episode_steps", "must be an integer of at least 1, -1 or None", got=steps)
    return steps


def draw_seed(task: Task, rng: np.random.Generator) -> int:
    """Return an episode seed from the task's training range."""
    return int(rng.integers(task.seeds.train.start, task.seeds.train.stop))


class ServingGymEnv(gymnasium.Env["NDArray[np.float32]", Any]):
    """One simulated LLM serving fleet whose configuration is set anew for every window of a few seconds.

    ## Description
    Requests arrive, queue, are prefilled and decoded in continuous batches over a paged KV cache, and are measured
    one by one. The agent sees a window's measurements and sets six knobs for the next window. The next window
    starts from the state that a window leaves: queue, running requests, cache, a swap in progress.
    Model: docs/simulator.md.

    ## Action space
    `MultiDiscrete([10, 13, 9, 3, 2, 2])`, indices into `llmserve_sim.grid.ACTION_GRID`:

    | # | knob | choices |
    |---|---|---|
    | 0 | batch_cap | 4, 8, 16, 32, 64, 96, 128, 192, 256, 512 requests per replica |
    | 1 | kv_budget_fraction | 0.1 to 1.0 in steps of 0.075 |
    | 2 | speculation_depth | 0 to 8 draft tokens |
    | 3 | quantization_tier | FP16, INT8, INT4 |
    | 4 | prefill_decode_split | off, on |
    | 5 | priority_routing | off, on |

    With `action="dict"`, a `Dict` space with the schema's field names and its full ranges. On a deployment with a single
    replica, which cannot split, 0 is the only choice of `prefill_decode_split` in both spaces.

    ## Observation space
    `Box(0, 1, (15,), float32)`, or 40 entries with `observation="extended"`. Names, units and scales:
    `llmserve_sim.metrics.BASE` and `EXTENDED`, tabled in docs/environment.md. Amounts are squashed as x / (x + scale).

    ## Reward
    In [-1, 1], and without bounds where a task of your own counts requests: throughput within SLO + SLO compliance -
    memory pressure - cost, weighted by the task; the terms are in `info["reward_terms"]`, all 0 after a reset. See
    `llmserve_sim.reward`.

    ## Starting state
    An empty fleet. `reset(seed=n)` runs the episode with seed n; `reset()` draws a seed from the task's training
    range. The seed is in `info["episode_seed"]`. No `options` are defined.

    ## Episode end
    The episode is truncated after the task's number of windows (120). It never terminates. A registered id's
    `spec.max_episode_steps` is that number; with a longer task of your own, pass `max_episode_steps` to `gymnasium.make`.

    ## Copies
    A copy (`copy.copy`, `copy.deepcopy`, pickle) continues identically and shares nothing with the original.

    ## Arguments
    - `task`: a task's id, the path of a task file, or a `Task`.
    - `observation`: "base" (default) or "extended".
    - `action`: "multi_discrete" (default) or "dict".
    - `deployment`: a preset's name or a `Deployment`, in place of the task's own.
    - `engine`: "auto" (default), "numba", "python" or "reference"; all give the same numbers.
    - `render_mode`: None, or "rgb_array": `render` draws the episode so far (extra `cli`, for matplotlib).

    ## Version history
    - v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's way

    def __init__(
        self,
        task: str | Path | Task = "static_workload",
        *,
        observation: ObservationKind = "base",
        action: ActionKind = "multi_discrete",
        deployment: str | Deployment | None = None,
        engine: EngineKind = "auto",
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        if render_mode not in {None, "rgb_array"}:
            raise InvalidInputError("render_mode", "must be rgb_array or None", got=render_mode)
        self.render_mode = render_mode
        self.observation_space = observation_space(observation)
        self.serving = ServingEnv(task, deployment=deployment, engine=engine)
        """The `ServingEnv` that simulates: its `state()`, `episode_log()` and `fork()` work on the running episode."""
        self.action_space = action_space(action, can_split=self.serving.can_split)
        self._kind: ObservationKind = observation
        self._episode_seed = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start the episode of `seed`; without one, of a seed drawn from the task's training seeds."""
        if options:
            raise InvalidInputError("options", "must be empty: none are defined", got=options)
        seed = plain_integer(seed)  # type: ignore[assignment] # `start` checks it
        episode_seed = draw_seed(self.serving.task, self.np_random) if seed is None else seed
        outcome = self.serving.start(episode_seed)
        super().reset(seed=seed)
        self._episode_seed = episode_seed
        return self._observe(outcome), {"episode_seed": episode_seed, "reward_terms": NO_TERMS.copy()}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Simulate one window; raises `InvalidInputError` for an action outside its space."""
        outcome = self.serving.advance(decode_action(action))
        terms = NO_TERMS.copy() if outcome.terms is None else outcome.terms.weighted()
        info = {"episode_seed": self._episode_seed, "reward_terms": terms}
        return self._observe(outcome), outcome.reward, False, outcome.done, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture uint8[height, width, 3] of the episode so far; None without a render mode."""
        if self.render_mode is None:
            return None
        from llmserve_sim.plots import render_timeline

        task, log = self.serving.task, self.serving.episode_log()
        return render_timeline(log, window_s=task.window_s, windows=self.serving.episode_length)

    def close(self) -> None:
        """Drop the episode. The environment can be reset again."""
        self.serving.close()

    def __copy__(self) -> Self:
        return deepcopy(self)

    def _observe(self, outcome: Outcome) -> NDArray[np.float32]:
        return np.array(encode(outcome.measurement, self._kind), dtype=np.float32)


def _register() -> None:
    for name, task in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point="llmserve_sim.gym:ServingGymEnv",
                vector_entry_point="llmserve_sim.vector:ServingVectorEnv",
                max_episode_steps=load_task(task).windows,
                kwargs={"task": task},
            )


_register()

if not TYPE_CHECKING:  # a type checker would take any name for an attribute
    __getattr__ = renamed(__name__, {"LLMServeEnv": "llmserve_sim.gym.ServingGymEnv"})
