"""`run`: agents × tasks × test seeds, distributed over an executor, every episode graded by replay, with intervals.

Work is cut into chunks (task, agent, some seeds), dearest first, so that no worker waits long at the end. A chunk makes its
agent anew and resets it for every episode, so that neither the cut nor the number of workers shows in the results. The
module knows nothing about terminals or files; what the episodes come to is worked out in `evaluation_summary.py`.
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

__all__ = ["DEFAULT_AGENTS", "EPISODES", "Progress", "evaluation_tasks", "run", "runnable_agents", "test_seeds"]

EPISODES: Final = 20
"""Test seeds per task unless told otherwise."""
DEFAULT_AGENTS: Final = ("ppo", "tuned-heuristic", "heuristic", "best-static", "threshold", "static", "random")
"""The agents of an evaluation that names none: those that need no search, the one to be compared with first."""
_COST: Final = {"planner": 100.0, "ppo": 2.0}
"""What an episode costs, about, with its grading: 1 is an agent of plain rules. Only the order of work depends on it."""
_CHUNKS: Final = 24
"""A worker's work is cut into so many chunks, at least: what the last one holds up is then a few per cent."""


_SEARCH_BATCH: Final = 8
"""Episodes that one search steps together, at most."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running evaluation stands, after each chunk."""

    done: int
    """Episodes that are done."""
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
    """Evaluate agents and return the report; all of it but `timing` is the same from every run, byte for byte.

    Args:
        agents: names or specs (see `roster`); the first is what the others are compared with.
        tasks: ids of tasks, "all" for the three that validators know (the default).
        episodes: how many, for each agent and task: the first of the task's test seeds.
        seeds: other seeds in their place, the same for every task.
        executor: where episodes run; by default in as many processes as there are processors.
        resamples: of the bootstrap behind the intervals.
        confidence: of the intervals.
        budget: of the clairvoyant search, where it takes part; the command has the default one.
        skipped: agents that were left out and why, for the report.
        progress: called after each chunk.

    Raises `InvalidInputError` for wrong arguments, and whatever keeps an agent from starting (no weights, say) before the
    first episode.
    """
    specs = agent_specs(agents)
    chosen = evaluation_tasks(tasks)
    plan = {task: test_seeds(task, episodes) if seeds is None else _checked(seeds) for task in chosen}
    bootstrap = Bootstrap([len(plan[task]) for task in chosen], resamples=resamples, confidence=confidence)
    place = ProcessExecutor() if executor is None else executor
    entries = [_entry(spec, plan) for spec in specs]
    load_kernel()
    begun = time.perf_counter()
    _unreported_cpu_s()
    done: list[_Done] = []

    def carry_out(jobs: Sequence[_Chunk | BoundJob]) -> None:
        with closing(place.map(_run_job, jobs)) as results:
            for one in results:
                done.append(one)
                if progress is not None:
                    finished = sum(len(chunk.episodes) for chunk in done)
                    last = one.episodes[-1]
                    progress(Progress(finished, len(specs) * sum(map(len, plan.values())), last.agent, last.task_id))

    searched = [spec for spec in specs if spec.searched]
    acting = [spec for spec in specs if not spec.searched]
    carry_out(_chunks(acting, plan, place.workers, keep=bool(searched)))
    authored = _actions_by_episode(done)
    for spec in searched:
        carry_out(_bound_jobs(spec, plan, authored, place.workers, budget))
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
        timing=_timing(done, place, wall_s),
    )


def evaluation_tasks(tasks: Sequence[str] | None) -> tuple[str, ...]:
    """Return the ids of tasks, "all" being the three that validators know; raises for an unknown or a repeated one."""
    named = (tasks,) if isinstance(tasks, str) else tasks or ("all",)
    asked = [task for name in named for task in (validator_tasks() if name == "all" else (name,))]
    for task in asked:
        catalogue_task(task)
    if len(set(asked)) < len(asked):
        raise InvalidInputError("tasks", "must not repeat an entry", got=tuple(asked))
    return tuple(asked)


def runnable_agents(tasks: Sequence[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """Return the agents of `DEFAULT_AGENTS` that can run on all of `tasks` here, and of the others why they cannot."""
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
    """Return the first of a task's test seeds; raises `InvalidInputError` for more than there are, or fewer than 1."""
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
    keep: bool
    """Whether the actions are wanted, for a search to begin at."""


@dataclass(frozen=True, slots=True)
class _Done:
    episodes: tuple[EpisodeScore, ...]
    wall_s: float
    cpu_s: float
    """Of the chunk alone."""
    process_cpu_s: float
    """Of the process since its chunk before; with its first one, since its birth."""
    actions: tuple[ActionRows, ...] = ()
    """By episode, where they are wanted."""


def _entry(spec: AgentSpec, plan: dict[str, tuple[int, ...]]) -> AgentEntry:
    """Make an agent as the episodes will, so that what it lacks shows before anything runs."""
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


def _chunks(specs: Sequence[AgentSpec], plan: dict[str, tuple[int, ...]], workers: int, *, keep: bool) -> list[_Chunk]:
    """Return the work, the dearest chunks first."""
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
            chunks += [_Chunk(spec, task, part, cost * len(part), keep) for part in parts]
    return sorted(chunks, key=lambda chunk: -chunk.cost)


def _bound_jobs(
    spec: AgentSpec,
    plan: dict[str, tuple[int, ...]],
    authored: dict[tuple[str, int], list[tuple[ActionRows, float]]],
    workers: int,
    budget: Budget | None,
) -> list[BoundJob]:
    """Return the searches, of as many episodes side by side as leaves every worker enough of them."""
    size = max(1, min(_SEARCH_BATCH, sum(map(len, plan.values())) // (_CHUNKS // 4 * workers)))
    return [
        BoundJob(spec.label, task, part, tuple(tuple(authored.get((task, seed), ())) for seed in part), budget)
        for task, seeds in plan.items()
        for part in (seeds[begin : begin + size] for begin in range(0, len(seeds), size))
    ]


def _actions_by_episode(done: Sequence[_Done]) -> dict[tuple[str, int], list[tuple[ActionRows, float]]]:
    """Return what every agent did in each episode, agents in the order of their labels: that of their ends is chance."""
    found: dict[tuple[str, int], dict[str, tuple[ActionRows, float]]] = {}
    for chunk in done:
        for episode, actions in zip(chunk.episodes, chunk.actions, strict=False):
            found.setdefault((episode.task_id, episode.seed), {})[episode.agent] = actions, episode.mean_reward
    return {key: [by_agent[label] for label in sorted(by_agent)] for key, by_agent in found.items()}


def _run_job(job: _Chunk | BoundJob) -> _Done:
    load_kernel()
    if isinstance(job, _Chunk):
        return _run_chunk(job)
    wall, cpu = time.perf_counter(), time.process_time()
    episodes = search(job)
    return _Done(tuple(episodes), time.perf_counter() - wall, time.process_time() - cpu, _unreported_cpu_s())


def _run_chunk(chunk: _Chunk) -> _Done:
    wall, cpu = time.perf_counter(), time.process_time()
    task = catalogue_task(chunk.task_id)
    env, agent = ServingEnv(task), chunk.spec.make()
    episodes, actions = [], []
    for seed in chunk.seeds:
        run_episode(env, agent, seed)
        log = env.episode_log()
        episodes.append(score_episode(log, chunk.spec.label, weights_path(agent)))
        if chunk.keep:
            actions.append(pack_actions([step.action for step in log.steps]))
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    return _Done(tuple(episodes), *seconds, _unreported_cpu_s(), tuple(actions))


def _checked(seeds: Sequence[int]) -> tuple[int, ...]:
    given = tuple(seeds)
    if not given or len(set(given)) < len(given):
        raise InvalidInputError("seeds", "must be at least one seed, and none twice", got=given)
    if not all(type(seed) is int and 0 <= seed < 2**63 for seed in given):
        raise InvalidInputError("seeds", f"must be integers in 0..{2**63 - 1}", got=given)
    return given


_reported_cpu_s = 0.0


def _unreported_cpu_s() -> float:
    """Return this process' processor seconds that have not been returned before."""
    global _reported_cpu_s
    now = time.process_time()
    since, _reported_cpu_s = now - _reported_cpu_s, now
    return since


def _timing(done: Sequence[_Done], executor: Executor, wall_s: float) -> Timing:
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
    """The command that gives the same report, with everything that is not the default spelt out."""
    words = ["llmserve", "evaluate"]
    for spec in specs:
        words += ["--agent", spec.spec if spec.label == spec.spec else f"{spec.label}={spec.spec}"]
    for task in ("all",) if tuple(tasks) == validator_tasks() else tasks:
        words += ["--task", task]
    words += ["--episodes", str(episodes)] if seeds is None else []
    words += [word for seed in seeds or () for word in ("--seed", str(seed))]
    words += [] if resamples == 10_000 else ["--resamples", str(resamples)]
    words += [] if confidence == 0.95 else ["--confidence", str(confidence)]
    return shlex.join(words)
