"""The page's texts and numbers as HTML: task card, status strip, scoreboard, grades, errors.

All values from outside are escaped here. The functions take logs and reports, no sessions and no Gradio components.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from llmserve_server.ui.chart import compact
from llmserve_server.ui.controller import Graded
from llmserve_server.ui.panels import Run
from llmserve_sim.hardware import get_deployment
from llmserve_sim.schema import GradeReport, ReferenceScores
from llmserve_sim.tasks import Task

__all__ = [
    "autopilot_progress",
    "autopilot_stopped",
    "branch_gain",
    "grades",
    "header",
    "notice",
    "progress",
    "remark",
    "scoreboard",
    "status",
    "task_card",
]

_COMPONENTS: Final = {
    "throughput": "throughput",
    "slo": "SLO",
    "memory": "memory pressure (less is better)",
    "cost": "cost (less is better)",
    "quality": "quality",
}


def header() -> str:
    """Return the heading: what the page is, in one line."""
    return (
        '<header class="ls-header"><h1>LLMServeEnv</h1><p>Keep a small LLM fleet fast, within memory and cheap: '
        "six knobs, one window at a time, or let an agent drive.</p></header>"
    )


def notice(text: str) -> str:
    """Return an error message that screen readers announce."""
    return f'<p class="ls-notice" role="alert">{escape(text)}</p>' if text else ""


def remark(text: str) -> str:
    """Return a remark."""
    return f'<p class="ls-quiet" aria-live="polite">{escape(text)}</p>' if text else ""


def autopilot_progress(agent: str, done: int, of: int) -> str:
    """Return the progress of an agent."""
    text = f"{agent} has driven to the end." if done >= of else f"{agent} drives: window {done} of {of}."
    return remark(text)


def autopilot_stopped(agent: str, done: int, of: int) -> str:
    """Return the notice that a reload of the page stopped an agent."""
    if done >= of:
        return autopilot_progress(agent, done, of)
    return remark(
        f"{agent} was let go after window {done} of {of}, when this page was loaded again: "
        "Start autopilot hands it the wheel back."
    )


def branch_gain(own: Run, branch: Run) -> str:
    """Return the reward of a branch compared with the original, over the windows that differ."""
    reached = min(len(own.log.steps), len(branch.log.steps))
    gain = _reward(branch, reached) - _reward(own, reached)
    windows = reached - branch.since
    better = "more" if gain >= 0.0 else "less"
    return f"Over the {windows} windows since, the branch earned {abs(gain):.2f} {better} reward than you did."


def task_card(task: Task) -> str:
    """Return the description of a task: its goal, deployment and targets."""
    deployment = get_deployment(task.deployment)
    fleet = (
        f"{deployment.gpus} × {deployment.gpu.name}, {deployment.model.name}, ${deployment.usd_per_hour:.2f} an hour"
    )
    standard, priority = task.slo.standard, task.slo.priority
    rows = (
        ("fleet", f"{fleet}; {deployment.replicas} replica{'s' if deployment.replicas > 1 else ''}"),
        ("episode", f"{task.windows} windows of {task.window_s:g} s"),
        (
            "first token",
            f"{standard.ttft_s:g} s, priority {priority.ttft_s:g} s (+1 s per {task.slo.ttft_prompt_tokens_per_s:,.0f} prompt tokens)",
        ),
        ("each token", f"{standard.tpot_ms:g} ms, priority {priority.tpot_ms:g} ms"),
        ("test seeds", f"{task.seeds.test.start:,} to {task.seeds.test.stop - 1:,}"),
    )
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows)
    return (
        f'<div class="ls-task"><p><span class="ls-badge {task.difficulty}">{task.difficulty}</span> '
        f"{escape(task.description)}</p><dl>{listed}</dl></div>"
    )


def status(task: Task, runs: Sequence[Run]) -> str:
    """Return the state of the visitor's episode: window, queue, compliance, reward; an invitation if there is none."""
    if not runs:
        return (
            '<div class="ls-status empty"><p>Nothing runs yet. <b>Start an episode</b>, set the knobs and step, '
            "or hand the wheel to an agent.</p></div>"
        )
    log = runs[0].log
    steps = len(log.steps)
    last = log.steps[-1].observation if steps else log.initial_observation
    total = sum(step.observation.reward for step in log.steps)
    compliance = [step.observation.slo_compliance_rate for step in log.steps]
    split = task.seeds.split_of(log.seed)
    figures = (
        ("window", f"{steps}<small> of {task.windows}</small>"),
        ("reward", f"{last.reward:+.3f}" if steps else "–"),
        ("reward so far", f"{total:+.2f}" if steps else "–"),
        ("SLO met", f"{100 * sum(compliance) / steps:.0f}<small> %</small>" if steps else "–"),
        ("waiting", compact(last.queue_depth)),
    )
    shown = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in figures)
    state = "ended" if last.done else "running" if steps else "ready"
    return (
        f'<div class="ls-status"><p><b>{escape(task.name)}</b> · seed <code>{log.seed}</code>'
        f"{f' ({split})' if split else ''} · {state}</p><dl>{shown}</dl>{progress(steps, task.windows, 'episode')}</div>"
    )


def progress(done: int, of: int, name: str) -> str:
    """Return a progress bar."""
    return f'<progress class="ls-progress" max="{of}" value="{done}" aria-label="{escape(name)}: {done} of {of}"></progress>'


def scoreboard(runs: Sequence[Run], task: Task) -> str:
    """Return a table of the runs over the windows that all of them have, so that the numbers are comparable."""
    if len(runs) < 2 or not runs[0].log.steps:
        return ""
    common = min(len(run.log.steps) for run in runs)
    own = _reward(runs[0], common)
    rows = []
    for run in runs:
        seen = [step.observation for step in run.log.steps[:common]]
        reward = _reward(run, common)
        difference = (
            "" if run is runs[0] else f'<td class="{"up" if reward > own else "down"}">{reward - own:+.2f}</td>'
        )
        rows.append(
            f'<tr><th scope="row" class="ls-key {run.style}"><i></i>{escape(run.name)}</th><td>{reward:+.2f}</td>'
            f"{difference or '<td></td>'}<td>{100 * sum(o.slo_compliance_rate for o in seen) / common:.0f} %</td>"
            f"<td>{compact(max(o.queue_depth for o in seen))}</td></tr>"
        )
    return (
        f'<table class="ls-table"><caption>Over the first {common} of {task.windows} windows, the same traffic</caption>'
        '<thead><tr><th scope="col">run</th><th scope="col">reward</th><th scope="col">to yours</th>'
        '<th scope="col">SLO</th><th scope="col">longest queue</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _reward(run: Run, windows: int) -> float:
    return sum(step.observation.reward for step in run.log.steps[:windows])


def grades(graded: Sequence[Graded]) -> str:
    """Return the grade of the visitor's episode in detail, with the scores of the other runs."""
    if not graded:
        return ""
    own, others = graded[0].report, graded[1:]
    beside = "".join(
        f'<li class="ls-key {other.style}"><i></i>{escape(other.name)} <b>{_score(other.report)}</b></li>'
        for other in others
    )
    return (
        f'<div class="ls-grade"><p class="ls-score"><b>{_score(own)}</b><span>{_verdict(own)}</span></p>'
        f"{_ruler(graded) if own.references else ''}{f'<ul class=ls-names>{beside}</ul>' if beside else ''}"
        f"{_components(own)}{_references(own.references) if own.references else ''}</div>"
    )


def _score(report: GradeReport) -> str:
    return "no score" if report.score is None else f"{report.score:.3f}"


def _verdict(report: GradeReport) -> str:
    verified = {True: "verified: the replay agrees", False: "not verified", None: "cannot be replayed"}[report.verified]
    length = "complete" if report.complete else f"unfinished: {report.steps} of {report.episode_length} windows"
    reason = f"; {report.reason}" if report.reason else ""
    badge = "ok" if report.verified else "warn"
    return (
        f'<em class="ls-badge {badge}">{verified}</em> {length}, mean reward {report.mean_reward:+.3f}{escape(reason)}'
    )


def _ruler(graded: Sequence[Graded]) -> str:
    """Return the scores on the scale from random (0) over the best fixed configuration (0.5) to the clairvoyant (1)."""
    marks = "".join(
        f'<i class="{item.style}" style="left:{100 * item.report.score:.1f}%" title="{escape(item.name)}"></i>'
        for item in graded
        if item.report.score is not None
    )
    return (
        f'<div class="ls-ruler" role="img" aria-label="Score scale: 0 random, 0.5 best fixed, 1 clairvoyant"><div>{marks}</div>'
        "<p><span>0 random</span><span>0.5 best fixed</span><span>1 clairvoyant</span></p></div>"
    )


def _components(report: GradeReport) -> str:
    rows = "".join(
        f'<div><dt>{_COMPONENTS.get(name, escape(name))}</dt><dd><meter min="0" max="1" value="{value:.4f}" '
        f'aria-label="{escape(name)}"></meter><b>{value:.3f}</b></dd></div>'
        for name, value in report.components.items()
    )
    return f'<dl class="ls-components">{rows}</dl>'


def _references(references: ReferenceScores) -> str:
    named = (
        ("random", references.random),
        ("simple rules", references.heuristic),
        ("best fixed", references.best_static),
        ("PPO", references.ppo),
        ("clairvoyant", references.clairvoyant),
    )
    listed = " · ".join(f"{name} {value:+.3f}" for name, value in named if value is not None)
    provisional = " (provisional)" if references.provisional else ""
    return f'<p class="ls-quiet">Mean reward per window of the references{provisional}: {listed}</p>'
