"""Who calls: only what begins on this machine is local, and nobody chooses the address that the account goes by."""

from __future__ import annotations

from typing import Any

import pytest

from llmserve_server.callers.callers import Caller, Callers
from llmserve_server.settings import Settings


def caller(client: str | None, *, named: str | None = None, root_path: str = "", **headers: str) -> Caller:
    """Return the caller of a request from an address, with headers."""
    given = {"host": "localhost:7860", "user-agent": "test"} | {key.replace("_", "-"): v for key, v in headers.items()}
    scope: dict[str, Any] = {
        "type": "http",
        "path": "/",
        "root_path": root_path,
        "client": None if client is None else (client, 1),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    return Callers(Settings(forwarded_allow_ips=named)).of(scope)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "testclient"])
@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:7860",
        "localhost:",
        "localhost.:1",
        "127.0.0.1:1",
        "[::1]:7860",
        "LOCALHOST",
        "0.0.0.0:1",
    ],
)
def test_a_call_from_this_machine_to_this_machine_is_local(address: str, host: str) -> None:
    found = caller(address, host=host)
    assert found.is_local
    assert found.address is None


@pytest.mark.parametrize("address", ["10.0.0.1", "172.17.0.1", "2001:db8::1", "0.0.0.0", "::ffff:10.0.0.1", "", None])  # noqa: S104
def test_a_call_from_elsewhere_is_not_local(address: str | None) -> None:
    assert not caller(address).is_local


@pytest.mark.parametrize(
    "header",
    [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-prefix",
        "x-forwarded-anything",
        "forwarded",
        "via",
        "x-real-ip",
        "cf-connecting-ip",
    ],
)
def test_what_a_proxy_on_this_machine_passes_on_is_not_local(header: str) -> None:
    assert not caller("127.0.0.1", **{header.replace("-", "_"): "127.0.0.1"}).is_local


def test_a_call_below_a_prefix_or_to_a_foreign_host_came_through_a_proxy() -> None:
    assert not caller("127.0.0.1", root_path="/envs").is_local
    assert not caller("127.0.0.1", host="somebody-llmserve.hf.space").is_local
    assert not caller("127.0.0.1", host="localhost.evil.example").is_local
    assert not caller("127.0.0.1", host=":evil.example").is_local
    assert not caller("127.0.0.1", host="localhost:1:evil.example").is_local


def test_forwarding_headers_are_no_part_of_the_key() -> None:
    plain = caller("10.0.0.1")
    for said in ("1.1.1.1", "1.1.1.2", "1.1.1.2, 8.8.8.8"):
        assert caller("10.0.0.1", x_forwarded_for=said) == plain
    assert caller("10.0.0.1", user_agent="other").peer != plain.peer
    assert caller("10.0.0.2").peer != plain.peer


def test_what_uvicorn_took_from_an_unnamed_proxy_is_not_believed() -> None:
    """Uvicorn believes every proxy on loopback unless it is told otherwise: callers then choose their address."""
    made_up = [caller(address, x_forwarded_for=f"9.9.9.9, {address}:99") for address in ("1.1.1.1", "1.1.1.2")]
    assert made_up[0] == made_up[1]
    named = [caller(address, x_forwarded_for=address, named="127.0.0.1") for address in ("1.1.1.1", "1.1.1.2")]
    assert [item.address for item in named] == ["1.1.1.1", "1.1.1.2"]
    assert not caller("127.0.0.1", x_forwarded_for="127.0.0.1", named="127.0.0.1").is_local


def test_the_addresses_of_one_ipv6_network_have_one_share() -> None:
    assert caller("2001:db8::1").address == caller("2001:db8::ffff:1").address
    assert caller("2001:db8::1").address != caller("2001:db8:0:1::1").address
    assert caller("::ffff:10.0.0.1").address == caller("10.0.0.1").address
