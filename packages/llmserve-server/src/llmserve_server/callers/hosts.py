"""`Hosts`: the names that the server goes by, and the origins whose pages may call it.

The check of the name stops DNS rebinding: a page of ``evil.example`` that lets its own name point to this machine has a
browser send that name as ``Host``. Such an attack needs a name in the public DNS that the attacker owns. So IP
addresses, names without a dot and names that the public DNS cannot hold are always accepted: `docker run -p`, a
machine's name in its own network, Compose and Kubernetes need no setting.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

__all__ = ["Hosts", "address_of", "name_of"]

_PRIVATE: Final = (".local", ".localhost", ".internal", ".home.arpa", ".test")
"""Suffixes that no public DNS server answers for: RFC 6761, RFC 6762, RFC 8375, and ICANN's reservation of .internal."""
_SPACES: Final = ".hf.space"
_MOST_LETTERS: Final = 300
"""Longest ``Host`` header that is looked at; a name has at most 253 letters (RFC 1035)."""
_ORIGIN: Final = re.compile(r"https?://([^/@?#]+)")


class Hosts:
    """The names of one server.

    Args:
        allowed: further names; ``*.example.org`` stands for every name below, ``*`` for every name there is.
        space_host: names that Hugging Face gives a Space, separated by commas; None: those of ``SPACE_HOST``.
    """

    def __init__(self, allowed: Iterable[str] = (), *, space_host: str | None = None) -> None:
        given = os.environ.get("SPACE_HOST", "") if space_host is None else space_host
        named = {*allowed, *(name.strip().lower() for name in given.split(",") if name.strip())}
        self._any = "*" in named
        self._below = tuple(name[1:] for name in named if name.startswith("*."))
        self._exact = frozenset(name for name in named if not name.startswith("*"))
        self._machine = socket.gethostname().lower()
        self._cached = lru_cache(maxsize=1024)(self._goes_by)  # a page's requests all carry the same

    def goes_by(self, host: str | bytes) -> bool:
        """Return whether a ``Host`` header names this server."""
        return len(host) <= _MOST_LETTERS and self._cached(host)

    def trusts(self, origin: str, hosts: Iterable[str]) -> bool:
        """Return whether an ``Origin`` is this server's own page, reached under one of `hosts`, or a named one's."""
        found = _ORIGIN.fullmatch(origin)
        if found is None:  # "null", or a scheme that no page of ours has
            return False
        authority = found[1].lower()
        return authority in {host.lower() for host in hosts} or self._named(name_of(authority))

    def _goes_by(self, host: str | bytes) -> bool:
        name = name_of(host if isinstance(host, str) else host.decode("latin-1"))
        if self._any or "." not in name or name == self._machine or self._named(name) or address_of(name) is not None:
            return True
        return name.endswith((*_PRIVATE, _SPACES))

    def _named(self, name: str) -> bool:
        return name in self._exact or name.endswith(self._below)


def name_of(host: str) -> str:
    """Return the name in ``name:port`` or ``[address]:port``, in lower case and without a final dot."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return (name if colon and (port.isdigit() or not port) else host).rstrip(".")


def address_of(name: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that `name` is; None for a name. An IPv4 address in IPv6's form is one of IPv4."""
    try:
        address = ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
