"""The few operations that differ between one number and an array of them, so that each formula is written once.

`metrics.py`, `reward.py` and `configuration.py` compute with an `Arithmetic`: `SCALAR` for one environment, `ARRAYS`
for a batch, where every number is a float64 or int64 array over environments. Both give the same bits: IEEE division
and comparison do not depend on how many are done at once, and every integer that is divided is below 2^53.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np

__all__ = ["ARRAYS", "SCALAR", "Arithmetic"]


class Arithmetic(Protocol):
    """What a formula needs beyond + - * / and comparison."""

    def ratio(self, part: Any, whole: Any, otherwise: Any) -> Any:
        """Return part / whole, and `otherwise` where whole is 0."""
        ...

    def choose(self, condition: Any, then: Any, otherwise: Any) -> Any:
        """Return `then` where the condition holds, else `otherwise`."""
        ...

    def at_most(self, value: Any, limit: Any) -> Any:
        """Return the smaller one."""
        ...

    def at_least(self, value: Any, limit: Any) -> Any:
        """Return the larger one."""
        ...


class _Scalar:
    def ratio(self, part: Any, whole: Any, otherwise: Any) -> Any:
        return part / whole if whole else otherwise

    def choose(self, condition: Any, then: Any, otherwise: Any) -> Any:
        return then if condition else otherwise

    def at_most(self, value: Any, limit: Any) -> Any:
        return min(value, limit)

    def at_least(self, value: Any, limit: Any) -> Any:
        return max(value, limit)


class _Arrays:
    def ratio(self, part: Any, whole: Any, otherwise: Any) -> Any:
        something = np.not_equal(whole, 0)
        result = np.empty(something.shape)
        result[...] = otherwise
        np.divide(part, whole, out=result, where=something)
        return result

    def choose(self, condition: Any, then: Any, otherwise: Any) -> Any:
        return np.where(condition, then, otherwise)

    def at_most(self, value: Any, limit: Any) -> Any:
        return np.minimum(value, limit)

    def at_least(self, value: Any, limit: Any) -> Any:
        return np.maximum(value, limit)


SCALAR: Final[Arithmetic] = _Scalar()
ARRAYS: Final[Arithmetic] = _Arrays()
