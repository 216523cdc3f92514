"""Bodies for `POST /mcp` and the page's routes: good ones, spoiled ones, and bytes that are no JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from tests.fuzz.socket_cases import METHODS, ODD, RAW

#: What Python writes as JSON but no strict parser reads, and what is no UTF-8.
ODDER: tuple[Any, ...] = (
    *ODD,
    "\ud800",
    "a\udfffb",
    float("nan"),
    float("inf"),
    {"\ud800": 1},
    {"session_id": [1]},
    [{}],
)
BYTES = (
    b"\xff\xfe{\x00}\x00",
    b"\xed\xa0\x80",
    b'"\xed\xa0\x80"',
    b"\x00",
    b"[" * 20_000,
    b"1" + b"0" * 5000,
    b"--x--\r\n",
)
KINDS = (
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "",
)


def rpc(chance: random.Random) -> bytes:
    """Return a JSON-RPC call, most often with something wrong."""
    call: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": chance.choice((1, "a", None, 2**70)),
        "method": chance.choice(METHODS),
    }
    if chance.random() < 0.8:
        arguments = {
            "name": chance.choice(ODDER),
            "arguments": chance.choice(ODDER),
            "session_id": chance.choice(ODDER),
        }
        call["params"] = chance.choice(({}, arguments, chance.choice(ODDER)))
    return spoiled(chance, call)


def spoiled(chance: random.Random, body: Mapping[str, Any]) -> bytes:
    """Return `body` with fields replaced, missing or added, with a piece cut out, or something else altogether."""
    if chance.random() < 0.15:
        return chance.choice((*BYTES, *(text.encode("utf-8", "surrogatepass") for text in RAW)))
    made = {name: value for name, value in body.items() if chance.random() < 0.9}
    for name in chance.sample(sorted(body), k=chance.randrange(min(3, len(body)) + 1)):
        made[name] = chance.choice(ODDER)
    if chance.random() < 0.1:
        made[chance.choice(("x", "", "self", "a" * 3000))] = chance.choice(ODDER)
    text = json.dumps(made).encode()
    if chance.random() < 0.15:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice((b"", b"\x00", b"\xff", b"}")) + text[at + chance.randrange(1, 9) :]
    return text
