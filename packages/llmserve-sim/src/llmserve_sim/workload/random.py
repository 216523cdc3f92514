"""Counter-based integer randomness: the n-th number of a stream is a pure function of (seed, purpose, n).

Drawing more numbers from one stream never shifts another stream. Only integer arithmetic modulo 2^64 is used, so the
numbers are the same on every platform and with every version of numpy. Distributions are in `lengths.py` and
`arrivals.py`.

The mixing is splitmix64 (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014):
draw n is the finaliser of key + (n + 1)·γ. The upper 32 bits are used, so its last xor-shift, which can only touch the
lowest of them, is left out.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from llmserve_sim.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Ints = NDArray[np.int64]

__all__ = [
    "MAX_SEED",
    "U32",
    "bernoulli_threshold",
    "derive_seed",
    "first_u32",
    "require_integer",
    "stream_key",
    "uniform_u32",
]

MAX_SEED = 2**63 - 1
"""Seeds are 0..MAX_SEED."""
U32 = 1 << 32
"""Draws are integers in [0, U32)."""

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_NP_MIX_1, _NP_MIX_2 = np.uint64(_MIX_1), np.uint64(_MIX_2)
_S27, _S30, _S32 = np.uint64(27), np.uint64(30), np.uint64(32)


def stream_key(seed: int, purpose: str) -> int:
    """Return the 64-bit key of a stream; raises InvalidInputError for a seed outside 0..MAX_SEED."""
    require_integer("seed", seed, 0, MAX_SEED)
    return _mix64(_mix64((seed + _GAMMA) & _MASK) ^ _purpose_hash(purpose))


def uniform_u32(seed: int, purpose: str, indices: ArrayLike) -> Ints:
    """Return draws number `indices` (integers from 0) of the stream, each uniform on 0..2^32-1, in their shape."""
    counters = np.array(indices, dtype=np.uint64)
    counters += np.uint64(1)
    counters *= np.uint64(_GAMMA)
    return _finalise(counters, stream_key(seed, purpose))


def first_u32(seed: int, purpose: str, count: int) -> Ints:
    """Return the first `count` draws of the stream: `uniform_u32(seed, purpose, range(count))`, without building it."""
    return _finalise(_weyl(count).copy(), stream_key(seed, purpose))


def bernoulli_threshold(probability: float) -> int:
    """Return the integer below which a draw counts as a success of this probability (exact to 2^-32)."""
    if not 0.0 <= probability <= 1.0:  # also refuses NaN
        raise InvalidInputError("probability", "must be in 0..1", got=probability)
    return round(probability * U32)


def require_integer(field: str, value: object, low: int, high: int) -> None:
    """Raise InvalidInputError naming `field` unless `value` is an integer (not a bool) in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInputError(field, f"must be an integer in {low}..{high}", got=value)


def derive_seed(seed: int, purpose: str) -> int:
    """Return another seed, for a whole family of streams apart from those of `seed`."""
    return stream_key(seed, purpose) >> 1


def _finalise(z: NDArray[np.uint64], key: int) -> Ints:
    # In place throughout: at 10^4 draws the passes run in the cache and allocation would dominate.
    shifted = np.empty_like(z)
    z += np.uint64(key)
    np.right_shift(z, _S30, out=shifted)
    z ^= shifted
    z *= _NP_MIX_1
    np.right_shift(z, _S27, out=shifted)
    z ^= shifted
    z *= _NP_MIX_2
    z >>= _S32
    return z.view(np.int64)


_weyl_cache: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)


def _weyl(count: int) -> NDArray[np.uint64]:
    """Return (n + 1)·γ mod 2^64 for n < count; kept between episodes because every stream starts from it."""
    global _weyl_cache  # noqa: PLW0603 - a cache of constants: its content does not depend on who filled it
    if len(_weyl_cache) < count:
        size = 1 << max(14, (count - 1).bit_length())
        _weyl_cache = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    return _weyl_cache[:count]


@lru_cache(maxsize=256)
def _purpose_hash(purpose: str) -> int:
    return int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")


def _mix64(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)
