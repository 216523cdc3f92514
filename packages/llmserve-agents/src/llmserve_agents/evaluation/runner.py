"""`run`: evaluates agents × tasks × test seeds on an executor. Every episode is graded by replay.

The work is cut into chunks (task, agent, some seeds). The most expensive chunks run first, so that no worker waits long
at the end. Every chunk makes a new agent and resets it for every episode, so the results depend neither on the chunks
nor on the number of workers. `summary.py` computes means and intervals. The module knows nothing about terminals or
files.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from llmserve_agents.clairvoyant import Budget
from llmserve_agents.evaluation.baseline import validator_tasks
from llmserve_agents.evaluation.bound import ActionRows, BoundJob, pack_actions, search
from llmserve_agents.evaluation.episodes import load_kernel, score_episode
from llmserve_agents.evaluation.report import AgentEntry, EpisodeScore, EvaluationReport, Timing, WeightsUsed
from llmserve_agents.evaluation.roster import AgentSpec, agent_specs, parse_agent, weights_of, weights_path
from llmserve_agents.evaluation.statistics import Bootstrap
from llmserve_agents.evaluation.summary import summarize
from llmserve_agents.executors import Executor, ProcessExecutor
from llmserve_agents.policy import run_episode
from llmserve_sim.env import ServingEnv
from llmserve_sim.errors import InvalidInputError, LLMServeError
from llmserve_sim.tasks.registry import catalogue_task

__all__ = [
    "DEFAULT_AGENTS",
    "EPISODES",
    "Progress",
    "evaluation_tasks",
    "run",
    "runnable_agents",
    "task_options",
    "test_seeds",
]

EPISODES: Final = 20
"""Default number of test seeds per task."""
DEFAULT_AGENTS: Final = ("ppo", "tuned-heuristic", "heuristic", "best-static", "threshold", "static", "random")
"""The agents of an evaluation that names none: all that need no search. The others are compared with the first."""
_COST: Final = {"planner": 100.0, "ppo": 2.0}
"""Approximate cost of an episode and its grading; 1 for plain rules. Only the order of the work depends on it."""
_CHUNKS: Final = 24
"""Fewest chunks per worker, so that waiting for the last chunk costs a few per cent at most."""
_SEARCH_BATCH: Final = 8
"""Most episodes that one clairvoyant search simulates together."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of an evaluation, after each chunk."""

    done: int
    """Episodes finished so far."""
    episodes: int
    agent: str
    task_id: str


def run(
    agents: Sequence[str | AgentSpec],
    tasks: Sequence[str] | None = None,
    episodes: int = EPISODES,
    *,
    seeds: Sequence[int] | None = None,
    executor: Executor | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    budget: Budget | None = None,
    skipped: dict[str, str] | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> EvaluationReport:
    """Evaluate agents and return the report. Every run gives the same report, byte for byte, except for `timing`.

    Args:
        agents: names or specs (see `roster`); the others are compared with the first.
        tasks: ids of tasks, or "all" for the three that validators know (the default).
        episodes: number of episodes per agent and task, on the first of the task's test seeds.
        seeds: seeds to use instead, the same for every task.
        executor: where episodes run; by default in one process per processor.
        resamples: number of bootstrap resamples.
        confidence: confidence of the intervals.
        budget: budget of the clairvoyant search; the command uses the default.
        skipped: agents that were left out, with the reasons, for the report.
        progress: called after each chunk.

    Raises `InvalidInputError` for wrong arguments. Errors that keep an agent from starting (no weights, for example)
    are raised before the first episode.
    """
    specs = agent_specs(agents)
    chosen = evaluation_tasks(tasks)
    plan = {task: test_seeds(task, episodes) if seeds is None else _checked(seeds) for task in chosen}
    bootstrap = Bootstrap([len(plan[task]) for task in chosen], resamples=resamples, confidence=confidence)
    executor = ProcessExecutor() if executor is None else executor
    entries = [_entry(spec, plan) for spec in specs]
    load_kernel()
    begun = time.perf_counter()
    _unreported_cpu_s()
    done: list[_ChunkResult] = []

    def run_jobs(jobs: Sequence[_Chunk | BoundJob]) -> None:
        with closing(executor.map(_run_job, jobs)) as results:
            for one in results:
                done.append(one)
                if progress is not None:
                    finished = sum(len(chunk.episodes) for chunk in done)
                    last = one.episodes[-1]
                    progress(Progress(finished, len(specs) * sum(map(len, plan.values())), last.agent, last.task_id))

    searched = [spec for spec in specs if spec.searched]
    acting = [spec for spec in specs if not spec.searched]
    run_jobs(_chunks(acting, plan, executor.workers, keep_actions=bool(searched)))
    actions = _actions_by_episode(done)
    for spec in searched:
        run_jobs(_bound_jobs(spec, plan, actions, executor.workers, budget))
    wall_s = time.perf_counter() - begun
    found = {(e.task_id, e.agent, e.seed): e for chunk in done for e in chunk.episodes}
    ordered = [found[task, spec.label, seed] for task in chosen for spec in specs for seed in plan[task]]
    return summarize(
        ordered,
        agents=entries,
        seeds={task: list(plan[task]) for task in chosen},
        bootstrap=bootstrap,
        skipped={} if skipped is None else skipped,
        command=_command(specs, chosen, episodes, seeds, resamples, confidence),
        timing=_timing(done, executor, wall_s),
    )


def evaluation_tasks(tasks: Sequence[str] | None) -> tuple[str, ...]:
    """Return the ids of tasks, with "all" replaced by the validators' three; raises for an unknown or a repeated id."""
    named = (tasks,) if isinstance(tasks, str) else tasks or ("all",)
    asked = [task for name in named for task in (validator_tasks() if name == "all" else (name,))]
    for task in asked:
        catalogue_task(task)
    if len(set(asked)) < len(asked):
        raise InvalidInputError("tasks", "must not repeat an entry", got=tuple(asked))
    return tuple(asked)


def task_options(tasks: Sequence[str]) -> list[str]:
    """Return the options of a command for these tasks."""
    named = ("all",) if tuple(tasks) == validator_tasks() else tasks
    return [word for task in named for word in ("--task", task)]


def runnable_agents(tasks: Sequence[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the agents of `DEFAULT_AGENTS` that can run on all of `tasks`, and the reasons why the others cannot."""
    plan = {task: test_seeds(task, 1) for task in evaluation_tasks(tasks)}
    able, unable = [], {}
    for name in DEFAULT_AGENTS:
        try:
            _entry(parse_agent(name), plan)
            able.append(name)
        except LLMServeError as error:
            unable[name] = str(error)
    return able, unable


def test_seeds(task_id: str, episodes: int) -> tuple[int, ...]:
    """Return the first `episodes` test seeds of a task; raises `InvalidInputError` if there are fewer, or for none."""
    test = catalogue_task(task_id).seeds.test
    if type(episodes) is not int or not 1 <= episodes <= len(test):
        raise InvalidInputError(
            "episodes", f"must be an integer in 1..{len(test)}, {task_id}'s test seeds", got=episodes
        )
    return tuple(range(test.start, test.start + episodes))


@dataclass(frozen=True, slots=True)
class _Chunk:
    spec: AgentSpec
    task_id: str
    seeds: tuple[int, ...]
    cost: float
    keep_actions: bool
    """Whether to return the actions too, as starts of a search."""


@dataclass(frozen=True, slots=True)
class _ChunkResult:
    episodes: tuple[EpisodeScore, ...]
    wall_s: float
    cpu_s: float
    """Processor seconds of the chunk alone."""
    process_cpu_s: float
    """Processor seconds of the process since its last chunk, or since its start."""
    actions: tuple[ActionRows, ...] = ()
    """By episode, if the chunk was to keep them."""


def _entry(spec: AgentSpec, plan: dict[str, tuple[int, ...]]) -> AgentEntry:
    """Make and reset an agent as the episodes will, so that its errors are raised before anything runs."""
    weights: dict[str, WeightsUsed] = {}
    if spec.searched:
        return AgentEntry(label=spec.label, spec=spec.spec)
    agent = spec.make()
    for task, seeds in plan.items():
        agent.reset(task, seeds[0])
        used = weights_of(agent)
        if used is not None:
            weights[task] = used
    return AgentEntry(label=spec.label, spec=spec.spec, weights=weights)


def _chunks(
    specs: Sequence[AgentSpec], plan: dict[str, tuple[int, ...]], workers: int, *, keep_actions: bool
) -> list[_Chunk]:
    """Return the chunks, the most expensive first."""
    costs = {
        (task, spec.label): _COST.get(spec.spec.partition(":")[0], 1.0) * catalogue_task(task).windows
        for task in plan
        for spec in specs
    }
    total = sum(cost * len(plan[task]) for (task, _), cost in costs.items())
    most = total / (_CHUNKS * workers)
    chunks = []
    for task, seeds in plan.items():
        for spec in specs:
            cost = costs[task, spec.label]
            size = max(1, int(most / cost))
            parts = [seeds[begin : begin + size] for begin in range(0, len(seeds), size)]
            chunks += [_Chunk(spec, task, part, cost * len(part), keep_actions) for part in parts]
    return sorted(chunks, key=lambda chunk: -chunk.cost)


def _bound_jobs(
    spec: AgentSpec,
    plan: dict[str, tuple[int, ...]],
    actions: dict[tuple[str, int], list[tuple[ActionRows, float]]],
    workers: int,
    budget: Budget | None,
) -> list[BoundJob]:
    """Return the searches. Each has as many episodes as leaves enough searches for every worker."""
    size = max(1, min(_SEARCH_BATCH, sum(map(len, plan.values())) // (_CHUNKS // 4 * workers)))
    return [
        BoundJob(spec.label, task, part, tuple(tuple(actions.get((task, seed), ())) for seed in part), budget)
        for task, seeds in plan.items()
        for part in (seeds[begin : begin + size] for begin in range(0, len(seeds), size))
    ]


def _actions_by_episode(done: Sequence[_ChunkResult]) -> dict[tuple[str, int], list[tuple[ActionRows, float]]]:
    """Return, by task and seed, the actions and mean reward of every agent, in the order of the labels."""
    found: dict[tuple[str, int], dict[str, tuple[ActionRows, float]]] = {}
    for chunk in done:
        for episode, actions in zip(chunk.episodes, chunk.actions, strict=False):
            found.setdefault((episode.task_id, episode.seed), {})[episode.agent] = actions, episode.mean_reward
    return {key: [by_agent[label] for label in sorted(by_agent)] for key, by_agent in found.items()}


def _run_job(job: _Chunk | BoundJob) -> _ChunkResult:
    load_kernel()
    if isinstance(job, _Chunk):
        return _run_chunk(job)
    wall, cpu = time.perf_counter(), time.process_time()
    episodes = search(job)
    return _ChunkResult(tuple(episodes), time.perf_counter() - wall, time.process_time() - cpu, _unreported_cpu_s())


def _run_chunk(chunk: _Chunk) -> _ChunkResult:
    wall, cpu = time.perf_counter(), time.process_time()
    task = catalogue_task(chunk.task_id)
    env, agent = ServingEnv(task), chunk.spec.make()
    episodes, actions = [], []
    for seed in chunk.seeds:
        run_episode(env, agent, seed)
        log = env.episode_log()
        episodes.append(score_episode(log, chunk.spec.label, weights_path(agent)))
        if chunk.keep_actions:
            actions.append(pack_actions([step.action for step in log.steps]))
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    return _ChunkResult(tuple(episodes), *seconds, _unreported_cpu_s(), tuple(actions))


def _checked(seeds: Sequence[int]) -> tuple[int, ...]:
    given = tuple(seeds)
    if not given or len(set(given)) < len(given):
        raise InvalidInputError("seeds", "must be at least one seed, and none twice", got=given)
    if not all(type(seed) is int and 0 <= seed < 2**63 for seed in given):
        raise InvalidInputError("seeds", f"must be integers in 0..{2**63 - 1}", got=given)
    return given


_reported_cpu_s = 0.0


def _unreported_cpu_s() -> float:
    """Return the processor seconds of this process since the last call."""
    global _reported_cpu_s
    now = time.process_time()
    since, _reported_cpu_s = now - _reported_cpu_s, now
    return since


def _timing(done: Sequence[_ChunkResult], executor: Executor, wall_s: float) -> Timing:
    capacity_s = wall_s * executor.workers
    cpu_s = sum(chunk.process_cpu_s for chunk in done)
    spent: dict[str, tuple[float, int]] = {}
    for chunk in done:
        label = chunk.episodes[0].agent
        seconds, count = spent.get(label, (0.0, 0))
        spent[label] = seconds + chunk.cpu_s, count + len(chunk.episodes)
    return Timing(
        executor=type(executor).__name__,
        workers=executor.workers,
        wall_s=wall_s,
        cpu_s=cpu_s,
        cpu_share=cpu_s / capacity_s,
        occupied_share=sum(chunk.wall_s for chunk in done) / capacity_s,
        agent_s={label: seconds / count for label, (seconds, count) in sorted(spent.items())},
    )


def _command(
    specs: Sequence[AgentSpec],
    tasks: Sequence[str],
    episodes: int,
    seeds: Sequence[int] | None,
    resamples: int,
    confidence: float,
) -> str:
    """Return the command that gives the same report, with every option that is not the default."""
    words = ["llmserve", "evaluate"]
    for spec in specs:
        words += ["--agent", spec.spec if spec.label == spec.spec else f"{spec.label}={spec.spec}"]
    words += task_options(tasks)
    words += ["--episodes", str(episodes)] if seeds is None else []
    words += [word for seed in seeds or () for word in ("--seed", str(seed))]
    words += [] if resamples == 10_000 else ["--resamples", str(resamples)]
    words += [] if confidence == 0.95 else ["--confidence", str(confidence)]
    return shlex.join(words)
