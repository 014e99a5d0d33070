"""Which image is the k-th of the run: a pure function of (seed, k), whatever the ranks or threads.

Samples are numbered from 0 without end; global batch b is samples [b GB, (b+1) GB), and rank r of w
takes every w-th of them, starting at r. Nothing is dropped or repeated at the end of an epoch: the
next one starts in the middle of a batch. To resume, only k is needed.

`proportional`: true passes over all entries, each pass in a new order. `uniform`: every data set
gets the same share, as in GLaMM (data set uniform, then image, RefCOCO_Segm_ds.py:128-134), but
without its noise: each block of D samples holds each of the D data sets once, in random order, and
within a data set true passes are made.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...pipeline.errors import ConfigError
from .. import hashing

ORDER_VERSION = 1  # raise it when equal arguments would give another order
Sampling = Literal["uniform", "proportional"]


class Draw(NamedTuple):
    """Entry `entry` of the table, drawn for the `visit`-th time (from 0)."""

    entry: int
    visit: int


class Order:
    """The stream of samples.

    sizes  entries of each data set; the table holds them one after another

    Raises ConfigError if there is no entry at all.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int, sampling: Sampling = "uniform") -> None:
        pools = list(sizes) if sampling == "uniform" else [sum(sizes)]
        firsts = accumulate(pools, initial=0)
        self._pools = [(first, n) for first, n in zip(firsts, pools, strict=False) if n]
        self.seed = seed
        if not self._pools:
            raise ConfigError("there is no image with an expression to draw from")

    def draw(self, sample: int) -> Draw:
        """The sample with number `sample` >= 0."""
        block, place = divmod(sample, len(self._pools))
        sets = _permutation(hashing.key_of(self.seed, "set", block), len(self._pools))
        pool = int(sets[place])
        first, n = self._pools[pool]
        visit, index = divmod(block, n)
        images = _permutation(hashing.key_of(self.seed, "image", pool, visit), n)
        return Draw(first + int(images[index]), visit)

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> list[Draw]:
        """Rank `rank`'s share of global batch `step`, which has `size` samples over all ranks."""
        return [self.draw(k) for k in range(step * size + rank, (step + 1) * size, world)]


@lru_cache(maxsize=64)
def _permutation(key: int, n: int) -> NDArray[np.int64]:
    return hashing.permutation(key, n)
