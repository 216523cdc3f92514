"""The page in a browser: everything that a person can do at /web, done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

Visit = Callable[..., "Page"]

KNOBS = (
    "batch_cap",
    "kv_budget_fraction",
    "speculation_depth",
    "quantization_tier",
    "prefill_decode_split",
    "priority_routing",
)


def start(page: Page, task: str = "Static workload", seed: str = "2000001") -> None:
    """Pick a task and a seed and start."""
    page.click("#ls-task input")
    page.click(f"li:has-text('{task}')")
    page.fill("#ls-seed :is(input, textarea)", seed)
    page.click("#ls-start")
    page.wait_for_selector(f"#ls-status:has-text('{task}'):has-text('{seed}'):has-text('ready')")


def until(page: Page, window: int) -> None:
    """Wait until the own episode has reached a window."""
    page.wait_for_function(
        "window => Number(document.querySelector('#ls-status progress')?.value ?? -1) >= window", arg=window
    )


def window_of(page: Page) -> int:
    """The window that the own episode has reached."""
    return int(page.get_attribute("#ls-status progress", "value") or -1)


def choose(page: Page, name: str, value: str) -> None:
    """Pick from a drop-down list."""
    page.click(f"#ls-{name} input")
    page.click(f"ul[role=listbox] li[aria-label='{value}']")


def slide(page: Page, name: str, value: str) -> None:
    """Type a slider's value."""
    page.fill(f"#ls-{name} input[type=number]", value)
    page.press(f"#ls-{name} input[type=number]", "Tab")


def in_force(page: Page) -> list[str]:
    """The configuration of the last window, as the lanes of actions write it."""
    return page.locator(".ls-lane > b").all_inner_texts()


def take(page: Page, path: Path, *, full_page: bool = True) -> None:
    """Take a picture of the page, scrolled to its top: all of it, or the part that fits the window."""
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(2, 2)
    page.screenshot(path=path, full_page=full_page)


def test_our_tab_comes_first_and_openenvs_works_beside_it(visit: Visit, expect: Any) -> None:
    page = visit()
    tabs = page.get_by_role("tab")
    expect(tabs).to_have_text(["Serve", "Playground"])
    expect(tabs.first).to_have_attribute("aria-selected", "true")
    tabs.nth(1).click()
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(page.get_by_text("new episode")).to_be_visible()
    page.get_by_role("button", name="Run step").click()
    expect(page.locator(".oe-stats").last).to_contain_text("step1")  # the reset's may still be there
    expect(page.locator(".oe-error")).to_have_count(0)


def test_a_task_explains_itself_before_it_is_started(visit: Visit, expect: Any) -> None:
    page = visit()
    page.click("#ls-task input")
    page.click("li:has-text('Adversarial')")
    card = page.locator(".ls-task")
    expect(card).to_contain_text("Long surges bring mega prompts")
    for words in ("A100", "120 windows of 5 s", "priority 0.8 s", "28 ms"):
        expect(card).to_contain_text(words)


def test_every_knob_can_be_set_and_is_applied(visit: Visit, expect: Any) -> None:
    page = visit()
    start(page)
    page.click("#ls-step")
    until(page, 1)
    assert in_force(page) == ["32", "1", "0", "FP16", "off", "off"]
    slide(page, "batch_cap", "48")
    slide(page, "kv_budget_fraction", "0.5")
    slide(page, "speculation_depth", "3")
    page.click("#ls-quantization_tier label:has-text('INT4')")
    page.check("#ls-prefill_decode_split input")
    page.check("#ls-priority_routing input")
    expect(page.get_by_text("Loading INT4 stalls")).to_be_visible()
    page.click("#ls-step")
    until(page, 2)
    assert in_force(page) == ["48", "0.5", "3", "INT4", "on", "on"]
    page.click("#ls-quantization_tier label:has-text('FP16')")
    page.click("#ls-in-force")
    expect(page.locator("#ls-quantization_tier input[value=INT4]")).to_be_checked()


def test_every_knob_names_its_meaning_cost_and_bounds(visit: Visit, expect: Any) -> None:
    page = visit()
    for name, words in zip(KNOBS, ("1..512", "0.1..1.0", "0..8", "stalls for seconds", "0.5 s", "free"), strict=True):
        expect(page.locator(f"#ls-{name}")).to_contain_text(words)
    for name, low, high in (
        ("batch_cap", "1", "512"),
        ("kv_budget_fraction", "0.1", "1"),
        ("speculation_depth", "0", "8"),
    ):
        bounds = page.locator(f"#ls-{name} input[type=range]")
        assert (bounds.get_attribute("min"), bounds.get_attribute("max")) == (low, high)


def test_a_number_out_of_bounds_is_shown_at_its_bound_before_it_is_used(visit: Visit) -> None:
    page = visit()
    start(page)
    page.fill("#ls-batch_cap input[type=number]", "9999")
    page.click("#ls-step")
    until(page, 1)
    assert page.input_value("#ls-batch_cap input[type=number]") == in_force(page)[0] == "512"


def test_several_windows_are_one_press(visit: Visit) -> None:
    page = visit()
    start(page)
    page.fill("#ls-count input", "7")
    page.click("#ls-step-several")
    until(page, 7)
    assert window_of(page) == 7


def test_a_deed_at_the_wrong_time_is_answered_by_a_sentence(visit: Visit, expect: Any) -> None:
    page = visit()
    page.click("#ls-step")
    expect(page.locator("#ls-step-notice [role=alert]")).to_have_text(
        "There is no episode yet: pick a task and start one."
    )
    start(page)
    for count in ("", "-3"):
        page.fill("#ls-count input", count)
        page.click("#ls-step-several")
        expect(page.locator("#ls-step-notice [role=alert]")).to_contain_text("must be 1 to 1000")
    page.fill("#ls-seed :is(input, textarea)", "minus one")
    page.click("#ls-start")
    expect(page.get_by_role("alert").first).to_contain_text("whole number")
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_an_agent_drives_until_it_is_stopped_and_then_to_the_end(visit: Visit, expect: Any) -> None:
    page = visit()
    start(page)
    choose(page, "agent", "heuristic")
    page.click("#ls-go")
    expect(page.locator("#ls-step")).to_be_disabled()
    until(page, 3)
    expect(page.locator("#ls-step-notice")).to_contain_text("heuristic drives: window")
    page.click("#ls-stop")
    expect(page.locator("#ls-step-notice")).to_contain_text("the wheel is yours")
    expect(page.locator("#ls-step")).to_be_enabled()
    stopped = window_of(page)
    page.wait_for_timeout(1500)
    assert window_of(page) == stopped < 120
    choose(page, "agent", "threshold")
    choose(page, "pace", "at once")
    page.click("#ls-go")
    until(page, 120)
    expect(page.locator("#ls-status")).to_contain_text("ended")
    expect(page.locator("#ls-step-notice")).to_contain_text("threshold has driven to the end")
    page.click("#ls-step")
    expect(page.locator("#ls-step-notice [role=alert]")).to_contain_text("ended after 120 windows")


def test_another_episode_may_be_started_while_an_agent_drives(visit: Visit, expect: Any) -> None:
    page = visit()
    start(page)
    page.click("#ls-go")
    until(page, 2)
    page.fill("#ls-seed :is(input, textarea)", "no seed")
    page.click("#ls-start")
    expect(page.get_by_role("alert").first).to_contain_text("whole number")
    expect(page.locator("#ls-step")).to_be_enabled()
    page.click("#ls-go")
    until(page, window_of(page) + 2)
    start(page, "Bursty workload", "35")
    expect(page.locator("#ls-step")).to_be_enabled()
    page.wait_for_timeout(1000)
    assert window_of(page) == 0


def test_a_second_agent_is_drawn_over_the_same_traffic(visit: Visit, expect: Any) -> None:
    page = visit()
    start(page)
    page.click("#ls-step-several")
    until(page, 10)
    choose(page, "rival", "static")
    page.click("#ls-compare")
    expect(page.locator("#ls-board tbody tr")).to_have_count(2)
    expect(page.locator("#ls-board")).to_contain_text("first 10 of 120 windows")
    assert page.locator(".ls-plot path.rival").count() >= 6


def test_a_branch_is_drawn_beside_the_original_and_can_be_gone_on_in(visit: Visit, expect: Any) -> None:
    page = visit()
    start(page)
    page.click("#ls-step-several")
    until(page, 10)
    slide(page, "batch_cap", "4")
    slide(page, "since", "6")
    page.click("#ls-fork")
    expect(page.locator("#ls-branch")).to_contain_text("Over the 4 windows since, the branch earned")
    assert page.locator(".ls-plot path.branch").count() >= 6
    assert in_force(page)[0] == "32"
    page.click("#ls-adopt")
    page.wait_for_function("document.querySelectorAll('.ls-plot path.branch').length === 0")
    assert in_force(page)[0] == "4"


def test_an_episode_is_graded_and_its_log_downloaded(visit: Visit, expect: Any) -> None:
    page = visit()
    start(page)
    choose(page, "pace", "at once")
    page.click("#ls-go")
    until(page, 120)
    page.click("#ls-judge")
    report = page.locator("#ls-report")
    expect(report).to_contain_text("verified: the replay agrees")
    expect(report).to_contain_text("complete")
    assert 0.0 <= float(report.locator(".ls-score > b").inner_text()) <= 1.0
    expect(report.locator("meter")).to_have_count(5)
    with page.expect_download() as download:
        page.click("#ls-save")
    assert download.value.suggested_filename == "llmserve-static_workload-2000001-120.json"
    log = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert (log["task_id"], log["seed"], len(log["steps"])) == ("static_workload", 2000001, 120)


def test_two_visitors_at_once_have_an_episode_each(visit: Visit) -> None:
    first, second = visit(), visit()
    start(first, "Static workload", "11")
    start(second, "Bursty workload", "22")
    first.click("#ls-go")
    second.click("#ls-step")
    until(second, 1)
    until(first, 4)
    first.click("#ls-stop")
    assert window_of(second) == 1
    assert "Bursty" in second.inner_text("#ls-status")
    assert "Static" in first.inner_text("#ls-status")


def test_a_reload_goes_on_where_the_visitor_was(visit: Visit) -> None:
    page = visit()
    start(page, "Bursty workload", "33")
    page.click("#ls-step-several")
    until(page, 10)
    page.reload()
    until(page, 10)
    assert "33" in page.inner_text("#ls-status")
    page.click("#ls-step")
    until(page, 11)


def test_a_reload_says_where_it_let_the_agent_go_and_who_it_was(visit: Visit, expect: Any) -> None:
    page = visit(calm=False)  # Gradio's script complains about the stream that a reload cuts off
    start(page, "Bursty workload", "34")
    choose(page, "agent", "threshold")
    choose(page, "pace", "brisk")
    page.click("#ls-go")
    until(page, 8)
    page.reload()
    note = page.locator("#ls-step-notice")
    expect(note).to_contain_text("threshold was let go after window")
    expect(page.locator("#ls-step")).to_be_enabled()
    left = window_of(page)
    expect(note).to_contain_text(f"after window {left} of 120")
    page.wait_for_timeout(1500)
    assert window_of(page) == left
    page.click("#ls-go")  # by the agent and at the pace that were chosen before
    expect(note).to_contain_text("threshold drives: window")
    until(page, left + 4)
    page.click("#ls-stop")
    expect(note).to_contain_text("the wheel is yours")
    page.reload()
    until(page, left + 4)
    expect(note).not_to_contain_text("was let go")


def test_the_window_under_the_pointer_is_read_in_every_chart(visit: Visit, expect: Any) -> None:
    page = visit()
    start(page)
    page.click("#ls-step-several")
    until(page, 10)
    rewards = page.locator(".ls-plot").nth(9).locator(".ls-key b")
    last = rewards.first.inner_text()
    page.locator(".ls-plot").first.locator("svg").hover(position={"x": 48, "y": 60})
    expect(page.locator(".ls-cursor.on")).to_have_count(10)
    assert rewards.first.inner_text() != last
    page.mouse.move(5, 5)
    expect(page.locator(".ls-cursor.on")).to_have_count(0)
    assert rewards.first.inner_text() == last


def test_every_control_has_a_name_and_the_keyboard_reaches_it(visit: Visit, expect: Any) -> None:
    page = visit()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('.ls-page :is(input, button, textarea)')]
        .filter(e => e.offsetParent && !(e.labels?.length || e.getAttribute('aria-label') || e.innerText.trim()))
        .map(e => e.outerHTML)"""
    )
    assert nameless == []
    page.focus("#ls-seed :is(input, textarea)")
    page.keyboard.type("44")
    page.keyboard.press("Enter")
    expect(page.locator("#ls-status")).to_contain_text("44")
    page.focus("#ls-step")
    page.keyboard.press("Enter")
    until(page, 1)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_legible_at_this_width(visit: Visit, artifacts: Path, width: int, dark: bool) -> None:
    page = visit(width=width, height=900 if width > 500 else 844, dark=dark)
    name = f"page-{width}-{'dark' if dark else 'light'}"
    take(page, artifacts / f"{name}-empty.png")
    start(page, "Adversarial multi-tenant", "2000000")
    choose(page, "pace", "at once")
    page.fill("#ls-count input", "30")
    page.click("#ls-step-several")
    until(page, 30)
    take(page, artifacts / f"{name}-stepped.png")
    page.click("#ls-go")
    until(page, 120)
    choose(page, "rival", "static")
    page.click("#ls-compare")
    page.wait_for_selector("#ls-board table")
    slide(page, "since", "60")
    page.click("#ls-fork")
    page.wait_for_selector("#ls-branch p")
    page.click("#ls-judge")
    page.wait_for_selector("#ls-report .ls-grade")
    take(page, artifacts / f"{name}-full.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('.ls-plot text')].map(e => e.getBoundingClientRect().height))"""
    )
    assert smallest >= 9, "the smallest letters of a chart, px"


def test_an_episode_of_the_shipped_policy_is_the_readmes_picture(visit: Visit, artifacts: Path) -> None:
    page = visit(height=852)  # ends below a row of charts
    start(page, "Adversarial multi-tenant", "2000000")
    choose(page, "agent", "ppo")
    choose(page, "pace", "at once")
    page.click("#ls-go")
    until(page, 120)
    choose(page, "rival", "static")
    page.click("#ls-compare")
    page.wait_for_selector("#ls-board table")
    take(page, artifacts / "page.png", full_page=False)


def test_a_page_left_open_survives_the_servers_crash(visit: Visit, make_server: Callable[[], Any]) -> None:
    server = make_server()
    page = visit(server.url, calm=False)
    start(page, "Static workload", "55")
    page.click("#ls-step-several")
    until(page, 10)
    server.kill()
    server.start()
    page.reload()
    until(page, 10)
    page.click("#ls-step")
    until(page, 11)
