"""The results as a table, a JSON file and a picture."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from benchmarks.load.soak import MAX_GROWTH, MAX_TAIL, Soak
from benchmarks.load.speed import Speed


def problems(speeds: list[Speed], soak: Soak | None) -> list[str]:
    """Return a sentence for every bar that was missed."""
    found = [
        f"{speed.client}: {speed.ratio:.2f} x the echo server's steps per second, less than {speed.bar}"
        for speed in speeds
        if speed.ratio < speed.bar
    ]
    return found + (soak.problems() if soak else [])


def table(speeds: list[Speed], soak: Soak | None) -> str:
    """Return the printed table: one line per bar, with the measurement and its bound."""
    lines = [
        f"{speed.client:<36} {speed.ratio:6.2f} x echo  (at least {speed.bar}; turns "
        f"{min(speed.ratios):.2f} to {max(speed.ratios):.2f}; {max(speed.ours):,.0f} beside {max(speed.echo):,.0f} steps/s)"
        for speed in speeds
    ]
    if soak and soak.steps:
        rate = len(soak.steps) / soak.seconds
        took = {percent: f"{soak.latency(percent) * 1e3:.0f} ms" for percent in (50, 99, 100)}
        done = (
            f"{len(soak.errors)} errors in {len(soak.steps):,} steps, {soak.episodes:,} episodes, {rate:,.0f} steps/s"
        )
        tail = f"(at most {MAX_TAIL:g}; p50 {took[50]}, p99 {took[99]}, longest {took[100]})"
        growth = f"(at most {MAX_GROWTH:.0%}; {soak.memory[-1][1] / 1e6:,.0f} MB at the end)"
        lines += [
            f"{f'{soak.sessions} sessions for {soak.seconds:.0f} s':<36} {done}",
            f"{'latency of a step':<36} {soak.tail:6.2f} x p50 is the p99  {tail}",
            f"{'memory after the warm-up':<36} {soak.growth:+6.1%}  {growth}",
            f"{'one session too many':<36} {soak.knocks.count('refused')} of {len(soak.knocks)} refused",
        ]
    return "\n".join(lines)


def write(folder: Path, speeds: list[Speed], soak: Soak | None) -> tuple[Path, Path]:
    """Write `load.json` and `load.png` into `folder` and return their paths."""
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "speed": [asdict(speed) | {"ratio": speed.ratio, "bar": speed.bar} for speed in speeds],
    }
    if soak and soak.steps:
        document["soak"] = {
            "sessions": soak.sessions,
            "seconds": soak.seconds,
            "steps": len(soak.steps),
            "episodes": soak.episodes,
            "errors": soak.errors,
            "latency_ms": {f"p{percent}": soak.latency(percent) * 1e3 for percent in (50, 90, 99, 100)},
            "tail": soak.tail,
            "memory_growth": soak.growth,
            "memory_bytes": soak.memory,
            "knocks": soak.knocks,
        }
    document["problems"] = problems(speeds, soak)
    page = folder / "load.json"
    page.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    picture = folder / "load.png"
    _draw(picture, speeds, soak)
    return page, picture


def _draw(path: Path, speeds: list[Speed], soak: Soak | None) -> None:
    mpl.use("Agg")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for position, speed in enumerate(speeds):
        left.scatter([position] * len(speed.ratios), speed.ratios, color="tab:blue", zorder=3)
        left.hlines(
            speed.bar, position - 0.3, position + 0.3, color="tab:red", label=None if position else "must reach"
        )
    left.set(title="steps/s beside the echo server", ylabel="ratio, per turn", ylim=(0, None), xlim=(-0.5, 2.5))
    left.set_xticks(range(len(speeds)), [speed.client for speed in speeds])
    if speeds:
        left.legend()
    if soak and soak.steps:
        every = max(1, len(soak.steps) // 20_000)
        middle.scatter(*zip(*soak.steps[::every], strict=True), s=1, alpha=0.2, color="tab:blue")
        middle.axhline(soak.latency(50), color="black", lw=1, label="p50")
        middle.axhline(soak.latency(99), color="tab:orange", lw=1, label="p99")
        middle.set(title=f"a step, {soak.sessions} sessions at once", xlabel="s", ylabel="latency, s", ylim=(0, None))
        middle.legend()
        right.plot([at for at, _ in soak.memory], [size / 1e6 for _, size in soak.memory])
        right.set(title="the server's memory", xlabel="s", ylabel="resident MB", ylim=(0, None))
    figure.savefig(path, dpi=110)
    plt.close(figure)
