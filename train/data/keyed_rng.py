"""Counter-based random numbers: a pure function of a key, stable across versions.

splitmix64 (Steele, Lea, Flood, OOPSLA 2014) in frozen integer arithmetic. Neither numpy's
`Generator` nor `random` is used: their streams may change between versions. The scalar and the
array form agree (a test holds that).
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

Words = NDArray[np.uint64]
T = TypeVar("T")

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def key_of(*parts: int | str) -> int:
    """A 64-bit key; the order of the parts matters. Text counts by its xxh3_64.

    >>> key_of(1, 2) == key_of(2, 1), key_of("refcoco", 7) == key_of("refcoco", 7)
    (False, True)
    """
    state = 0
    for part in parts:
        word = xxhash.xxh3_64_intdigest(part.encode()) if isinstance(part, str) else part
        state = splitmix((state + word) & _MASK)
    return state


def splitmix(word: int) -> int:
    """One splitmix64 step of a 64-bit word."""
    z = (word + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def splitmix_array(words: Words) -> Words:
    """`splitmix` of every word."""
    z = words + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    return z ^ (z >> np.uint64(31))


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """0..n-1 in the order of `key`: sorted by splitmix64(key + i).

    splitmix64 maps different words to different words, so there are no ties and every way of
    sorting gives the same order.
    """
    return np.argsort(splitmix_array(np.arange(n, dtype=np.uint64) + np.uint64(key)))


class Choices:
    """A stream of choices for one key."""

    def __init__(self, key: int) -> None:
        self._state = key

    def below(self, n: int) -> int:
        """An integer of 0..n-1, n < 2**32; the bias is below 2**-32 per value."""
        self._state = splitmix(self._state)
        return ((self._state >> 32) * n) >> 32

    def pick(self, items: Sequence[T]) -> T:
        """One item, all equally likely."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Up to `count` items without replacement, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(min(count, len(pool)))]
