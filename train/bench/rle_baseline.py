"""Baseline loader: decode RLEs and resize masks during training.

Everything but superpixels and targets is shared with the real loader: features, text, order,
threads. Two ways to resize are measured and the faster one is the baseline: `dense` (pycocotools, then
torch's area interpolation) and `runs` (this package's exact run-length resizing, which made the
cache; its batches are equal bit for bit).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...pipeline.cache.row_reader import RowReader
from ...pipeline.masks.encoder_view import View, derive
from ...pipeline.records import Rle
from ..data.collate import CachedVisuals, Chosen
from ..data.expression_table import ExpressionTable, Said

How = Literal["dense", "runs"]


class RleVisuals(CachedVisuals):
    """Superpixels from their RLEs instead of the cache's `cover` and `sspe_masks`."""

    def __init__(self, caches: Sequence[RowReader], how: How) -> None:
        super().__init__(caches, {"masks"})
        self.how: How = how
        features = self.plan.recipe.features
        self.view = View(features.view, features.size)

    def _superpixels(
        self, places: list[tuple[RowReader, int]], chosen: list[Chosen]
    ) -> tuple[Tensor, Tensor, Tensor]:
        made = [self._one(cache, row) for cache, row in places]
        most = max(len(cover) for cover, _ in made)
        cover = torch.zeros(len(made), most, self.plan.patches, dtype=torch.float16)
        masks = torch.zeros(len(made), most, *self.plan.sspe, dtype=torch.uint8)
        valid = torch.zeros(len(made), most, dtype=torch.bool)
        for b, ((own, small), one) in enumerate(zip(made, chosen, strict=True)):
            cover[b, : len(own)] = own[one.kept]
            masks[b, : len(own)] = small[one.kept]
            valid[b, : len(own)] = True
        return cover, masks, valid

    def _one(self, cache: RowReader, row: int) -> tuple[Tensor, Tensor]:
        """Cover (n,P) float16 and small masks (n,h',w') uint8 of one image."""
        found = cache.superpixels(row)
        if self.how == "dense":
            return self._dense(_decode(found.rles, found.height, found.width))
        budget = self.plan.sspe[0] * self.plan.sspe[1]
        cover, bits = derive(found, self.view, self.plan.grid, budget)
        small = np.unpackbits(bits, axis=1, count=budget).reshape(-1, *self.plan.sspe)
        return torch.from_numpy(cover), torch.from_numpy(small)

    def _dense(self, masks: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        floats = torch.from_numpy(masks).float()[None]
        cover = F.interpolate(floats, self.plan.grid, mode="area")[0].flatten(1)
        small = F.interpolate(floats, self.plan.sspe, mode="area")[0] >= 0.5
        return cover.half(), small.byte()


class RleTable(ExpressionTable):
    """Targets from their RLEs instead of packed bits."""

    def __init__(self, path: Path, masks: Mapping[int, Rle]) -> None:
        super().__init__(path)
        self.masks = masks

    def target(self, said: Said, out: NDArray[np.uint8]) -> None:
        """See `ExpressionTable.target`."""
        mask = self.masks[said.ann_id]
        [dense] = _decode([mask.counts], mask.height, mask.width)
        out[:] = np.packbits(dense.reshape(-1))


def _decode(rles: Sequence[bytes], height: int, width: int) -> NDArray[np.uint8]:
    """(n,H,W) uint8."""
    from pycocotools import mask as coco

    packed: list[dict[str, Any]] = [{"size": [height, width], "counts": r} for r in rles]
    return np.ascontiguousarray(coco.decode(packed).transpose(2, 0, 1))
