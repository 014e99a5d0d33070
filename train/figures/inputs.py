"""Inputs of the figures: a run's model, its result file, the cache and the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model.batch import Visual
from ...model.projectors import MaskInput, Projector
from ...pipeline.cache.places import image_root_of
from ...pipeline.cache.reader import CacheReader
from ...pipeline.datasets.images import read_record
from ...pipeline.errors import SvpError
from ...pipeline.masks import rle
from ...pipeline.records import ImageRecord, Rle
from ...pipeline.store import Place
from ..data.collate import CachedVisuals
from ..evaluation.protocols import Example, examples
from ..evaluation.results import Results, Row
from ..evaluation.trained import Trained
from ..runs.inputs import DataRequest, source_of
from .attention_hooks import recorded

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Material:
    """One evaluated split of one run; `photos` may be None: pictures are then grey."""

    trained: Trained
    results: Results
    reader: CacheReader
    photos: Path | None
    data: DataRequest

    @cached_property
    def items(self) -> dict[tuple[str, int], Example]:
        """Images with their sentences, by data set and image id."""
        split = self.results.header.splits[0].split
        source = source_of(self.data, self.trained.recipe, split)
        found = examples(source, [self.reader])
        return {(item.entry.dataset, item.entry.image_id): item for item in found}

    @property
    def rows(self) -> list[Row]:
        """Sentences of the first repeat."""
        return [row for row in self.results.rows if row.repeat == 0]

    def target(self, row: Row) -> Mask:
        """(H,W) what should have been found."""
        said = self.items[row.dataset, row.image_id].expressions
        (mask,) = (e.mask for e in said if e.sent_id == row.sent_id)
        return as_mask(mask)

    def photo(self, row: Row) -> Pixels:
        """(H,W,3) the photograph, or grey where it is not there."""
        if self.photos is not None:
            try:
                record = ImageRecord(row.image_id, row.path, row.height, row.width)
                return read_record(self.photos, record)
            except SvpError:  # gone, or the service that holds them fails
                pass
        return np.full((row.height, row.width, 3), 150, np.uint8)

    def superpixels(self, row: Row) -> list[Mask]:
        """(H,W) each, in the order the model saw them: area descending."""
        number = self.reader.index_of[row.image_id]
        order = np.argsort(-self.reader.areas(number).astype(np.int64), kind="stable")
        masks = self.reader.superpixels(number).masks()
        return [as_mask(masks[k]) for k in order.tolist()]

    def visual(self, row: Row) -> Visual:
        """Projector inputs of a sentence's image, a batch of one, float32."""
        entry = self.items[row.dataset, row.image_id].entry
        needs = self.trained.model.projector.needs
        visual, _, _ = CachedVisuals([self.reader], needs).read([entry], [None])
        return visual.map(lambda x: x.float() if x.is_floating_point() else x)

    def attention(self, row: Row) -> NDArray[np.float32]:
        """(blocks, Q, h, w) mean over heads; Q superpixels as in `superpixels`, or queries."""
        visual = self.visual(row)
        projector = self.trained.model.projector
        with torch.inference_mode(), recorded(projector) as found:
            project(projector, visual)
        weights = torch.stack([one[0].mean(0) for one in found])
        array: NDArray[np.float32] = weights.reshape(*weights.shape[:2], *visual.grid).numpy()
        return array


def project(projector: Projector, visual: Visual) -> Tensor:
    """Visual tokens (B,K,D) of a projector on the same device."""
    masks = None
    if visual.cover is not None and visual.masks is not None:
        masks = MaskInput(visual.cover, visual.masks)
    tokens, _ = projector(
        visual.patches, visual.grid, cls=visual.cls, multi=visual.multi, masks=masks,
        mask_valid=visual.valid, means=visual.means,
    )  # fmt: skip
    return tokens  # type: ignore[no-any-return]


def as_mask(mask: Rle) -> Mask:
    """(H,W) bool."""
    return rle.decode(mask).view(np.bool_)


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union, 0 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def one_per_image(rows: Sequence[Row], count: int) -> list[Row]:
    """The first rows, at most one of each image."""
    found: dict[int, Row] = {}
    for row in rows:
        if len(found) < count:
            found.setdefault(row.image_id, row)
    return list(found.values())


def photos_of(cache: Place, asked: Path | None) -> Path | None:
    """The folder of the photographs, if it is known."""
    return asked or image_root_of(cache)
