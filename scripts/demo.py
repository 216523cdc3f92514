"""Replays an hour of production traffic on the default deployment, under two configurations.

The traffic is the recorded hour of Azure's conversation trace, if that file is there ($LLMSERVE_DATA, else
../shared/data beside the repository). Otherwise the script says so and uses a generator fitted to that hour. It
prints a table and draws demo.png.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from llmserve_sim import EpisodeLog, ServeAction, ServingEnv, load_task
from llmserve_sim.cli.render import summary_table
from llmserve_sim.plots import draw_comparison
from llmserve_sim.workload.replay import scenario_from_trace
from llmserve_sim.workload.scenario import Scenario
from llmserve_sim.workload.traces import read_trace

ROOT = Path(__file__).resolve().parents[1]
TRACE = Path(os.environ.get("LLMSERVE_DATA", ROOT.parent / "shared" / "data")) / "azure_conv_2023.csv"
SEED = 0
# No co-tenant and no prefix reuse: the recording has neither. Its longest request has 14,089 tokens.
TASK = load_task("azure_conversation").model_copy(
    update={"windows": 720, "max_len_tokens": 16_384, "cotenant": None, "prefix_cache": None}
)
CONFIGURATIONS = {
    "vLLM-like default": ServeAction(batch_cap=256, kv_budget_fraction=0.9),
    "tuned": ServeAction(batch_cap=256, kv_budget_fraction=0.5, speculation_depth=2, priority_routing=True),
}


def traffic(console: Console, rate_scale: float) -> tuple[str, Scenario | None]:
    """Return a description of the traffic, and the scenario that replays it (None: the fitted generator)."""
    if not TRACE.is_file():
        console.print(f"[yellow]No recorded traffic at {TRACE}[/]: drawing an hour from the generator fitted to it.")
        if rate_scale != 1.0:
            console.print("[yellow]--rate-scale only applies to recorded traffic and is not used.[/]")
        return "Generated hour, fitted to Azure's conversation traffic", None
    trace = read_trace(TRACE, rate_scale=rate_scale)
    console.print(
        f"Replaying {len(trace):,} recorded requests, {trace.duration_s / 60:.0f} minutes, from {TRACE.name}."
    )
    scale = "" if rate_scale == 1.0 else f" at {rate_scale:g} times its rate"
    return f"Recorded hour of Azure's conversation traffic{scale}", scenario_from_trace(trace, TASK, SEED)


def serve(name: str, action: ServeAction, scenario: Scenario | None, console: Console) -> EpisodeLog:
    """Serve the whole hour under one configuration."""
    env = ServingEnv(TASK)
    env.start(SEED, scenario=scenario)
    with console.status("loading the kernel (compiled once, on its first use)"):
        env.fork().step(action)
    started = time.perf_counter()
    windows = range(env.episode_length)
    for _ in track(windows, description=f"{name:<18}", transient=True, disable=not console.is_terminal):
        env.step(action)
    simulated = env.episode_length * env.state().window_s
    console.print(
        f"{name}: an hour simulated {simulated / (time.perf_counter() - started):,.0f} times as fast as it ran."
    )
    return env.episode_log()


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for demo.png")
    parser.add_argument("--rate-scale", type=float, default=1.0, help="replay the recording this many times as fast")
    arguments = parser.parse_args()
    console = Console()
    words, scenario = traffic(console, arguments.rate_scale)
    logs = {name: serve(name, action, scenario, console) for name, action in CONFIGURATIONS.items()}
    title = f"{words} on {TASK.deployment}"
    console.print(summary_table(logs, window_s=TASK.window_s, title=title))
    path = arguments.out / "demo.png"
    draw_comparison(logs, path, window_s=TASK.window_s, title=title)
    console.print(f"picture: {path}")
    console.print("Your own traffic (a CSV with the columns t_s,input,output, seconds and tokens):", highlight=False)
    for line in ("pip install './packages/llmserve-sim[fast,cli]'", "llmserve-sim run --trace requests.csv"):
        console.print(f"  {line}", markup=False, highlight=False, style="bold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
