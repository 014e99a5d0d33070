"""Permutations of 0..n-1 by key: any part of one, and the place of any number in it.

Up to a limit the whole permutation is sorted once and kept (8 bytes of each number). Beyond it a
Feistel network gives every place by itself, in constant memory: a generalised one over a rectangle
of about n cells (Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002), with
splitmix64 as round function and cycle walking over the few cells too many.
"""

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from .keyed_rng import Words, key_of, permutation, splitmix_array

# Another value is another order of the sets in between: see `sampler.order_version`.
LARGE = 1 << 22  # numbers sorted in the global order: half a second
IN_WINDOW = 1 << 14  # in a window and of blocks: a millisecond
ROUNDS = 8

Index = NDArray[np.int64]


class Sorted:
    """The permutation that `keyed_rng.permutation` sorts."""

    def __init__(self, key: int, n: int) -> None:
        self._numbers = permutation(key, n)

    def at(self, places: Index) -> Index:
        """The numbers at these places."""
        return self._numbers[places]

    def place(self, number: int) -> int:
        """The place of one number."""
        return int(np.flatnonzero(self._numbers == number)[0])


class Feistel:
    """A permutation of n numbers that holds nothing but its round keys."""

    def __init__(self, key: int, n: int) -> None:
        self._n = n
        rows = max(1, isqrt(n - 1) + 1)
        self._sides = np.uint64(rows), np.uint64(-(-n // rows))
        self._keys = [np.uint64(key_of(key, "round", i)) for i in range(ROUNDS)]

    def at(self, places: Index) -> Index:
        """The numbers at these places."""
        return self._walk(places, range(ROUNDS), forth=True)

    def place(self, number: int) -> int:
        """The place of one number."""
        one = np.array([number], np.int64)
        return int(self._walk(one, range(ROUNDS - 1, -1, -1), forth=False)[0])

    def _walk(self, cells: Index, rounds: range, *, forth: bool) -> Index:
        found = cells.astype(np.uint64)
        left = np.arange(len(found))
        # Few cells lie outside 0..n-1: those are mapped again until they come back in.
        while len(left):
            found[left] = self._once(found[left], rounds, forth)
            left = left[found[left] >= np.uint64(self._n)]
        return found.astype(np.int64)

    def _once(self, cells: Words, rounds: range, forth: bool) -> Words:
        rows, columns = self._sides
        parts = [cells % rows, cells // rows]
        sides = (rows, columns)
        for i in rounds:
            mine, other = i % 2, 1 - i % 2
            shift = splitmix_array(parts[other] ^ self._keys[i]) % sides[mine]
            moved = parts[mine] + (shift if forth else sides[mine] - shift)
            parts[mine] = moved % sides[mine]
        return parts[0] + parts[1] * rows


Permutation = Sorted | Feistel


def permutation_of(key: int, n: int, limit: int = LARGE) -> Permutation:
    """The permutation of n numbers for a key, sorted if there are at most `limit`."""
    return Feistel(key, n) if n > limit else Sorted(key, n)
