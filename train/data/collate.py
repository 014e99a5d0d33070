"""Collate cache rows into a batch, in buffers owned by the batch.

Rows go from the file straight into the batch's memory (`Memory`). No RLE is decoded. Superpixels are
a set; their order is shuffled by a key in training (masks, cover and validity together) and by
descending area, ties in cache order, where there is no key.

Fresh memory costs more than filling it: the kernel hands out 4 kB at a time, and clears each. So
blocks are kept, and a block is free again exactly when the last tensor on it is gone (also a view,
or one that autograd saved). Pinned memory comes from torch's own caching allocator, which also
waits for copies in flight.
"""

import copy
import weakref
from collections import deque
from collections.abc import Collection, Sequence
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model.batch import Batch, Visual
from ...pipeline.cache.layers import FEATURES, POOLED
from ...pipeline.cache.row_reader import RowReader
from ...pipeline.display import show
from ...pipeline.errors import ConfigError
from ...pipeline.fetch.sam_specs import SAMS
from ...pipeline.io.binary import empty
from ...pipeline.precompute.purpose import PATCHES
from ...pipeline.records import Rle
from ...pipeline.superpixels.budget.selector import Selector
from .dialogues import Dialogue, collate
from .expression_table import Entry, ExpressionTable, Said
from .keyed_rng import permutation

SMALL = ("area", "cover", "sspe_masks")  # of the superpixels of an image
LEAST = 1 << 16  # bytes; smaller tensors are not worth it


class Memory:
    """Uninitialised tensors; safe to share by threads."""

    def __init__(self, *, pinned: bool = False) -> None:
        self.pinned = pinned
        self._free: dict[int, deque[NDArray[np.uint8]]] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor whose values are arbitrary."""
        size = prod(shape) * dtype.itemsize
        if self.pinned or size < LEAST:
            return torch.empty(shape, dtype=dtype, pin_memory=self.pinned)
        whole = 1 << (size - 1).bit_length()
        free = self._free.setdefault(whole, deque())
        try:
            block = free.pop()
        except IndexError:
            block = empty((whole,), np.uint8)
        # The tensor's storage owns `lease`, alone: when the storage is freed, the block is free.
        lease = block[:size]
        weakref.finalize(lease, free.append, block).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)


SUPERPIXEL_ORDER = "area descending"  # at inference; recorded in result files


class Item(NamedTuple):
    """One row of a batch: an image, one dialogue about it, the sentence of each [SEG]."""

    entry: Entry
    said: Sequence[Said]
    dialogue: Dialogue
    key: int | None = None  # shuffles the superpixels


class VisualSource(Protocol):
    """Source of encoder outputs: the cache, or live encoders.

    square  side in pixels of the input of the SAM whose embeddings it gives
    """

    square: int

    def read(
        self, entries: Sequence[Entry], keys: Sequence[int | None]
    ) -> tuple[Visual, Tensor, tuple[tuple[int, int], ...]]:
        """Projector inputs, SAM embedding (B,c,h,w), (B,0,1,1) where no mask is decoded, and (H,W) of
        each image.
        """
        ...

    def pieces(self, entry: Entry, key: int | None) -> list[Rle]:
        """The superpixels behind the first tokens of an image; that of the rest has none."""
        ...

    def selecting(self, selector: Selector | None) -> "VisualSource":
        """The same source with another budget of superpixels."""
        ...


class Chosen(NamedTuple):
    """Superpixels of an image that become tokens, in their order; `rest`: those of one more token."""

    kept: NDArray[np.int64]
    rest: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Number of tokens that these become."""
        return len(self.kept) + bool(len(self.rest))


class CachedVisuals:
    """Encoder outputs of one or many caches of one shape, float16 as stored.

    Of thin caches the means of the superpixels take the place of patches, see `Visual`.

    needs   extra projector inputs: of "masks", "cls", "multi"
    pinned  put batches into pinned memory, for asynchronous copies to a GPU
    selector    which superpixels stay, by the caches' order; those left out become one, the last; None: all
    decoder     whether masks are decoded, of SAM's embeddings

    Raises ConfigError if the caches differ in shape or recipe, or lack something that is needed.
    """

    def __init__(
        self,
        caches: Sequence[RowReader],
        needs: Collection[str],
        *,
        pinned: bool = False,
        selector: Selector | None = None,
        decoder: bool = True,
    ) -> None:
        self.caches, self.needs, self.selector = caches, frozenset(needs), selector
        self.decoder = decoder
        self.memory = Memory(pinned=pinned)
        self.plan = caches[0].plan
        self.square = SAMS[self.plan.recipe.superpixels.model].image_size
        for cache in caches:
            _check(cache, caches[0], self.needs, decoder)

    def selecting(self, selector: Selector | None) -> "CachedVisuals":
        """The same caches and memory with another selector."""
        other = copy.copy(self)
        other.selector = selector
        return other

    def read(
        self, entries: Sequence[Entry], keys: Sequence[int | None]
    ) -> tuple[Visual, Tensor, tuple[tuple[int, int], ...]]:
        """See `VisualSource`. Raises CacheError naming image and file. Safe to share by threads."""
        plan, places = self.plan, [(self.caches[e.cache], e.row) for e in entries]
        # A thin cache stores none; whether the model can do without was asked before.
        patches = self._empty(len(entries), 0 if plan.thin else plan.patches, plan.channels)
        sam = self._empty(len(entries), *self._sam())
        beside = SMALL if "masks" in self.needs else ()
        stored = self._empty(len(entries), *plan.layer(POOLED).arrays[0].row) if plan.thin else None
        for cache in self.caches:
            mine = [b for b, (own, _) in enumerate(places) if own is cache]
            into = {"sam": [sam[b].numpy() for b in mine]} if self.decoder else {}
            if stored is None:
                into[FEATURES] = [patches[b].numpy() for b in mine]
            else:
                into[POOLED] = [stored[b].numpy() for b in mine]
            cache.gather([places[b][1] for b in mine], into, beside)
        chosen = self._chosen(places, keys) if "masks" in self.needs else []
        cover, masks, valid = self._superpixels(places, chosen)
        means = None if stored is None else self._means(stored, places, chosen)
        multi = None
        if "multi" in self.needs:
            multi = self._multi(places) if means is None else means[..., plan.channels :]
        visual = Visual(
            patches,
            plan.grid,
            cover,
            masks,
            valid,
            self._cls(places) if "cls" in self.needs else None,
            multi,
            None if means is None else means[..., : plan.channels],
        )
        return visual, sam, tuple((e.height, e.width) for e in entries)

    def chosen(self, entry: Entry, key: int | None = None) -> Chosen:
        """The superpixels of an image that become tokens, in their order: by default that of inference."""
        return self._chosen([(self.caches[entry.cache], entry.row)], [key])[0]

    def pieces(self, entry: Entry, key: int | None) -> list[Rle]:
        """See `VisualSource`. Raises CacheError naming image and file."""
        masks = self.caches[entry.cache].superpixels(entry.row).masks()
        return [masks[int(k)] for k in self.chosen(entry, key).kept]

    def _sam(self) -> tuple[int, ...]:
        """Shape of a SAM embedding in a batch."""
        if not self.decoder:
            return 0, 1, 1
        assert self.plan.sam is not None
        return self.plan.sam

    def _chosen(
        self, places: list[tuple[RowReader, int]], keys: Sequence[int | None]
    ) -> list[Chosen]:
        """The superpixels of each image that become tokens."""
        found = []
        for (cache, row), key in zip(places, keys, strict=True):
            order = _order(cache, row, key, cache.count(row))
            stays = np.ones(len(order), np.bool_)
            if self.selector is not None:
                stays = self.selector.kept(cache.order(row), cache.worth(row))[order]
            found.append(Chosen(order[stays], order[~stays]))
        return found

    def _superpixels(
        self, places: list[tuple[RowReader, int]], chosen: list[Chosen]
    ) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
        if "masks" not in self.needs:
            return None, None, None
        counts = [one.tokens for one in chosen]
        most, (height, width) = max(counts), self.plan.sspe
        cover = self._empty(len(places), most, self.plan.patches)
        masks = self._empty(len(places), most, height, width, dtype=torch.uint8)
        valid = torch.arange(most) < torch.tensor(counts)[:, None]
        for b, ((cache, row), one, n) in enumerate(zip(places, chosen, counts, strict=True)):
            cover[b, n:], masks[b, n:] = 0, 0
            shares, bits = cache.cover(row), cache.sspe_masks(row)
            k = len(one.kept)
            cover[b, :k] = torch.from_numpy(shares[one.kept])
            kept = bits[one.kept]
            if k < n:
                # What they cover together of a patch; where they overlap, it may be less.
                union = shares[one.rest].sum(axis=0, dtype=np.float32).clip(max=1)
                cover[b, k] = torch.from_numpy(union.astype(np.float16))
                kept = np.concatenate([kept, np.bitwise_or.reduce(bits[one.rest])[None]])
            cells = np.unpackbits(kept, axis=1, count=height * width)
            masks[b, :n] = torch.from_numpy(cells).view(n, height, width)
        return cover, masks, valid

    def _means(
        self, stored: Tensor, places: list[tuple[RowReader, int]], chosen: list[Chosen]
    ) -> Tensor:
        """(B,N,W) of the rows (B,K,W), all maps side by side, of a thin cache, in the order of `_superpixels`."""
        counts = [one.tokens for one in chosen]
        out = self._empty(len(places), max(counts), stored.shape[2])
        for into, rows, (cache, row), one, n in zip(
            out, stored, places, chosen, counts, strict=True
        ):
            k = len(one.kept)
            into[:k] = rows[torch.from_numpy(one.kept)]
            if k < n:
                weight = cache.cover(row)[one.rest].sum(axis=1, dtype=np.float32)
                share = torch.from_numpy(weight / max(float(weight.sum()), 1e-6))
                into[k] = share @ rows[torch.from_numpy(one.rest)].float()
            into[n:] = 0
        return out

    def _cls(self, places: list[tuple[RowReader, int]]) -> Tensor:
        out = self._empty(len(places), self.plan.channels)
        for (cache, row), into in zip(places, out, strict=True):
            cache.cls(row, into.numpy())
        return out

    def _multi(self, places: list[tuple[RowReader, int]]) -> Tensor:
        """(B,P,W): the stored maps side by side, in the order of the cache's recipe."""
        layers = torch.from_numpy(np.stack([cache.layers(row) for cache, row in places]))
        return layers.permute(0, 2, 1, 3).flatten(2).contiguous()

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
        return self.memory.take(shape, dtype)


def _order(cache: RowReader, row: int, key: int | None, n: int) -> NDArray[np.int64]:
    """Order of the n superpixels of a row in a batch."""
    if key is not None:
        return permutation(key, n)
    return np.argsort(-cache.areas(row).astype(np.int64), kind="stable")


def make_batch(
    table: ExpressionTable | None, visuals: VisualSource, items: Sequence[Item], pad: int
) -> Batch:
    """The batch of `items`, with targets from `table` unless it is None."""
    visual, sam, sizes = visuals.read([i.entry for i in items], [i.key for i in items])
    texts = collate([item.dialogue for item in items], pad)
    packed = tuple(_targets(table, item) for item in items) if table else None
    sent_ids = tuple(tuple(said.sent_id for said in item.said) for item in items)
    square = visuals.square
    return Batch(
        visual, *texts, sam=sam, square=square, sizes=sizes, packed=packed, sent_ids=sent_ids
    )


def _targets(table: ExpressionTable, item: Item) -> Tensor:
    assert len(item.said) == len(item.dialogue.seg), "one [SEG] per sentence with a target"
    out = np.empty((len(item.said), item.entry.target_bytes), np.uint8)
    for said, row in zip(item.said, out, strict=True):
        table.target(said, row)
    return torch.from_numpy(out)


def _check(cache: RowReader, first: RowReader, needs: frozenset[str], decoder: bool) -> None:
    plan, other = cache.plan, first.plan
    where = show(str(cache.path), 200)
    lacks = {
        "masks": False,
        "cls": not plan.cls,
        "multi": not plan.blocks,
    }
    if unknown := needs - lacks.keys():
        raise ConfigError(f"no cache holds the projector input {show(min(unknown))}")
    missing = [name for name in sorted(needs) if lacks[name]]
    if plan.thin and "masks" not in needs:
        missing.append(PATCHES)
    if decoder and plan.sam is None:
        missing.append("the SAM image embedding")
    if missing:
        raise ConfigError(
            f"{where} does not hold {', '.join(missing)}, which this model needs: precompute with a "
            "recipe that stores it (features.cls, features.layers, store_sam_embeddings)"
        )
    shape = (plan.grid, plan.channels, plan.sspe, plan.sam, plan.recipe.features)
    if shape != (other.grid, other.channels, other.sspe, other.sam, other.recipe.features):
        raise ConfigError(
            f"{where} (cache {plan.id[:12]}) and {show(str(first.path), 200)} (cache "
            f"{other.id[:12]}) have other shapes or encoders: use caches of one recipe"
        )
