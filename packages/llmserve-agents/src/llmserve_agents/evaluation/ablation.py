"""Ablation of knobs: compares an agent with one knob held at a constant with the same agent unchanged.

For every task and knob the best constant is chosen on training seeds, among all values of the grid, while the agent
sets the other knobs. Values are then measured on test seeds, paired by seed. The *level value* of a knob is best
constant − default; its *dynamic value* is free − best constant. An agent that was trained with the knob free might do
better with a constant if it were trained with that, so its dynamic value is an upper bound. `search_evaluator` has no
training.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from llmserve_agents.__about__ import __version__
from llmserve_agents.evaluation.ablation_report import AblationReport, KnobValue
from llmserve_agents.evaluation.episodes import load_kernel
from llmserve_agents.evaluation.report import Estimate
from llmserve_agents.evaluation.roster import AgentSpec, parse_agent
from llmserve_agents.evaluation.runner import evaluation_tasks, task_options, test_seeds
from llmserve_agents.evaluation.statistics import Bootstrap, mean
from llmserve_agents.evaluation.summary import estimate
from llmserve_agents.executors import Executor, ProcessExecutor
from llmserve_agents.learning.agent import PPOPolicy, play
from llmserve_agents.policy import ModelBasedPolicy, Policy, run_episode
from llmserve_sim.__about__ import __version__ as simulator_version
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.grid import ACTION_GRID
from llmserve_sim.references import load_references
from llmserve_sim.schema import ACTION_FIELDS, ServeAction, ServeObservation
from llmserve_sim.tasks.registry import catalogue_task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmserve_agents.clairvoyant import Budget

    Floats: TypeAlias = NDArray[np.float64]

__all__ = ["SEARCH_SEEDS", "Evaluator", "FrozenKnob", "ablate", "agent_evaluator", "search_evaluator"]

Constant: TypeAlias = int | float | str | bool
Evaluator: TypeAlias = "Callable[[str, tuple[int, ...], str | None, Constant | None], Floats]"
"""Returns the mean reward per window of each seed. Arguments: the task's id, the seeds, a knob and its constant (None,
None: the knob is free). It is sent to other processes, so it must pickle."""

SEARCH_SEEDS: Final = 16
"""Default number of training seeds on which constants are chosen."""
_GROUP: Final = 20
"""Seeds of one job, which a search simulates in one batch."""
_DEFAULTS: Final = ServeAction()


def ablate(
    agent: str | AgentSpec | Evaluator,
    tasks: Sequence[str] | None = None,
    episodes: int = 20,
    *,
    name: str | None = None,
    search_seeds: int = SEARCH_SEEDS,
    executor: Executor | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    progress: Callable[[str, int, int], object] | None = None,
) -> AblationReport:
    """Return the value of each knob to an agent. Every run gives the same report, with any number of workers.

    Args:
        agent: a name or spec (see `roster`), "clairvoyant" for `search_evaluator`, or a function of type `Evaluator`.
        tasks: ids of tasks, or "all" for the three that validators know (the default).
        episodes: number of test seeds per task that values are means over.
        name: name of the agent in the report; needed for a function.
        search_seeds: number of training seeds per task on which constants are chosen.
        executor: where episodes run; by default in one process per processor.
        resamples: number of bootstrap resamples.
        confidence: confidence of the intervals.
        progress: called after each job with a description, the jobs done and the jobs in all.

    Raises `InvalidInputError` for wrong arguments, and the agent's errors.
    """
    spec = parse_agent(agent) if isinstance(agent, str) else agent
    acts = isinstance(spec, AgentSpec) and not spec.searched
    values = (agent_evaluator(spec) if acts else search_evaluator()) if isinstance(spec, AgentSpec) else spec
    label = name or (spec.label if isinstance(spec, AgentSpec) else None)
    if label is None:
        raise InvalidInputError("name", "must be given for a function")
    chosen = evaluation_tasks(tasks)
    trained = {task: _training_seeds(task, search_seeds) for task in chosen}
    tested = {task: test_seeds(task, episodes) for task in chosen}
    if isinstance(spec, AgentSpec) and acts:
        _check_agent(spec, tested)
    executor = ProcessExecutor() if executor is None else executor
    report = progress or (lambda _what, _done, _jobs: None)
    load_kernel()
    cases = [(task, knob, value) for task in chosen for knob in ACTION_FIELDS for value in _candidates(task, knob)]
    found = _all_values(values, cases, trained, executor, partial(report, "choosing constants"))
    best = {
        (task, knob): max(_candidates(task, knob), key=lambda value: _mean(found[task, knob, value]))
        for task in chosen
        for knob in ACTION_FIELDS
    }
    wanted: list[_Case] = [(task, None, None) for task in chosen]
    for (task, knob), value in best.items():
        wanted += [(task, knob, held) for held in dict.fromkeys((value, getattr(_DEFAULTS, knob)))]
    measured = _all_values(values, wanted, tested, executor, partial(report, "measuring on test seeds"))
    rows, free = [], {}
    for task in chosen:
        bootstrap = Bootstrap([episodes], resamples=resamples, confidence=confidence)
        unbound = measured[task, None, None]
        free[task] = _estimate(bootstrap, unbound)
        for knob in ACTION_FIELDS:
            held, default = best[task, knob], getattr(_DEFAULTS, knob)
            rows.append(
                KnobValue(
                    task_id=task,
                    knob=knob,
                    default=default,
                    best=held,
                    candidates={str(value): _mean(found[task, knob, value]) for value in _candidates(task, knob)},
                    level=_estimate(bootstrap, measured[task, knob, held] - measured[task, knob, default]),
                    dynamic=_estimate(bootstrap, unbound - measured[task, knob, held]),
                )
            )
    return AblationReport(
        agent=label,
        tasks=list(chosen),
        seeds={task: list(seeds) for task, seeds in tested.items()},
        search_seeds={task: list(seeds) for task, seeds in trained.items()},
        free=free,
        values=rows,
        confidence=confidence,
        resamples=resamples,
        versions={"llmserve-agents": __version__, "llmserve-sim": simulator_version},
        command=_command(spec, chosen, episodes, search_seeds) if isinstance(spec, AgentSpec) else None,
    )


class FrozenKnob:
    """Takes another agent's actions, but holds one knob at a constant."""

    def __init__(self, agent: Policy, knob: str, value: Constant) -> None:
        self._agent = agent
        self._held = {knob: value}

    def reset(self, task_id: str, seed: int) -> None:
        """Reset the agent."""
        self._agent.reset(task_id, seed)

    def attach(self, env: ServingEnv) -> None:
        """Give the environment to an agent that needs it."""
        if isinstance(self._agent, ModelBasedPolicy):
            self._agent.attach(env)

    def act(self, observation: ServeObservation) -> ServeAction:
        """Return the agent's action with the knob at the constant."""
        return ServeAction.model_validate(self._agent.act(observation).model_dump() | self._held)


def agent_evaluator(spec: AgentSpec) -> Evaluator:
    """Return an evaluator that runs an agent episode by episode."""
    return partial(_agent_values, spec)


def search_evaluator(budget: Budget | None = None) -> Evaluator:
    """Return an evaluator that runs a clairvoyant search, in which the knob never changes.

    The search starts from the best fixed configuration.
    """
    return partial(_searched_values, budget)


def _agent_values(
    spec: AgentSpec, task_id: str, seeds: tuple[int, ...], knob: str | None, value: Constant | None
) -> Floats:
    env, agent = ServingEnv(catalogue_task(task_id)), spec.make()
    if isinstance(agent, PPOPolicy):  # in one batch: the same actions, many times faster
        agent.reset(task_id, seeds[0])
        assert agent.loaded is not None
        held = {} if knob is None or value is None else {list(ACTION_GRID).index(knob): ACTION_GRID[knob].index(value)}
        return play(agent.loaded.policy, env.task, seeds, held=held)
    if knob is not None and value is not None:
        agent = FrozenKnob(agent, knob, value)
    found = []
    for seed in seeds:
        run_episode(env, agent, seed)
        found.append(env.state().total_reward / env.episode_length)
    return np.array(found)


def _searched_values(
    budget: Budget | None, task_id: str, seeds: tuple[int, ...], knob: str | None, value: Constant | None
) -> Floats:
    from llmserve_agents.clairvoyant import improve, nearest_indices

    task = catalogue_task(task_id)
    references = load_references(task.id, task.digest)
    if references is None:
        raise InvalidInputError("tasks", "must have references to search from", got=task_id)
    start = references.best_static_action.model_dump() | ({} if knob is None else {knob: value})
    row = nearest_indices([ServeAction.model_validate(start)])[0]
    frozen = () if knob is None else (list(ACTION_GRID).index(knob),)
    return improve(task, seeds, np.tile(row, (len(seeds), task.windows, 1)), budget, frozen=frozen)[1]


_Case: TypeAlias = tuple[str, str | None, Constant | None]


@dataclass(frozen=True, slots=True)
class _Job:
    values: Evaluator
    case: _Case
    seeds: tuple[int, ...]


def _run_job(job: _Job) -> tuple[_Case, tuple[int, ...], Floats]:
    load_kernel()
    task_id, knob, value = job.case
    return job.case, job.seeds, job.values(task_id, job.seeds, knob, value)


def _all_values(
    values: Evaluator,
    cases: Sequence[_Case],
    seeds: dict[str, tuple[int, ...]],
    executor: Executor,
    progress: Callable[[int, int], object],
) -> dict[tuple[Any, ...], Floats]:
    """Return the values of every case on the seeds of its task."""
    jobs = [
        _Job(values, case, seeds[case[0]][begin : begin + _GROUP])
        for case in cases
        for begin in range(0, len(seeds[case[0]]), _GROUP)
    ]
    parts: dict[tuple[Any, ...], dict[int, float]] = {case: {} for case in cases}
    with closing(executor.map(_run_job, jobs)) as results:
        for number, (case, part, found) in enumerate(results, start=1):
            parts[case].update(zip(part, found.tolist(), strict=True))
            progress(number, len(jobs))
    return {case: np.array([by_seed[seed] for seed in seeds[case[0]]]) for case, by_seed in parts.items()}


def _candidates(task_id: str, knob: str) -> tuple[Constant, ...]:
    if knob == "prefill_decode_split" and not ServingEnv(catalogue_task(task_id)).can_split:
        return (False,)
    return ACTION_GRID[knob]


def _training_seeds(task_id: str, count: int) -> tuple[int, ...]:
    train = catalogue_task(task_id).seeds.train
    if type(count) is not int or not 1 <= count <= len(train):
        raise InvalidInputError("search_seeds", f"must be an integer in 1..{len(train)}", got=count)
    return tuple(range(train.start, train.start + count))


def _check_agent(spec: AgentSpec, seeds: dict[str, tuple[int, ...]]) -> None:
    """Make and reset the agent, so that its errors are raised before anything runs."""
    agent = spec.make()
    for task, some in seeds.items():
        agent.reset(task, some[0])


def _mean(values: Floats) -> float:
    return float(values.mean())


def _estimate(bootstrap: Bootstrap, values: Floats) -> Estimate:
    return estimate(bootstrap.interval([values], mean))


def _command(spec: AgentSpec, tasks: Sequence[str], episodes: int, search_seeds: int) -> str:
    words = ["llmserve", "ablate", "--agent", spec.spec]
    words += task_options(tasks)
    return shlex.join([*words, "--episodes", str(episodes), "--search-seeds", str(search_seeds)])
