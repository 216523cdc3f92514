"""The baseline suites: run agents × tasks × seeds on one environment, grade them and report.

``python -m server.baseline_inference``, ``llmserve baseline`` and ``GET /baseline`` call `run_suite`. The deterministic
suite runs the heuristic, and for comparison the trained policy, fixed configurations and the random policy. In the
openai suite a language model acts. The module knows nothing about terminals or HTTP routes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from math import fsum
from pathlib import Path
from statistics import fmean
from typing import Final, get_args

from llmserve_agents.__about__ import __version__
from llmserve_agents.environment import Environment, InProcess, Remote, public_url
from llmserve_agents.errors import RequestCapError
from llmserve_agents.evaluation.baseline_report import AgentSummary, BaselineReport, EpisodeResult, Mode, Runtime
from llmserve_agents.evaluation.report import grade_fields
from llmserve_agents.llm.agent import DEFAULT_MODEL, OpenAIAgent
from llmserve_agents.llm.endpoint import ChatEndpoint, Patience
from llmserve_agents.llm.prices import PRICES, PRICES_SOURCE, PRICES_URL, Price, price_of
from llmserve_agents.policy import make_agent
from llmserve_sim.errors import InvalidInputError
from llmserve_sim.policies import Policy
from llmserve_sim.schema import GradeReport
from llmserve_sim.tasks import list_tasks
from llmserve_sim.tasks.registry import catalogue_task

__all__ = ["DETERMINISTIC_AGENTS", "LLMOptions", "Progress", "default_seeds", "run_suite", "validator_tasks"]

DETERMINISTIC_AGENTS: Final = ("heuristic", "ppo", "best-static", "static", "random")
"""The baseline, then the agents that it is compared with."""
_SEEDS: Final[Mapping[Mode, int]] = {"deterministic": 3, "openai": 1}
"""Default number of test seeds per task. With a model, an episode takes 120 requests."""
_OPENAI: Final = "openai"


@dataclass(frozen=True, slots=True)
class LLMOptions:
    """Options of the openai suite."""

    api_key: str | None = field(default=None, repr=False)
    """The endpoint's key. Callers read it from OPENAI_API_KEY; this module reads no environment variables."""
    base_url: str | None = None
    """The OpenAI-compatible endpoint; None: OpenAI's own."""
    history: int = 6
    """Windows that a prompt shows."""
    max_completion_tokens: int = 1024
    """Longest answer, tokens."""
    patience: Patience = field(default_factory=Patience)
    prices: Mapping[str, Price] = field(default_factory=lambda: PRICES)
    priced_by: str = f"{PRICES_SOURCE} ({PRICES_URL})"
    """Source of the prices, for the report. The report adds the day of the model's price."""
    transcript: Path | None = None
    """JSONL file for every question and answer."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a suite, after each window."""

    agent: str
    task_id: str
    seed: int
    episode: int
    """Number of this episode, from 1."""
    episodes: int
    window: int
    """Windows simulated in this episode; 0 at its start."""
    windows: int
    """Windows of the whole episode."""
    reward: float
    """Reward of the last window."""


def validator_tasks() -> tuple[str, ...]:
    """Return the ids of the tasks that validators know, easiest first."""
    return tuple(task.id for task in list_tasks(extended=False))


def default_seeds(mode: Mode, task_id: str) -> tuple[int, ...]:
    """Return the default seeds of a suite: the first of the task's test seeds."""
    first = catalogue_task(task_id).seeds.test.start
    return tuple(range(first, first + _SEEDS[mode]))


def run_suite(
    mode: Mode = "deterministic",
    runtime: Runtime = "in-process",
    *,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    agents: Sequence[str] | None = None,
    model: str = DEFAULT_MODEL,
    base_url: str | None = None,
    token: str | None = None,
    llm: LLMOptions | None = None,
    environment: Environment | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> BaselineReport:
    """Run a suite and return its report. A deterministic suite gives the same report every time, byte for byte.

    Args:
        mode: which agents act.
        runtime: where episodes run; "http" needs `base_url`.
        tasks: ids of tasks; by default the three that validators know.
        seeds: seeds, the same for every task; by default the first of each task's test seeds.
        agents: with mode deterministic, agents instead of `DETERMINISTIC_AGENTS`; the first is the baseline.
        model: with mode openai, the model.
        base_url: with runtime http, the server.
        token: the server's bearer token, if it needs one.
        llm: with mode openai, the model's options.
        environment: an environment to use instead of the runtime's own; it is not closed.
        progress: called at the start of each episode and after each window.

    Raises `InvalidInputError` for wrong arguments, `AgentError` if the model cannot be used, and the environment's
    errors.
    """
    plan = _plan(mode, runtime, tasks, seeds, agents, base_url)
    options = LLMOptions() if llm is None else llm
    if mode == _OPENAI:
        _check_cap(plan, options.patience.max_requests)
    model_agent = (
        OpenAIAgent(
            ChatEndpoint(
                model,
                api_key=options.api_key,
                base_url=options.base_url,
                max_completion_tokens=options.max_completion_tokens,
                patience=options.patience,
            ),
            history=options.history,
            prices=options.prices,
            transcript=options.transcript,
        )
        if mode == _OPENAI
        else None
    )
    env = environment or (InProcess() if runtime == "in-process" else _remote(base_url, token))
    try:
        graded = [
            _episode(env, name, model_agent or make_agent(name), task, seed, number, len(plan.episodes), progress)
            for number, (name, task, seed) in enumerate(plan.episodes, start=1)
        ]
    finally:
        if model_agent is not None:
            model_agent.close()
        if environment is None:
            env.close()
    return _report(mode, runtime, plan, model, base_url, seeds, agents, options, graded)


@dataclass(frozen=True, slots=True)
class _Plan:
    tasks: tuple[str, ...]
    agents: tuple[str, ...]
    episodes: tuple[tuple[str, str, int], ...]
    """(agent, task, seed) in order."""


def _plan(
    mode: Mode,
    runtime: Runtime,
    tasks: Sequence[str] | None,
    seeds: Sequence[int] | None,
    agents: Sequence[str] | None,
    base_url: str | None,
) -> _Plan:
    if mode not in get_args(Mode):
        raise InvalidInputError("mode", "must be one of " + ", ".join(get_args(Mode)), got=mode)
    if runtime not in get_args(Runtime):
        raise InvalidInputError("runtime", "must be one of " + ", ".join(get_args(Runtime)), got=runtime)
    if (runtime == "http") != (base_url is not None):
        raise InvalidInputError("base_url", "goes with runtime http, which needs it")
    if mode == _OPENAI and agents:
        raise InvalidInputError("agents", "fits only mode deterministic: with mode openai the model decides")
    names = (_OPENAI,) if mode == _OPENAI else tuple(agents or DETERMINISTIC_AGENTS)
    for name in names:
        if name != _OPENAI:
            make_agent(name)
    known = tuple(tasks or validator_tasks())
    runs = {task: tuple(seeds) if seeds else default_seeds(mode, task) for task in known}
    for label, given in (("tasks", known), ("agents", names), ("seeds", tuple(seeds or ()))):
        if len(set(given)) != len(given):
            raise InvalidInputError(label, "must not repeat an entry", got=given)
    for task in known:
        catalogue_task(task)
    episodes = tuple((name, task, seed) for name in names for task in known for seed in runs[task])
    return _Plan(known, names, episodes)


def _check_cap(plan: _Plan, cap: int | None) -> None:
    needed = sum(catalogue_task(task).windows for _, task, _ in plan.episodes)
    if cap is not None and needed > cap:
        raise RequestCapError(f"the suite needs {needed} requests, and the cap is {cap}: fewer tasks or seeds")


def _remote(base_url: str | None, token: str | None) -> Remote:
    assert base_url is not None
    return Remote.at(base_url, token=token)


def _episode(
    env: Environment,
    name: str,
    agent: Policy,
    task: str,
    seed: int,
    number: int,
    episodes: int,
    progress: Callable[[Progress], object] | None,
) -> tuple[EpisodeResult, GradeReport]:
    """Run and grade one episode."""
    observation = env.reset(task, seed)
    agent.reset(task, seed)
    windows = env.episode_length()

    def report(reward: float) -> None:
        if progress is not None:
            progress(Progress(name, task, seed, number, episodes, observation.step_index, windows, reward))

    report(0.0)
    while not observation.done:
        observation = env.step(agent.act(observation))
        report(observation.reward)
    grade = env.grade()
    usage = agent.usage() if isinstance(agent, OpenAIAgent) else None
    result = EpisodeResult(
        agent=name,
        **(grade_fields(grade) | {"task_id": task, "seed": seed}),
        invalid_actions=usage.invalid_actions if usage else 0,
        usage=usage,
    )
    return result, grade


def _report(
    mode: Mode,
    runtime: Runtime,
    plan: _Plan,
    model: str,
    base_url: str | None,
    seeds: Sequence[int] | None,
    agents: Sequence[str] | None,
    options: LLMOptions,
    graded: Sequence[tuple[EpisodeResult, GradeReport]],
) -> BaselineReport:
    episodes = [episode for episode, _ in graded]
    grades = [grade for _, grade in graded]
    summaries = [_summary(name, [e for e in episodes if e.agent == name]) for name in plan.agents]
    verdicts = [episode.verified for episode in episodes]
    references = [grade.references for grade in grades if grade.references is not None]
    versions = {"llmserve-agents": __version__, "llmserve-sim": grades[0].simulator_version}
    if mode == _OPENAI:
        versions["openai"] = metadata.version("openai")
    url = None if base_url is None else public_url(base_url)
    return BaselineReport(
        mode=mode,
        runtime=runtime,
        base_url=url,
        agent=plan.agents[0],
        model=model if mode == _OPENAI else None,
        tasks=list(plan.tasks),
        score=summaries[0].mean_score,
        agents=summaries,
        episodes=episodes,
        verified=False if False in verdicts else None if None in verdicts else True,
        provisional_references=any(item.provisional for item in references) if references else None,
        versions=versions,
        prices=_price_source(options, model) if mode == _OPENAI else None,
        command=_command(mode, runtime, plan, model, url, seeds, agents),
    )


def _summary(name: str, episodes: Sequence[EpisodeResult]) -> AgentSummary:
    by_task: dict[str, list[EpisodeResult]] = {}
    for episode in episodes:
        by_task.setdefault(episode.task_id, []).append(episode)
    usages = [episode.usage for episode in episodes if episode.usage is not None]
    costs = [usage.cost_usd for usage in usages]
    return AgentSummary(
        agent=name,
        episodes=len(episodes),
        mean_score=_mean_score(episodes),
        mean_reward=fmean(episode.mean_reward for episode in episodes),
        task_scores={task: _mean_score(found) for task, found in by_task.items()},
        task_rewards={task: fmean(e.mean_reward for e in found) for task, found in by_task.items()},
        invalid_actions=sum(episode.invalid_actions for episode in episodes),
        failed_requests=sum(usage.failed_requests for usage in usages),
        requests=sum(usage.requests for usage in usages),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cost_usd=None if not costs or None in costs else fsum(cost for cost in costs if cost is not None),
    )


def _mean_score(episodes: Sequence[EpisodeResult]) -> float | None:
    scores = [episode.score for episode in episodes if episode.score is not None]
    return fmean(scores) if len(scores) == len(episodes) else None


def _price_source(options: LLMOptions, model: str) -> str:
    price = price_of(model, options.prices)
    return options.priced_by + ("" if price is None or price.as_of is None else f", as of {price.as_of}")


def _command(
    mode: Mode,
    runtime: Runtime,
    plan: _Plan,
    model: str,
    url: str | None,
    seeds: Sequence[int] | None,
    agents: Sequence[str] | None,
) -> str:
    """Return the command that gives the same report, with every option that is not the default."""
    words = ["llmserve", "baseline", "--mode", mode, "--runtime", runtime]
    words += ["--base-url", url] if url is not None else []
    words += ["--model", model] if mode == _OPENAI else []
    words += [word for name in agents or () for word in ("--agent", name)]
    if plan.tasks != validator_tasks():
        words += [word for task in plan.tasks for word in ("--task", task)]
    words += [word for seed in seeds or () for word in ("--seed", str(seed))]
    return shlex.join(words)
