"""Upper bounds of superpixel answers: best superpixel, best union, one click.

Where a model's masks fall short, these tell why: superpixels that do not fit the target, or a mask
decoder that could not draw it even when told where it is (one click at the target's deepest point,
best of SAM's three masks).

An image's superpixels cut it into atoms, the largest areas that no superpixel border crosses. On
atoms every union is a sum of a few numbers, so the search costs next to nothing. For superpixels
that do not overlap the best union is exact: the IoU of a union is a ratio of sums, and such a ratio
is largest for a prefix of the superpixels sorted by (inside) / (outside). Where they overlap, that
prefix is improved by adding or dropping one superpixel as long as it helps: a lower bound of the
best union, at least as good as the best single superpixel.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...pipeline.cache.row_reader import RowReader
from ...pipeline.masks import rle
from ...pipeline.records import Expression, LocalPaths, Rle
from ...pipeline.sam import SamBackend, build_backend
from ...pipeline.sam.preprocess import target_size
from ...pipeline.superpixels.upsample import UpsampleShape, two_step
from ..data.expression_table import Entry
from .protocols import Example
from .results import Bounds

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Bound:
    """IoU of the best single superpixel and of the best union found, and which ones are in it."""

    single: float
    union: float
    chosen: tuple[int, ...]


class Atoms:
    """One image's superpixels as atoms.

    label   (H,W) atom of each pixel; atom 0 is under no superpixel
    member  (N,A) bool, which atoms a superpixel is made of
    area    (A,) pixels
    """

    def __init__(self, superpixels: Sequence[Rle]) -> None:
        masks = [rle.decode(mask) for mask in superpixels]
        self.label = np.zeros((superpixels[0].height, superpixels[0].width), np.int64)
        member = np.zeros((0, 1), np.bool_)
        for mask in masks:
            split = 2 * self.label + mask
            used = np.flatnonzero(np.bincount(split.ravel(), minlength=2 * member.shape[1]))
            if not used.size or used[0] != 0:
                used = np.concatenate(([0], used))  # atom 0 stays, however small
            number = np.zeros(2 * member.shape[1], np.int64)
            number[used] = np.arange(len(used))
            self.label = number[split]
            member = np.concatenate((member[:, used // 2], (used % 2 == 1)[None]))
        self.member: Bools = member
        self.area: Ints = np.bincount(self.label.ravel(), minlength=member.shape[1])

    def bound(self, target: Bools, ignore: Bools | None = None) -> Bound:
        """The bounds of one target (H,W). An empty target has the empty union, IoU 1.

        ignore  (H,W) pixels in no count, none of the target
        """
        inside = np.bincount(self.label[target], minlength=len(self.area))
        outside = self.area - inside
        if ignore is not None:
            outside = outside - np.bincount(self.label[ignore], minlength=len(self.area))
        search = _Search(self.member, inside, outside)
        if search.target == 0:
            return Bound(0.0, 1.0, ())
        single = search.single()
        best = max(search.climb(search.prefix()), search.climb(_one(single)), key=search.iou)
        return Bound(search.iou(_one(single)), search.iou(best), tuple(sorted(best)))


class _Search:
    """IoU of sets of superpixels against one target: `inside` and `outside` (A,) pixels per atom."""

    def __init__(self, member: Bools, inside: Ints, outside: Ints) -> None:
        self.member, self.inside, self.outside = member, inside, outside
        self.target = int(inside.sum())

    def iou(self, chosen: frozenset[int]) -> float:
        """IoU of the union of `chosen`."""
        covered = self.member[sorted(chosen)].any(axis=0)
        return float(self.inside[covered].sum() / (self.target + self.outside[covered].sum()))

    def single(self) -> int:
        """The superpixel with the best IoU, the first on ties."""
        return int(
            (self.member @ self.inside / (self.target + self.member @ self.outside)).argmax()
        )

    def prefix(self) -> frozenset[int]:
        """The best prefix of the superpixels sorted by (pixels inside) / (pixels outside)."""
        inside, outside = self.member @ self.inside, self.member @ self.outside
        touching = np.flatnonzero(inside)
        order = touching[
            np.argsort(-(inside / np.maximum(inside + outside, 1))[touching], kind="stable")
        ]
        union = np.logical_or.accumulate(self.member[order], axis=0)
        if not len(order):
            return frozenset()
        ious = union @ self.inside / (self.target + union @ self.outside)
        return frozenset(order[: int(ious.argmax()) + 1].tolist())

    def climb(self, chosen: frozenset[int]) -> frozenset[int]:
        """`chosen` with the best single addition or removal, again and again while it helps."""
        now = self.iou(chosen)
        while True:
            ious = self._after_one_change(chosen)
            best = int(ious.argmax())
            if ious[best] <= now:
                return chosen
            now, chosen = float(ious[best]), chosen ^ {best}

    def _after_one_change(self, chosen: frozenset[int]) -> NDArray[np.float64]:
        """(N,) IoU after taking superpixel k in, or out if it is in."""
        selected = np.zeros(len(self.member), np.bool_)
        selected[sorted(chosen)] = True
        depth = self.member[selected].sum(axis=0)
        covered = depth > 0
        alone = self.member & (depth == 1)  # what each chosen one covers by itself
        fresh = self.member & ~covered
        change = np.where(selected[:, None], -alone.astype(np.int64), fresh.astype(np.int64))
        inter = self.inside[covered].sum() + change @ self.inside
        outer = self.outside[covered].sum() + change @ self.outside
        return np.asarray(inter / (self.target + outer), np.float64)


def _one(index: int) -> frozenset[int]:
    return frozenset((index,))


Mask = NDArray[np.bool_]


class PointDecoder:
    """SAM's own decoder with one click, on the embedding that a cache holds."""

    def __init__(self, backend: SamBackend, device: str = "cpu") -> None:
        self._backend, self._device = backend, device

    def iou(
        self, embedding: NDArray[np.float16], target: Mask, ignore: Mask | None = None
    ) -> float:
        """IoU of the best of the three masks of one click inside `target` (H,W), not empty.

        embedding  (C,h,w) of the whole image
        ignore     (H,W) pixels in no count, none of the target
        """
        import torch

        side, size = self._backend.image_size, (target.shape[0], target.shape[1])
        scale = side / max(size)
        y, x = deepest(target)
        point = torch.tensor([[(x + 0.5) * scale, (y + 0.5) * scale]], dtype=torch.float64)
        # An evaluation in bfloat16 asks from within autocast; a bound must not depend on that.
        with torch.inference_mode(), torch.autocast(self._device.split(":")[0], enabled=False):
            features = torch.from_numpy(embedding.astype(np.float32)).to(self._device)
            low, _ = self._backend.decode(features, point)
            logits = two_step(low[0].float(), UpsampleShape(side, target_size(*size, side), size))
        found = (logits > 0).cpu().numpy()
        if ignore is not None:
            found &= ~ignore
        return float(((found & target).sum((1, 2)) / (found | target).sum((1, 2))).max())

    def embedding_seconds(self) -> float:
        """Seconds of SAM's embedding of a photograph, the second one: the first one warms up."""
        import torch

        blank = np.zeros((self._backend.image_size, self._backend.image_size, 3), np.uint8)
        with torch.inference_mode(), torch.autocast(self._device.split(":")[0], enabled=False):
            for _ in range(2):
                began = time.perf_counter()
                self._backend.embed([blank]).sum().item()  # waits for the device
        return time.perf_counter() - began


class Oracle:
    """Bounds for the sentences of an evaluation, from the superpixels of its caches.

    point  also what the mask decoder reaches with a click, or None

    Sentences about one object share their bounds. Raises CacheError if a row cannot be read.
    """

    def __init__(self, caches: Sequence[RowReader], point: PointDecoder | None = None) -> None:
        self._caches, self.point = caches, point
        self._atoms = lru_cache(4)(self._cut)
        self._bounds = lru_cache(256)(self._judge)

    def __call__(self, item: Example, expression: Expression) -> Bounds:
        """The bounds of one sentence's target."""
        return self._bounds(item.entry, expression.mask, expression.ignore)

    def _judge(self, entry: Entry, target: Rle, ignore: Rle | None) -> Bounds:
        mask = rle.decode(target).view(np.bool_)
        region = None if ignore is None else rle.decode(ignore).view(np.bool_)
        if region is not None:
            mask = mask & ~region
        bound = self._atoms(entry).bound(mask, region)
        point = None
        if self.point is not None and mask.any():
            point = self.point.iou(self._caches[entry.cache].sam(entry.row), mask, region)
        return Bounds(single=bound.single, union=bound.union, pieces=len(bound.chosen), point=point)

    def _cut(self, entry: Entry) -> Atoms:
        return Atoms(self._caches[entry.cache].superpixels(entry.row).masks())


def point_decoder(cache: RowReader, sam: Path | None, device: str) -> PointDecoder | None:
    """The decoder that belongs to a cache's embeddings; None if it holds none.

    sam  its weights; None: the shipped ones. Raises what `pipeline.sam.build_backend` raises.
    """
    if cache.plan.sam is None:
        return None
    where = LocalPaths(images=Path(), sam=sam)
    return PointDecoder(build_backend(cache.plan.recipe.superpixels, where, device), device)


def deepest(mask: Mask) -> tuple[int, int]:
    """(y, x) of the pixel farthest from the border of `mask`, not empty; the first on ties.

    The image's own border counts: a click there would be no typical one.
    """
    from scipy.ndimage import distance_transform_edt

    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = np.pad(mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1], 1)
    y, x = np.unravel_index(int(distance_transform_edt(part).argmax()), part.shape)
    return int(y) - 1 + int(ys[0]), int(x) - 1 + int(xs[0])
