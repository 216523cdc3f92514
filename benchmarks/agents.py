"""Makes or checks every number and picture about agents in the documentation: `nox -s benchmark`.

All agents that can run here play the same test seeds: the shipped PPO (`weights/{task}`), PPO of each training seed
(`weights/{task}/seeds/*`), and the others. Every episode is graded by replay. The planner and the clairvoyant search
take seconds to minutes per episode; they play the first of the same seeds, beside the best of the others.

The program writes the reports, the pictures, and the tables between the markers of README.md and docs/results.md. It
then judges the bars and exits with 1 if one is missed. With ``--quick`` it writes nothing: it plays fewer seeds,
without the searches, and exits with 1 if the committed numbers disagree.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.bars import bars, search_bars
from benchmarks.results import LEFT_OUT, SEARCHES, placed, readme_section, whole_section

from llmserve_agents.evaluation.ablation import ablate
from llmserve_agents.evaluation.ablation_report import AblationReport
from llmserve_agents.evaluation.episodes import record_episode
from llmserve_agents.evaluation.plots import draw_knob_values, draw_scores, draw_timeline
from llmserve_agents.evaluation.report import EvaluationReport
from llmserve_agents.evaluation.roster import agent_specs, parse_agent
from llmserve_agents.evaluation.runner import DEFAULT_AGENTS, Progress, evaluation_tasks, run, runnable_agents
from llmserve_agents.executors import EXECUTORS, Executor, make_executor
from llmserve_agents.learning.curves import Curve, draw_learning_curves
from llmserve_agents.policy import make_agent
from llmserve_agents.references import run_agent
from llmserve_sim.tasks.registry import catalogue_task

ROOT: Final = Path(__file__).resolve().parents[1]
SEARCHERS: Final = ("planner", "clairvoyant")
"""Agents that take seconds to minutes an episode."""
BESIDE: Final = ("ppo", "tuned-heuristic", "best-static")
"""Agents that they are compared with; the clairvoyant search starts from the actions of these."""
BASELINES: Final = ("best-static", "heuristic", "tuned-heuristic")
"""Agents that are drawn beside the learning curves."""
QUICK_EPISODES: Final = 20
SLACK: Final = 2.0
"""Largest distance of a committed mean from the quick run's, in half-widths of its interval (4 standard errors)."""
PAGES: Final = {"README.md": False, "docs/results.md": True}
"""The pages with markers, and whether a page holds every table (True) or only the README's."""


def line_up(tasks: Sequence[str], skip: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the specs of all agents that can run, the shipped PPO first, and the reasons why others cannot."""
    able, unable = runnable_agents(tasks)
    names = [name for name in able if name not in skip]
    seeds = [
        {path.parent.name for path in (ROOT / "weights" / task).glob("seeds/*/policy.safetensors")} for task in tasks
    ]
    shared = sorted(set.intersection(*seeds), key=lambda name: (len(name), name)) if "ppo" in names else []
    trained = [f"ppo-seed-{seed}=ppo:weights/{{task}}/seeds/{seed}" for seed in shared]
    return [*names[:1], *trained, *names[1:]], unable | dict.fromkeys(skip, LEFT_OUT)


def measure(arguments: argparse.Namespace, place: Executor) -> int:
    """Run every evaluation and write the results; return 1 if a bar is missed."""
    tasks = evaluation_tasks(arguments.task)
    agents, skipped = line_up(tasks, arguments.skip)
    report = run(agents, tasks, arguments.episodes, executor=place, skipped=skipped, progress=_ProgressPrinter())
    searches = None
    if arguments.searches:
        rivals = [*(name for name in BESIDE if name in agents), *SEARCHERS]
        searches = run(rivals, tasks, arguments.searches, executor=place, progress=_ProgressPrinter())
    ablated = arguments.ablate_task or tasks
    ablations = [_ablation(name, ablated, arguments.episodes, place) for name in arguments.ablate]
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmark.json").write_text(report.stable().model_dump_json() + "\n", encoding="utf-8")
    (out / "searches.json").unlink(missing_ok=True)
    if searches is not None:
        (out / "searches.json").write_text(searches.stable().model_dump_json() + "\n", encoding="utf-8")
    for found in ablations:
        (out / f"ablation-{found.agent}.json").write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        draw_knob_values(found, out / f"knobs-{found.agent}.png")
    draw_scores(report, out / "scores.png")
    shown = [spec for spec in agent_specs(agents) if spec.label in {"ppo", "heuristic"}]
    for task in tasks:
        logs = {spec.label: record_episode(spec, task, report.seeds[task][0]) for spec in shown}
        draw_timeline(logs, out / f"timeline-{task}.png", window_s=catalogue_task(task).window_s)
    curves = learning_curves(tasks)
    if len(curves) == len(tasks):
        levels = {task: learning_levels(task, [name for name in BASELINES if name in agents]) for task in tasks}
        draw_learning_curves(curves, out / "learning.png", levels=levels)
    else:
        print("no learning curves: no learning.json in weights/<task>/seeds/* of every task", file=sys.stderr)
    for name, whole in PAGES.items():
        page = arguments.pages / name
        page.write_text(placed(page, _section(report, ablations, searches, whole=whole)), encoding="utf-8")
    return _judge(report, searches)


def learning_curves(tasks: Sequence[str], weights: Path = ROOT / "weights") -> dict[str, list[Curve]]:
    """Return each task's learning curves, one per training seed: windows and mean reward on validation seeds."""
    found: dict[str, list[Curve]] = {}
    for task in tasks:
        for path in sorted(weights.joinpath(task).glob("seeds/*/learning.json")):
            points = json.loads(path.read_text(encoding="utf-8"))["points"]
            if points:
                steps, values = zip(*points, strict=True)
                found.setdefault(task, []).append(Curve(path.parent.name, steps, values))
    return found


def learning_levels(task: str, agents: Sequence[str], weights: Path = ROOT / "weights") -> dict[str, float]:
    """Return the mean reward per window of other agents on the validation seeds that the task's curves are means over.

    Raises `ValueError` if the cards of the training seeds name different validation seeds.
    """
    cards = [json.loads(path.read_bytes()) for path in weights.joinpath(task).glob("seeds/*/card.json")]
    ranges = {tuple(card["validation_seeds"]) for card in cards}
    if len(ranges) != 1:
        raise ValueError(f"{task}: the curves must be over the same validation seeds, not {sorted(ranges)}")
    seeds = range(*ranges.pop())
    return {name: float(run_agent(catalogue_task(task), seeds, make_agent(name)).values.mean()) for name in agents}


def check(arguments: argparse.Namespace, place: Executor) -> int:
    """Play fewer seeds and compare them with the committed report; return 1 if they disagree."""
    committed = EvaluationReport.model_validate_json((arguments.out / "benchmark.json").read_bytes())
    ablations = [
        AblationReport.model_validate_json(path.read_bytes()) for path in sorted(arguments.out.glob("ablation-*.json"))
    ]
    path = arguments.out / "searches.json"
    searches = EvaluationReport.model_validate_json(path.read_bytes()) if path.exists() else None
    problems = [
        f"{name}: the numbers between the markers are not those of the reports in {arguments.out.name}"
        for name, whole in PAGES.items()
        if placed(arguments.pages / name, _section(committed, ablations, searches, whole=whole))
        != (arguments.pages / name).read_text(encoding="utf-8")
    ]
    specs = [e.label if e.label == e.spec else f"{e.label}={e.spec}" for e in committed.agents]
    report = run(
        [parse_agent(spec) for spec in specs],
        committed.tasks,
        min([QUICK_EPISODES, *map(len, committed.seeds.values())]),
        executor=place,
        progress=_ProgressPrinter(),
    )
    problems += disagreements(report, committed)
    if searches is not None and searches.references != committed.references:
        problems.append("searches.json was made with other references of the scores than benchmark.json")
    known = {(e.agent, e.task_id, e.seed): e.mean_reward for e in committed.episodes}
    same = sum(known.get((e.agent, e.task_id, e.seed)) == e.mean_reward for e in report.episodes)
    print(f"{same} of {len(report.episodes)} episodes earn what is committed, to the last bit")
    for problem in problems:
        print(f"FAIL  {problem}")
    if not problems:
        print(f"PASS  every committed mean lies within {SLACK:g} half-widths of this run's interval")
    return 1 if problems else 0


def disagreements(report: EvaluationReport, committed: EvaluationReport) -> list[str]:
    """Return the figures of the committed report that a run with fewer seeds contradicts."""
    found = []
    if report.references != committed.references:
        found.append("the references of the scores are not those that benchmark.json was made with")
    for ours, theirs in zip(report.agents, committed.agents, strict=True):
        for task, used in ours.weights.items():
            if task not in theirs.weights or theirs.weights[task].sha256 != used.sha256:
                found.append(f"{ours.label}, {task}: {used.path} is not the file that benchmark.json was made with")
    for row in report.standings:
        was = committed.result(row.agent, row.task_id).reward.value
        half = (row.reward.high - row.reward.low) / 2.0
        if abs(was - row.reward.value) > SLACK * half + 1e-9:
            found.append(
                f"{row.agent}, {row.task_id}: committed {was:.4f}, now {row.reward.value:.4f} over {row.episodes} seeds "
                f"[{row.reward.low:.4f}, {row.reward.high:.4f}]"
            )
        if row.verified < row.episodes:
            found.append(f"{row.agent}, {row.task_id}: {row.verified} of {row.episodes} episodes verified")
    return found


def _ablation(name: str, tasks: Sequence[str], episodes: int, place: Executor) -> AblationReport:
    def tell(what: str, done: int, jobs: int) -> None:
        print(f"ablation of {name}: {what}, {done}/{jobs}", file=sys.stderr)

    return ablate(name, tasks, episodes, executor=place, progress=tell)


def _section(
    report: EvaluationReport, ablations: Sequence[AblationReport], searches: EvaluationReport | None, *, whole: bool
) -> str:
    return whole_section(report, ablations, searches) if whole else readme_section(report, searches)


def _judge(report: EvaluationReport, searches: EvaluationReport | None) -> int:
    judged = [*bars(report), *([] if searches is None else search_bars(searches))]
    for bar in judged:
        print(bar)
    for timing in (one.timing for one in (report, searches) if one is not None and one.timing is not None):
        for label, seconds in timing.agent_s.items():
            print(f"      {label}: {seconds:.2f} processor seconds per episode, grading included")
    return 1 if any(bar.passed is False for bar in judged) else 0


class _ProgressPrinter:
    """Print the progress of an evaluation to standard error, at every tenth."""

    def __init__(self) -> None:
        self._said = 0

    def __call__(self, at: Progress) -> None:
        tenth = 10 * at.done // at.episodes
        if tenth > self._said:
            self._said = tenth
            print(f"{at.done} of {at.episodes} episodes", file=sys.stderr)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"check what is committed with {QUICK_EPISODES} seeds")
    parser.add_argument("--episodes", type=int, default=100, help="test seeds per task (default: %(default)s)")
    parser.add_argument("--task", action="append", help="a task; by default the three that validators know")
    parser.add_argument("--skip", action="append", default=[], choices=DEFAULT_AGENTS, help="leave one out")
    parser.add_argument(
        "--searches",
        type=int,
        default=SEARCHES,
        help="test seeds of these that planner and clairvoyant play, 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--ablate", action="append", default=[], help="an agent whose knobs are ablated, or clairvoyant"
    )
    parser.add_argument(
        "--ablate-task", action="append", help="a task on which they are; by default those of the evaluation"
    )
    parser.add_argument("--executor", default="process", choices=EXECUTORS, help="where episodes run")
    parser.add_argument("--workers", type=int, help="episodes at a time; by default one per processor")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of reports and pictures")
    parser.add_argument("--pages", type=Path, default=ROOT, help="folder that holds README.md and docs/results.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write, or check; return 1 if a bar is missed or a committed number disagrees."""
    options = parse(arguments)
    place = make_executor(options.executor, options.workers)
    return check(options, place) if options.quick else measure(options, place)


if __name__ == "__main__":
    sys.exit(main())
