"""Results of a bench: a table on the terminal, a JSON and a picture, and whether every bar is met."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmserve_sim.__about__ import __version__
from llmserve_sim.errors import MissingExtraError

__all__ = ["Result", "conclude", "draw"]


@dataclass(frozen=True, slots=True)
class Result:
    """One figure and the bar it is held to."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the bar is met; a figure without a bar is information."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def bar(self) -> str:
        """The bar in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def margin(self) -> float:
        """How many times better than the bar; 1 without one."""
        if self.at_least is not None:
            return self.value / self.at_least
        return 1.0 if self.at_most is None else self.at_most / max(self.value, 1e-9)


def conclude(results: Sequence[Result], *, out: Path | None, verdict: bool = True) -> int:
    """Print the results, write bench.json and bench.png into `out` if given, and return 1 if a bar is missed."""
    width = max(len(result.name) for result in results)
    for r in results:
        word = ("ok" if r.met else "MISSED") if verdict and r.bar else ""
        print(f"{r.name:<{width}}  {r.value:>12,.4g} {r.unit:<4} {r.bar:>8}  {word:<6} {r.note}".rstrip())
    if out is not None:
        content = {
            "version": __version__,
            "python": platform.python_version(),
            "results": [asdict(result) | {"met": result.met} for result in results],
        }
        (out / "bench.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        draw(results, out / "bench.png")
        print(f"wrote {out / 'bench.json'} and {out / 'bench.png'}")
    return int(verdict and not all(result.met for result in results))


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw each figure's margin over its bar (1 is the bar) into a PNG. Needs the extra `cli`."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("cli", "drawing") from error
    held = [result for result in results if result.bar][::-1]
    figure = Figure(figsize=(11.0, 0.42 * len(held) + 1.2), layout="constrained")
    axis = figure.subplots()
    colours = ["#009E73" if result.met else "#D55E00" for result in held]
    axis.barh([result.name for result in held], [result.margin for result in held], color=colours, height=0.6)
    for row, result in enumerate(held):
        text = f" {result.value:,.4g} {result.unit} (bar {result.bar})"
        axis.text(max(result.margin, 1.0), row, text, va="center", fontsize=8)
    axis.axvline(1.0, color="#333333", linewidth=1.0)
    axis.set_xscale("log")
    axis.set_xlim(right=axis.get_xlim()[1] * 12)
    axis.set_xlabel("times better than the bar (log scale; the line is the bar)", fontsize=9)
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.savefig(path, dpi=130)
