"""Errors tell the same in the process that hears of them as in the one where they arose."""

from __future__ import annotations

import pickle

import pytest

from llmserve_agents import errors
from llmserve_agents.errors import (
    AgentError,
    EndpointError,
    MissingExtraError,
    MissingKeyError,
    MissingWeightsError,
    RequestCapError,
    WeightsMismatchError,
)

RAISED = [
    AgentError("anything"),
    MissingKeyError("set OPENAI_API_KEY"),
    MissingExtraError("train", "llmserve train"),
    MissingWeightsError("looked here and there"),
    WeightsMismatchError("observation", ("extended", 40), 23),
    EndpointError("refused", status=401),
    EndpointError("failed"),
    RequestCapError("at most 10"),
]


@pytest.mark.parametrize("raised", RAISED, ids=lambda raised: type(raised).__name__)
def test_an_error_survives_the_way_between_processes(raised: AgentError) -> None:
    """With its kind, its words and what it carries beside them."""
    again = pickle.loads(pickle.dumps(raised))  # noqa: S301 - its own
    assert (type(again), str(again), vars(again)) == (type(raised), str(raised), vars(raised))


def test_every_error_is_tried() -> None:
    """A kind that is added is added here."""
    assert {type(raised).__name__ for raised in RAISED} == set(errors.__all__)
