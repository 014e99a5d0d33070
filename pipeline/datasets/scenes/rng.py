"""Version-independent random numbers: raw PCG64 words and integer arithmetic only.

NumPy guarantees the raw stream of a bit generator and of `SeedSequence`, but not what the methods
of `Generator` make of it, so the scenes never call those.
"""

from collections.abc import MutableSequence, Sequence
from typing import TypeVar

from numpy.random import PCG64, SeedSequence

T = TypeVar("T")
_BLOCK = 256  # words fetched at a time


class Rng:
    """A stream of choices for one key, e.g. `(seed, split, index)`; equal keys, equal choices."""

    def __init__(self, *key: int) -> None:
        self._bits = PCG64(SeedSequence(key))
        self._words: list[int] = []

    def below(self, n: int) -> int:
        """An integer of 0..n-1, n <= 2**32; the bias is below 2**-32 per value."""
        if not self._words:
            self._words = self._bits.random_raw(_BLOCK).tolist()[::-1]
        return ((self._words.pop() >> 32) * n) >> 32

    def between(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 cases."""
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        """One item, all equally likely."""
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Fisher-Yates, in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
