"""Passes: the order of the entries of one data set in one visit, any part of it at once.

`global`     any permutation of all entries
`window:N`   blocks of entries that are stored together are permuted; each N of them in turn are a
             window, whose entries are permuted: a batch then reads from N shards, not from all
Both are pure functions of a key, with no state from one draw to the next.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ..recipe import ORDER, ORDER_RULE
from .keyed_rng import key_of
from .permutation import IN_WINDOW, Index, Permutation, permutation_of

GLOBAL = "global"


def window_of(order: str) -> int | None:
    """Blocks of a window, None for the global order. Raises ConfigError.

    >>> window_of("global"), window_of("window:64")
    (None, 64)
    """
    if not ORDER.fullmatch(order):
        raise ConfigError(f"order={show(order)}: {ORDER_RULE}")
    return None if order == GLOBAL else int(order.partition(":")[2])


class GlobalPass:
    """A permutation of n entries."""

    def __init__(self, key: int, n: int) -> None:
        self._permutation = permutation_of(key, n)

    def entries(self, places: Index) -> Index:
        """The entries at these places of the pass."""
        return self._permutation.at(places)


class WindowPass:
    """Permuted windows of `window` blocks; a block is `block` entries, the last one may be less."""

    def __init__(self, key: int, n: int, window: int, block: int) -> None:
        self._key, self._n, self._block = key, n, block
        self._blocks = -(-n // block)
        self._window = min(window, self._blocks)
        self._order = permutation_of(key_of(key, "blocks"), self._blocks, IN_WINDOW)
        # What the short block lacks shifts all that comes after its window.
        self._lacks = self._blocks * block - n
        self._short = self._order.place(self._blocks - 1)
        self._inside: dict[int, Permutation] = {}

    def entries(self, places: Index) -> Index:
        """The entries at these places of the pass."""
        whole = self._window * self._block
        short = self._short // self._window
        after = places >= (short + 1) * whole - self._lacks
        windows = (places + after * self._lacks) // whole
        offsets = places + after * self._lacks - windows * whole
        found = np.empty_like(places)
        for number in np.unique(windows).tolist():
            chosen = windows == number
            found[chosen] = self._in_window(number, offsets[chosen])
        return found

    def _in_window(self, number: int, offsets: Index) -> Index:
        first = number * self._window
        blocks = min(self._window, self._blocks - first)
        has_short = first <= self._short < first + blocks
        if number not in self._inside:
            size = blocks * self._block - (self._lacks if has_short else 0)
            if len(self._inside) > 1:  # a batch spans two windows, one of them just begun
                self._inside.pop(min(self._inside))
            key = key_of(self._key, "window", number)
            self._inside[number] = permutation_of(key, size, IN_WINDOW)
        cells = self._inside[number].at(offsets)
        if has_short:
            end = (self._short - first) * self._block + self._block - self._lacks
            cells = cells + (cells >= end) * self._lacks
        return self._order.at(first + cells // self._block) * self._block + cells % self._block


class Stored(NamedTuple):
    """Storage of a data set: its entries in the order of their rows (None: they are), and a block."""

    entries: NDArray[np.int32] | Index | None
    block: int


def stored_order(cache: Index, row: Index, pools: Sequence[int], shard: int) -> list[Stored]:
    """Storage of the entries of each pool.

    cache, row  (n,) of all entries, one pool after another; shard  rows of a shard
    """
    found, first = [], 0
    for n in pools:
        caches, rows = cache[first : first + n], row[first : first + n]
        first += n
        ahead = (caches[1:] > caches[:-1]) | ((caches[1:] == caches[:-1]) & (rows[1:] >= rows[:-1]))
        order = None if ahead.all() else np.lexsort((rows, caches))
        if order is not None and n < 1 << 31:
            order = order.astype(np.int32)
        ends = [rows[caches == one] for one in np.unique(caches)]
        span = sum(int(own.max() - own.min()) + 1 for own in ends)
        found.append(Stored(order, _block(n, span, shard)))
    return found


def _block(entries: int, rows: int, shard: int) -> int:
    """Entries of a block: as many as a shard holds where so many entries lie among so many rows.

    >>> _block(1000, 1000, 64), _block(500, 1000, 64)
    (64, 32)
    """
    return max(1, round(shard * entries / max(1, rows)))
