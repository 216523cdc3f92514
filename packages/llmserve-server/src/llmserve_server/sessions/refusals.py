"""What a call of the registry may be refused for: errors of the simulator, and texts that no database stores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from llmserve_server.errors import InvalidField, to_service_error
from llmserve_sim.errors import LLMServeError

__all__ = ["check_text", "invalid", "is_storable", "refusals"]

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@contextmanager
def refusals() -> Iterator[None]:
    """Convert the simulator's errors to the server's."""
    try:
        yield
    except LLMServeError as error:
        raise to_service_error(error) from error


def is_storable(text: str) -> bool:
    """Return whether a database can store a text."""
    return _UNSTORABLE.search(text) is None


def check_text(**given: object) -> None:
    """Refuse texts that a database cannot store; whether the content is right is checked elsewhere."""
    for name, value in given.items():
        if value is not None and (not isinstance(value, str) or not is_storable(value)):
            raise invalid(name, "must be a text without NUL characters or unpaired surrogates", got=value)


def invalid(field: str, bound: str, *, got: object = None) -> InvalidField:
    """Return the refusal of a field."""
    shown = "" if got is None else f", got {repr(got)[:80]}"
    return InvalidField(f"{field}: {bound}{shown}", field=field, bound=bound)
