"""Dataclasses that refuse values out of bounds. Each field says in its annotation what it takes, and in which unit.

    @dataclass(frozen=True, slots=True)
    class Link(Checked):
        lanes: Annotated[int, Between(1, 16)]
        bytes_per_s: Annotated[float, Between(1e6, 1e14, "bytes/s")]

A number must be finite and inside its bounds; a flag, a text or another dataclass must be of its type; tuples are
checked entry by entry, arrays by type, shape and range. What relates several fields goes into `_relations`.

numpy's numbers are kept as Python's, which never overflow, and arrays as copies that cannot be written: what was checked
stays true.
"""

from __future__ import annotations

import math
import re
import sys
import types
from dataclasses import dataclass, fields
from functools import partial
from inspect import get_annotations
from operator import is_
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import numpy as np

from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Rule = Callable[[str, object], object]

__all__ = ["Between", "Checked", "Column", "annotations_of", "field_name", "sealed"]

T = TypeVar("T", bound=np.generic)

MAX_TEXT = 200
"""Longest name, characters."""


@dataclass(frozen=True, slots=True)
class Between:
    """The range of a number, both ends included; with `above`, the lower end is not."""

    least: float
    most: float
    unit: str = ""
    above: bool = False

    def takes(self, value: float) -> bool:
        """Whether `value` is inside; NaN never is."""
        return self.least <= value <= self.most and not (self.above and value == self.least)

    def __str__(self) -> str:
        """The range in words."""
        spread = f"({self.least:g}, {self.most:g}]" if self.above else f"{_exact(self.least)}..{_exact(self.most)}"
        return f"{spread} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Column:
    """An array of shape (n, *inner) whose entries lie in `each`; `sorted` ones never decrease."""

    each: Between
    sorted: bool = False
    dtype: type[np.generic] = np.int64
    inner: tuple[int, ...] = ()


class Checked:
    """Base of the dataclasses that check their fields when they are made. Fields that begin with `_` are private."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Check every field, then what relates them.

        Raises:
            InvalidInputError: a value is out of bounds; `field` is the class and the field, as in `gpu_spec.sm_count`.
        """
        for name, path, rule in _rules(type(self)):
            given = getattr(self, name)
            kept = rule(path, given)
            if kept is not given:
                object.__setattr__(self, name, kept)
        self._relations()

    def _relations(self) -> None:
        """Refuse values that do not go together."""

    def _refuse(self, name: str, bound: str) -> None:
        """Raise the error of a relation that does not hold."""
        raise InvalidInputError(field_name(type(self), name), bound, got=getattr(self, name))


def field_name(cls: type, name: str) -> str:
    """Return the name of a field in errors: `GpuSpec.sm_count` is `gpu_spec.sm_count`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower() + "." + name


def annotations_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's public fields, resolved in its module."""
    found: dict[str, Any] = {}
    for field in fields(cls):
        owner = next(base for base in cls.__mro__ if field.name in get_annotations(base))
        hint: Any = get_annotations(owner)[field.name]
        if not field.name.startswith("_"):
            # The module's own annotation; what it names must be imported at run time.
            found[field.name] = eval(hint, vars(sys.modules[owner.__module__])) if isinstance(hint, str) else hint  # noqa: S307
    return found


_RULES: dict[type, tuple[tuple[str, str, Rule], ...]] = {}


def _rules(cls: type) -> tuple[tuple[str, str, Rule], ...]:
    """Name, name in errors and rule of each field; worked out once per class."""
    if cls not in _RULES:
        hints = annotations_of(cls)
        _RULES[cls] = tuple((name, field_name(cls, name), _rule(hint)) for name, hint in hints.items())
    return _RULES[cls]


def _rule(hint: Any, mark: Between | Column | None = None) -> Rule:
    """The function that checks one value against an annotation."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _rule(parts[0], next((m for m in parts[1:] if isinstance(m, (Between, Column))), None))
    if isinstance(mark, Column):
        return partial(_column, mark)
    if origin in {Union, types.UnionType}:
        return partial(_optional, _rule(next(part for part in parts if part is not type(None)), mark))
    if origin is tuple:
        return partial(_sequence, _rule(parts[0], mark), None if parts[1:] == (...,) else len(parts))
    if hint in {int, float}:
        return partial(_integer if hint is int else _number, mark or Between(-math.inf, math.inf))
    return {str: _text, bool: _flag}.get(hint) or partial(_instance, hint)


def _integer(bound: Between, path: str, value: object) -> int:
    if type(value) is int and bound.least < value <= bound.most:
        return value  # the usual case; plans are made in every window
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not bound.takes(int(value)):
        raise InvalidInputError(path, f"must be an integer in {bound}", got=value)
    return int(value)


def _number(bound: Between, path: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InvalidInputError(path, f"must be a number in {bound}", got=value)
    if not bound.takes(value) or math.isinf(value):  # type: ignore[arg-type]
        raise InvalidInputError(path, f"must be a number in {bound}", got=value)
    return value if type(value) in {int, float} else float(value)  # type: ignore[return-value]


def _text(path: str, value: object) -> object:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEXT:
        raise InvalidInputError(path, f"must be a text of 1 to {MAX_TEXT} characters", got=value)
    return value


def _flag(path: str, value: object) -> object:
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidInputError(path, "must be a bool", got=value)
    return value if isinstance(value, bool) else bool(value)


def _instance(kind: type, path: str, value: object) -> object:
    if not isinstance(value, kind):
        raise InvalidInputError(path, f"must be a {kind.__name__}", got=value)
    return value


def _optional(rule: Rule, path: str, value: object) -> object:
    return None if value is None else rule(path, value)


def _sequence(rule: Rule, length: int | None, path: str, value: object) -> object:
    if not isinstance(value, tuple) or length not in {None, len(value)}:
        raise InvalidInputError(path, "must be a tuple" + (f" of {length}" if length else ""), got=value)
    if isinstance(rule, partial) and rule.func is _integer and set(map(type, value)) == {int}:
        bound = rule.args[0]
        if bound.takes(min(value)) and bound.takes(max(value)):
            return value
    kept = []
    for index, entry in enumerate(value):
        try:
            kept.append(rule(path, entry))
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}.{index}", error.bound, got=error.got) from None
    return value if all(map(is_, kept, value)) else tuple(kept)


def _column(column: Column, path: str, value: object) -> object:
    shape = ", ".join(["n", *map(str, column.inner)])
    if (
        not isinstance(value, np.ndarray)
        or value.dtype != column.dtype
        or value.ndim != 1 + len(column.inner)
        or value.shape[1:] != column.inner
    ):
        raise InvalidInputError(path, f"must be an array of {column.dtype.__name__}, shape ({shape})", got=value)
    if not _is_sealed(value):
        value = sealed(np.array(value, order="C", subok=False))
    if value.size and not (column.each.takes(value.min().item()) and column.each.takes(value.max().item())):
        raise InvalidInputError(path, f"must hold numbers in {column.each}", got=value)
    if column.sorted and np.any(value[1:] < value[:-1]):
        raise InvalidInputError(path, "must not decrease", got=value)
    return value


def sealed(array: NDArray[T]) -> NDArray[T]:
    """Forbid all writing to an array that the caller has just made: a `Checked` then keeps it without a copy."""
    at: object = array
    while isinstance(at, np.ndarray):
        at.flags.writeable = False
        at = at.base
    return array


def _is_sealed(array: object) -> bool:
    while type(array) is np.ndarray and not array.flags.writeable:
        array = array.base
    return array is None


def _exact(bound: float) -> str:
    """A bound without loss: integers in full, others as Python writes them briefly."""
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
