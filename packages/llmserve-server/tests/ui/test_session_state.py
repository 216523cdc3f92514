"""What a browser stores about a visitor, and what is read back from it."""

from __future__ import annotations

import pytest

from llmserve_server.ui.session_state import SessionState


def test_a_state_survives_the_way_through_the_browser() -> None:
    state = SessionState(
        main="a",
        rival="b",
        rival_name="static",
        branch="c",
        branch_name="branch at 3",
        branch_window=3,
        driver="heuristic",
        pace="watch",
    )
    assert SessionState.from_json(state.to_json()) == state
    assert state.sessions == ("a", "b", "c")


@pytest.mark.parametrize(
    "kept",
    [None, [], "x", {"main": 7}, {"main": "x" * 201}, {"main": ["a"]}, {"branch_window": True}, {"driver": 1}],
)
def test_what_a_browser_garbled_is_an_empty_state(kept: object) -> None:
    assert SessionState.from_json(kept) == SessionState()


def test_what_browsers_have_stored_can_still_be_read() -> None:
    """The keys are those of every page so far, whatever the class is called."""
    stored = {"main": "a", "rival": None, "rival_name": "", "branch": None, "branch_name": "", "branch_window": 0}
    state = SessionState(main="a", driver="ppo", pace="brisk")
    assert SessionState.from_json(stored | {"driver": "ppo", "pace": "brisk"}) == state
    assert SessionState.from_json(stored) == SessionState(main="a")
