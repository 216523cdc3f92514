"""One account of places: an address has its share, over every transport, and the idle make room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, get_args

import pytest

from llmserve_server.errors import AtCapacity
from llmserve_server.sessions.registry import SessionRegistry
from llmserve_server.sessions.slots import Transport
from llmserve_sim.schema import ServeAction

MakeRegistry = Callable[..., SessionRegistry]


class Clock(Protocol):
    """The fixture's clock."""

    now: float


def _took(registry: SessionRegistry, address: str, most: int = 100) -> int:
    """Return how many sessions an address gets that keeps beginning new ones."""
    for number in range(most):
        try:
            registry.reset(seed=number, address=address)
        except AtCapacity:
            return number
    return most


def test_an_address_at_its_share_is_refused_and_the_others_are_not(make_registry: MakeRegistry, clock: Clock) -> None:
    registry = make_registry(max_concurrent_envs=4, max_sessions_per_address=2, yield_after_s=60)
    first = registry.reset(seed=1, address="a").session_id
    clock.now += 10
    registry.fork(first, address="a")
    for beyond in (lambda: registry.reset(seed=1, address="a"), lambda: registry.fork(first, address="a")):
        with pytest.raises(
            AtCapacity, match=r"2 sessions of this address .* LLMSERVE_MAX_SESSIONS_PER_ADDRESS"
        ) as told:
            beyond()
        assert told.value.retry_after_s == 60
    registry.reset(seed=1, address="b")
    registry.step(first, ServeAction())
    registry.reset(seed=2, address="a", session_id=first)  # no new session
    registry.reset(seed=1)  # this machine has no share
    with pytest.raises(AtCapacity, match="all 4 sessions"):
        registry.reset(seed=1, address="b")
    assert registry.stats().refused == 3


@pytest.mark.parametrize(("capacity", "share"), [(64, 16), (8, 2), (3, 1), (1, 1)])
def test_by_default_an_address_has_a_quarter_of_the_places(
    make_registry: MakeRegistry, capacity: int, share: int
) -> None:
    registry = make_registry(max_concurrent_envs=capacity)
    assert _took(registry, "a") == share
    assert _took(registry, "b") == min(share, capacity - share)


def test_this_machine_may_have_every_place(make_registry: MakeRegistry) -> None:
    registry = make_registry(max_concurrent_envs=8)
    for number in range(8):
        registry.reset(seed=number)
    assert registry.stats().live == 8


def test_the_share_is_one_over_every_transport(make_registry: MakeRegistry) -> None:
    registry = make_registry(max_concurrent_envs=16)
    transports: tuple[Any, ...] = get_args(Transport)
    assert len(transports) == 4
    for transport in transports:
        registry.reset(seed=1, address="a", transport=transport)
    for transport in transports:
        with pytest.raises(AtCapacity):
            registry.reset(seed=1, address="a", transport=transport)
    assert {session.transport for session in registry.open_sessions()} == set(transports)


def test_an_address_at_its_share_gives_up_its_own_idlest_session_and_nobody_elses(
    make_registry: MakeRegistry, clock: Clock
) -> None:
    registry = make_registry(max_concurrent_envs=4, max_sessions_per_address=1, yield_after_s=60)
    others = registry.reset(seed=1, address="b").session_id
    mine = registry.reset(seed=1, address="a").session_id
    clock.now += 61
    newer = registry.reset(seed=1, address="a").session_id
    assert {session.session_id for session in registry.open_sessions()} == {others, newer}
    clock.now += 61
    assert registry.state(mine).step_count == 0, "it comes back when it is used"


def test_a_session_that_comes_back_takes_the_share_of_the_address_that_began_it(
    make_registry: MakeRegistry, clock: Clock
) -> None:
    registry = make_registry(max_concurrent_envs=8)
    sessions = []
    for number in range(8):
        clock.now += 61
        sessions.append(registry.reset(seed=number, address="a").session_id)
    for later in (registry, make_registry(max_concurrent_envs=8)):
        taken = 0
        for session in sessions:
            try:
                later.step(session, {})
            except AtCapacity:
                continue
            taken += 1
        assert taken == 2
        assert _took(later, "b") == 2
        clock.now += 61


def test_on_a_space_where_everybody_has_one_address_places_are_shared_by_yielding_early(
    make_registry: MakeRegistry, clock: Clock
) -> None:
    registry = make_registry(max_concurrent_envs=8, space_id="somebody/llmserve", yield_after_s=60)
    first = registry.reset(seed=0, address="proxy").session_id
    clock.now += 4
    assert _took(registry, "proxy", 7) == 7
    with pytest.raises(AtCapacity, match="all 8 sessions") as refused:
        registry.reset(seed=9, address="proxy")
    assert refused.value.retry_after_s == 1
    clock.now += 1
    registry.reset(seed=9, address="proxy")
    assert first not in {session.session_id for session in registry.open_sessions()}


@pytest.mark.parametrize("named", [{"forwarded_allow_ips": "10.0.0.0/8"}, {"max_sessions_per_address": 2}])
def test_on_a_space_that_tells_its_callers_apart_the_share_is_strict(
    make_registry: MakeRegistry, named: dict[str, Any]
) -> None:
    registry = make_registry(max_concurrent_envs=8, space_id="somebody/llmserve", **named)
    assert _took(registry, "a") == 2


def test_at_capacity_the_sessions_of_an_address_within_its_share_do_not_yield_early(
    make_registry: MakeRegistry, clock: Clock
) -> None:
    registry = make_registry(max_concurrent_envs=8, space_id="somebody/llmserve", yield_after_s=60)
    mine = [registry.reset(seed=number, address="a").session_id for number in range(2)]
    assert _took(registry, "proxy", 6) == 6
    clock.now += 6
    assert _took(registry, "b", 3) == 3
    assert set(mine) <= {session.session_id for session in registry.open_sessions()}
