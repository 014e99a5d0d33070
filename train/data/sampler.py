"""Sampler: sample order as a pure function of (seed, k), for any number of ranks and threads.

Samples are numbered from 0 without end; global batch b is samples [b GB, (b+1) GB), and rank r of w
takes every w-th of them, starting at r. Nothing is dropped or repeated at the end of an epoch: the
next one starts in the middle of a batch. To resume, only k is needed, so a cursor is a few numbers
and digests.

`proportional`: true passes over all entries, each pass in a new order. `uniform`: every data set
gets the same share, as in GLaMM (data set uniform, then image, RefCOCO_Segm_ds.py:128-134), but
without its noise: each block of D samples holds each of the D data sets once, in random order, and
within a data set true passes are made.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ...pipeline.display import show
from ...pipeline.errors import CacheError, ConfigError, PlanMismatchError
from ...pipeline.recipe import explain
from . import keyed_rng

ORDER_VERSION = 1  # raise it when equal arguments would give another order
Sampling = Literal["uniform", "proportional"]


class SampleRef(NamedTuple):
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

    def draw(self, sample: int) -> SampleRef:
        """The sample with number `sample` >= 0."""
        block, place = divmod(sample, len(self._pools))
        sets = _permutation(keyed_rng.key_of(self.seed, "set", block), len(self._pools))
        pool = int(sets[place])
        first, n = self._pools[pool]
        visit, index = divmod(block, n)
        images = _permutation(keyed_rng.key_of(self.seed, "image", pool, visit), n)
        return SampleRef(first + int(images[index]), visit)

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> list[SampleRef]:
        """Rank `rank`'s share of global batch `step`, which has `size` samples over all ranks."""
        return [self.draw(k) for k in range(step * size + rank, (step + 1) * size, world)]


@lru_cache(maxsize=64)
def _permutation(key: int, n: int) -> NDArray[np.int64]:
    return keyed_rng.permutation(key, n)


class Cursor(BaseModel):
    """The position before global batch `step`, and all that the order of samples depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    caches: list[str]
    table: str
    seed: int
    sampling: str
    sentences: int
    global_batch: int
    order_version: int
    step: Annotated[int, Field(ge=0)]

    def at(self, step: int) -> "Cursor":
        """The same stream before global batch `step`."""
        return self.model_copy(update={"step": step})

    def to_json(self) -> dict[str, JsonValue]:
        """Plain values, for a checkpoint."""
        return self.model_dump(mode="json")

    def goes_on(self, raw: Mapping[str, JsonValue]) -> "Cursor":
        """A stored cursor, if it belongs to this stream.

        Raises CacheError if it is no cursor, PlanMismatchError naming every field that differs:
        another cache, seed or batch would repeat some samples and skip others without a word.
        """
        try:
            other = Cursor.model_validate(raw)
        except ValidationError as error:
            raise CacheError(
                f"the checkpoint's data cursor is damaged: {explain(error, Cursor)}"
            ) from None
        mine, theirs = self.at(0).to_json(), other.at(0).to_json()
        different = [
            f"{name}: {show(theirs[name], 100)} there, {show(mine[name], 100)} here"
            for name in mine
            if mine[name] != theirs[name]
        ]
        if different:
            raise PlanMismatchError(
                f"the checkpoint belongs to another stream of samples: {'; '.join(different)}: "
                "resume with the data and recipe it was made with"
            )
        return other
