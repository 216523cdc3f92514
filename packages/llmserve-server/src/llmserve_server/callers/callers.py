"""`Callers`: tell who calls: from this machine or from the network, from which address, and with which program.

A caller on this machine may leave out the session id while it has only one session. An address of the network has a
share of the places. Forwarding headers can be made up by anyone, so they are evidence of one thing only: that the call
did not begin on this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from typing import Any, Final

from llmserve_server.callers.hosts import address_of, name_of
from llmserve_server.callers.paths import prefix_of
from llmserve_server.settings import Settings

__all__ = ["Caller", "Callers", "current_scope"]

Scope = Mapping[str, Any]
"""What ASGI tells about a request or a socket."""

_FORWARDING: Final = (b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip")
"""Headers of proxies, beside those that begin with `_FORWARDED`."""
_FORWARDED: Final = b"x-forwarded"
_LOCAL_NAMES: Final = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_UNNAMED_PROXY: Final = "an unnamed proxy"
"""The address of everybody who comes through a proxy that uvicorn believes and the settings do not name."""
_IPV6_NETWORK_BITS: Final = 64
"""One customer has as many IPv6 addresses as these leading bits leave."""

current_scope: Final[ContextVar[Scope | None]] = ContextVar("current_scope", default=None)
"""The ASGI scope of the call that is being handled, for OpenEnv's handlers, which do not pass it on."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a call comes from."""

    is_local: bool
    """Whether it began on this machine: it comes from loopback, names loopback as its host, and no proxy sent it."""
    address: str | None
    """Whose share of the places it takes; None for this machine, which has no share."""
    peer: str
    """Digest of address and user agent, by which calls without a session id are told apart."""


class Callers:
    """Tells the caller of a request or a socket.

    `scope["client"]` is the peer, or what a proxy says if FORWARDED_ALLOW_IPS names that proxy. Without that setting
    uvicorn believes proxies on loopback; what they say is not used then.
    """

    def __init__(self, settings: Settings) -> None:
        self._has_named_proxies = settings.forwarded_allow_ips is not None

    def of(self, scope: Scope | None) -> Caller:
        """Return the caller behind an ASGI scope; without a scope, the caller is in this process."""
        if scope is None:
            return Caller(is_local=True, address=None, peer="")
        host = str((scope.get("client") or ("", 0))[0])
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        forwarded = any(name.startswith(_FORWARDED) or name in _FORWARDING for name, _ in headers)
        forwarded = forwarded or bool(prefix_of(scope))
        agent = _first(headers, b"user-agent")
        if not forwarded and _is_here(host, _first(headers, b"host")):
            return Caller(is_local=True, address=None, peer=_digest("this machine", agent))
        if forwarded and not self._has_named_proxies and host in _said(headers):
            host = _UNNAMED_PROXY
        address = _network(host)
        return Caller(is_local=False, address=address, peer=_digest(address, agent))


def _is_here(host: str, named: str) -> bool:
    """Return whether a peer is on this machine, and means this machine: a proxy on it passes on another host's name."""
    address = address_of(host)
    if address is None:
        return host != ""  # no network gives such a name: the caller is in this process, a test client for example
    return address.is_loopback and _is_loopback_name(named)


def _is_loopback_name(host: str) -> bool:
    """Return whether a Host header names loopback, with or without a port."""
    name = name_of(host)
    address = address_of(name)
    return name in _LOCAL_NAMES if address is None else address.is_loopback or address.is_unspecified


def _said(headers: list[tuple[bytes, bytes]]) -> set[str]:
    """Return the addresses in X-Forwarded-For, without ports."""
    parts = ",".join(value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for").split(",")
    found = set()
    for part in map(str.strip, parts):
        bare = part[1:].partition("]")[0] if part.startswith("[") else part
        found |= {part, bare, bare.rpartition(":")[0] if bare.count(":") == 1 else bare}
    return found - {""}


def _network(host: str) -> str:
    """Return the address whose share a host takes: an IPv6 address stands for its network."""
    address = address_of(host)
    if not isinstance(address, IPv6Address):
        return host if address is None else str(address)
    return str(ip_network((int(address), _IPV6_NETWORK_BITS), strict=False))


def _first(headers: list[tuple[bytes, bytes]], wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == wanted), "")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
