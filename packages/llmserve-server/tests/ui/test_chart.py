"""The charts: numbers in, one well-formed SVG out."""

from __future__ import annotations

import json
import re
from html import unescape
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve_server.ui.chart import Chart, Line, Target, compact, draw, ticks

VALUES = st.lists(st.none() | st.floats(-1e9, 1e9, allow_nan=False), max_size=30)


def parsed(html: str) -> ET.Element:
    """The figure as a tree; fails where it is not well-formed. The text is this project's own."""
    return ET.fromstring(html)  # noqa: S314


def paths(html: str, style: str) -> list[str]:
    """What the lines of a style are drawn as."""
    return [path.get("d", "") for path in parsed(html).iter("path") if style in path.get("class", "")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.1234, "0.12"),
        (-0.5, "-0.50"),
        (9.87, "9.87"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1000, "1k"),
        (1234, "1.2k"),
        (99_999, "100k"),
    ],
)
def test_numbers_are_written_with_three_figures_at_most(value: float | None, text: str) -> None:
    assert compact(value) == text


def test_ticks_are_round_numbers_within_the_scale() -> None:
    assert ticks(0, 120, 4) == (0, 50, 100)
    assert ticks(0, 1, 3) == (0, 0.5, 1)
    assert ticks(-0.2, 0.9, 3) == (0, 0.5)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), about=st.integers(1, 8))
def test_ticks_are_few_and_inside(low: float, span: float, about: int) -> None:
    marks = ticks(low, low + span, about)
    assert len(marks) <= about + 1
    assert all(low - span * 1e-6 <= mark <= low + span * (1 + 1e-6) for mark in marks)


@given(first=VALUES, kind=st.sampled_from(["lines", "areas", "bars"]), log=st.booleans())
def test_any_numbers_give_a_well_formed_figure_inside_its_frame(
    first: list[float | None], kind: str, log: bool
) -> None:
    chart = Chart("t", "u", [Line("a", first), Line("b", first[::-1], "second")], kind=kind, log=log)  # type: ignore[arg-type]
    tree = parsed(draw(chart, 30))
    for path in tree.iter("path"):
        numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", path.get("d", ""))]
        assert all(-1 <= n <= 361 for n in numbers)


def test_a_gap_breaks_the_line() -> None:
    (path,) = paths(draw(Chart("t", "u", [Line("a", [1.0, 2.0, None, 3.0, 4.0])]), 5), "main")
    assert path.count("M") == 2


def test_a_single_window_is_visible() -> None:
    (path,) = paths(draw(Chart("t", "u", [Line("a", [1.0])]), 5), "main")
    assert "L" in path


def test_zero_is_a_gap_on_a_log_scale_and_not_minus_infinity() -> None:
    (path,) = paths(draw(Chart("t", "u", [Line("a", [0.0, 10.0, 100.0])], log=True), 5), "main")
    assert path.count("M") == 1


def test_without_data_there_is_still_a_frame() -> None:
    tree = parsed(draw(Chart("t", "u", [Line("a", [])], targets=[Target("limit", 5.0)]), 10))
    assert any("limit" in (text.text or "") for text in tree.iter("text"))


def test_targets_stay_inside_the_scale_and_their_names_apart() -> None:
    chart = Chart("t", "u", [Line("a", [0.1])], targets=[Target("one", 10.0), Target("two", 10.2)])
    texts = [text for text in parsed(draw(chart, 5)).iter("text") if text.get("class") == "ls-target"]
    first, second = (float(text.get("y", "")) for text in texts)
    assert abs(first - second) > 9


def test_who_cannot_see_hears_the_last_values_and_the_targets() -> None:
    chart = Chart("TTFT", "ms", [Line("p99", [5.0, 812.0])], targets=[Target("target", 3000)])
    label = parsed(draw(chart, 5)).find("svg")
    assert label is not None
    assert label.get("aria-label") == "TTFT (ms), last window: p99 812; target 3k"


def test_another_runs_heading_value_is_that_of_the_same_window() -> None:
    chart = Chart("t", "u", [Line("own", [1.0, 2.0])], [Line("rival", [3.0, 4.0, 5.0], "rival", named=False)])
    keys = re.findall(r"<b data-last=\"(.*?)\">", draw(chart, 5))
    assert keys == ["2", "4"]


def test_names_are_escaped() -> None:
    html = draw(Chart("<i>", '"&', [Line("<b>", [1.0])]), 5)
    assert "<i>:" not in html
    assert "<b>1" not in html
    parsed(html)


def test_the_values_travel_with_the_figure_for_the_pointer() -> None:
    html = draw(Chart("t", "u", [Line("a", [1.23456, None])]), 5)
    found = re.search(r'data-values="(.*?)"', html)
    assert found is not None
    assert json.loads(unescape(found.group(1))) == [[1.235, None]]
