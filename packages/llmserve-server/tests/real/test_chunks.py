"""How a stream's bytes become events, however they are cut."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmserve_server.backends.real.answers import Answer
from llmserve_server.backends.real.chunks import EventDecoder, EventError, MalformedError, read_chunk

STREAM = (
    'data: {"a": "é"}\n\n: a comment\n\nevent: x\r\ndata:two\r\ndata: lines\r\n\r\nid: 7\n\ndata: [DONE]\n\n'.encode()
)
EXPECTED = ['{"a": "é"}', "two\nlines", "[DONE]"]


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_where_the_stream_is_cut(cuts: list[int]) -> None:
    """Not even within a character or a line end."""
    edges = [0, *sorted(cuts), len(STREAM)]
    events = EventDecoder()
    found = [data for a, b in pairwise(edges) for data in events.feed(STREAM[a:b])]
    assert found == EXPECTED


def test_an_event_without_end_is_not_collected_for_ever() -> None:
    """A megabyte without an end is no chunk; many small ones in a row may be longer than that."""
    events = EventDecoder()
    for _ in range(40_000):
        assert len(list(events.feed(b"data: " + b"x" * 50 + b"\n\n"))) == 1
    endless = (events.feed(b"data: " + b"x" * 4096) for _ in range(300))
    with pytest.raises(MalformedError):
        list(chain.from_iterable(endless))


@settings(deadline=None)
@given(
    data=st.text(max_size=200)
    | st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists).map(str)
)
def test_nonsense_is_named_as_such(data: str) -> None:
    """Whatever an event holds, it is read, or refused as one of two things."""
    answer = Answer()
    with suppress(MalformedError, EventError):
        read_chunk(data, answer)
    assert answer.times == []


def test_deep_nesting_is_nonsense() -> None:
    """It does not exhaust the stack."""
    with pytest.raises(MalformedError):
        read_chunk("[" * 100_000, Answer())
