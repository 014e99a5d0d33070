"""Upper bounds from the cache: how good could an answer be that only names superpixels?

Where a model's masks fall short, these tell why: superpixels that do not fit the target (best
single, best union, see bounds.py), or a mask decoder that could not draw it even when told where
it is (one click at the target's deepest point, best of SAM's three masks).
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...pipeline.masks import rle
from ...pipeline.masks.upsample import UpsampleShape, two_step
from ...pipeline.records import Expression, Rle, Where
from ...pipeline.sam import SamBackend, build_backend
from ...pipeline.sam.preprocess import target_size
from ...pipeline.store.reader import CacheReader
from ..feed.table import Entry
from .bounds import Atoms
from .protocols import Example
from .results import Bounds

Mask = NDArray[np.bool_]


class PointDecoder:
    """SAM's own decoder with one click, on the embedding that a cache holds."""

    def __init__(self, backend: SamBackend, device: str = "cpu") -> None:
        self._backend, self._device = backend, device

    def iou(self, embedding: NDArray[np.float16], target: Mask) -> float:
        """IoU of the best of the three masks of one click inside `target` (H,W), not empty.

        embedding  (C,h,w) of the whole image
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
        return float(((found & target).sum((1, 2)) / (found | target).sum((1, 2))).max())


class Oracle:
    """Bounds for the sentences of an evaluation, from the superpixels of its caches.

    point  also what the mask decoder reaches with a click, or None

    Sentences about one object share their bounds. Raises CacheError if a row cannot be read.
    """

    def __init__(self, caches: Sequence[CacheReader], point: PointDecoder | None = None) -> None:
        self._caches, self._point = caches, point
        self._atoms = lru_cache(4)(self._cut)
        self._bounds = lru_cache(256)(self._judge)

    def __call__(self, item: Example, expression: Expression) -> Bounds:
        """The bounds of one sentence's target."""
        return self._bounds(item.entry, expression.mask)

    def _judge(self, entry: Entry, target: Rle) -> Bounds:
        mask = rle.decode(target).view(np.bool_)
        bound = self._atoms(entry).bound(mask)
        point = None
        if self._point is not None and mask.any():
            point = self._point.iou(self._caches[entry.cache].sam(entry.row), mask)
        return Bounds(single=bound.single, union=bound.union, pieces=len(bound.chosen), point=point)

    def _cut(self, entry: Entry) -> Atoms:
        return Atoms(self._caches[entry.cache].superpixels(entry.row).masks())


def point_decoder(cache: CacheReader, sam: Path | None, device: str) -> PointDecoder | None:
    """The decoder that belongs to a cache's embeddings; None if it holds none.

    sam  its weights; None: the shipped ones. Raises what `pipeline.sam.build_backend` raises.
    """
    if cache.plan.sam is None:
        return None
    where = Where(images=Path(), sam=sam)
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
