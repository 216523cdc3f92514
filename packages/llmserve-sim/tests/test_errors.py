"""Errors say what to do, and survive the way from a worker process to its parent."""

from __future__ import annotations

import pickle

import pytest

from llmserve_sim.errors import (
    EpisodeStateError,
    InvalidInputError,
    LLMServeError,
    MissingExtraError,
    UnknownTaskError,
)


@pytest.mark.parametrize(
    "error",
    [
        InvalidInputError("batch_cap", "must be in 1..512", got=0),
        InvalidInputError("batch_cap", "is required"),
        InvalidInputError("on_step", "must be a number", got=lambda: None),
        UnknownTaskError("task_id", "must be one of a, b", got="c"),
        EpisodeStateError("reset first"),
        MissingExtraError("fast", "the compiled kernel"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_pickles_with_its_message_and_its_fields(error: LLMServeError) -> None:
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    for name in ("field", "bound", "extra"):
        assert getattr(twin, name, None) == getattr(error, name, None)


def test_a_long_value_is_shortened_in_the_message() -> None:
    assert len(str(InvalidInputError("key", "is unknown", got="x" * 100_000))) < 200
    assert len(str(InvalidInputError("x" * 100_000, "unknown field"))) < 300
