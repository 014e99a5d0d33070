"""Sampler: sample order as a pure function of (seed, k), for any number of ranks and threads.

Samples are numbered from 0 without end; global batch b is samples [b GB, (b+1) GB), and rank r of w
takes every w-th of them, starting at r. Nothing is dropped or repeated at the end of an epoch: the
next one starts in the middle of a batch. To resume, only k is needed, so a cursor is a few numbers
and digests.

`proportional`: true passes over all entries, each pass in a new order. `uniform`: every data set
gets the same share, as in GLaMM (data set uniform, then image, RefCOCO_Segm_ds.py:128-134), but
without its noise: each block of D samples holds each of the D data sets once, in random order, and
within a data set true passes are made.

Passes over a data set are in `global` order or in windows of shards (`passes`).
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
from ...pipeline.io.settings import explain
from . import keyed_rng
from .passes import GLOBAL, GlobalPass, Stored, WindowPass, window_of
from .permutation import LARGE

Sampling = Literal["uniform", "proportional"]


def order_version(most: int) -> int:
    """Version of the order of data sets of at most `most` entries.

    Raise it when equal arguments would give another order. 2: sets beyond `LARGE` entries, which
    were sorted in version 1; smaller ones have the order they always had.
    """
    return 2 if most > LARGE else 1


class SampleRef(NamedTuple):
    """Entry `entry` of the table, drawn for the `visit`-th time (from 0)."""

    entry: int
    visit: int


def pools_of(sizes: Sequence[int], sampling: Sampling) -> list[int]:
    """Entries of each pool that passes are made over: every data set, or all as one."""
    return list(sizes) if sampling == "uniform" else [sum(sizes)]


class Order:
    """The stream of samples.

    sizes   entries of each data set; the table holds them one after another
    order   `global`, or `window:N`: see `passes`
    stored  where the entries of each data set are stored, for windows; None: one after another, 64
            in a shard

    Raises ConfigError if there is no entry at all, or no such order.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        seed: int,
        sampling: Sampling = "uniform",
        order: str = GLOBAL,
        stored: Sequence[Stored] | None = None,
    ) -> None:
        pools = pools_of(sizes, sampling)
        firsts = accumulate(pools, initial=0)
        self._pools = [(first, n) for first, n in zip(firsts, pools, strict=False) if n]
        self.seed = seed
        self._window = window_of(order)
        places = stored or [Stored(None, 64)] * len(pools)
        self._stored = [place for place, n in zip(places, pools, strict=True) if n]
        self._passes: dict[int, dict[int, GlobalPass | WindowPass]] = {}
        if not self._pools:
            raise ConfigError("there is no image with an expression to draw from")

    @property
    def version(self) -> int:
        """Version of the order of this stream, for its cursor."""
        return order_version(max(n for _, n in self._pools))

    def draw(self, sample: int) -> SampleRef:
        """The sample with number `sample` >= 0."""
        return self._draws([sample])[0]

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> list[SampleRef]:
        """Rank `rank`'s share of global batch `step`, which has `size` samples over all ranks."""
        return self._draws(range(step * size + rank, (step + 1) * size, world))

    def _draws(self, samples: Sequence[int]) -> list[SampleRef]:
        found: list[SampleRef] = [SampleRef(0, 0)] * len(samples)
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for at, sample in enumerate(samples):
            block, place = divmod(sample, len(self._pools))
            pool = int(self._sets(block)[place])
            visit, index = divmod(block, self._pools[pool][1])
            groups.setdefault((pool, visit), []).append((at, index))

        # All draws of one visit of a data set at once.
        for (pool, visit), members in groups.items():
            first = self._pools[pool][0]
            places = np.array([index for _, index in members], np.int64)
            entries: NDArray[np.integer] = self._pass(pool, visit).entries(places)
            if self._window is not None and (known := self._stored[pool].entries) is not None:
                entries = known[entries]
            entries = first + entries
            for (at, _), entry in zip(members, entries.tolist(), strict=True):
                found[at] = SampleRef(entry, visit)
        return found

    def _sets(self, block: int) -> NDArray[np.int64]:
        if len(self._pools) == 1:
            return _ONE
        return _permutation(keyed_rng.key_of(self.seed, "set", block), len(self._pools))

    def _pass(self, pool: int, visit: int) -> GlobalPass | WindowPass:
        # The visit under way and the next one are kept, so that memory does not grow.
        kept = self._passes.setdefault(pool, {})
        if visit not in kept:
            key, n = keyed_rng.key_of(self.seed, "image", pool, visit), self._pools[pool][1]
            for old in list(kept)[:-1]:
                del kept[old]
            kept[visit] = (
                GlobalPass(key, n)
                if self._window is None
                else WindowPass(key, n, self._window, self._stored[pool].block)
            )
        return kept[visit]


_ONE = np.zeros(1, np.int64)


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
    order: str = GLOBAL
    step: Annotated[int, Field(ge=0)]

    def at(self, step: int) -> "Cursor":
        """The same stream before global batch `step`."""
        return self.model_copy(update={"step": step})

    def to_json(self) -> dict[str, JsonValue]:
        """Plain values, for a checkpoint; `order` only where it is not the usual one."""
        absent = {"order"} if self.order == GLOBAL else None
        return self.model_dump(mode="json", exclude=absent)

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
        mine, theirs = self.at(0).model_dump(), other.at(0).model_dump()
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
