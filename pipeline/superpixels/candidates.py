"""Candidate masks during selection: aligned arrays, before and after their runs are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..masks import runs as rl
from ..masks.runs import Ints, Pieces, Runs
from ..records import WHOLE, Superpixels
from .crops import Crop

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Candidates:
    """N masks of one image, at image size. All fields are aligned; see `records.Superpixels`."""

    runs: Runs
    level: NDArray[np.uint8]  # (N,)
    iou: NDArray[np.float32]  # (N,)
    stability: NDArray[np.float32]  # (N,)
    point: NDArray[np.float64]  # (N,2)
    crop: Ints  # (N,4)
    box: Ints  # (N,4) inclusive maxima

    def __len__(self) -> int:
        return len(self.level)

    def take(self, indices: Ints) -> "Candidates":
        """The candidates `indices`, in that order."""
        return Candidates(
            runs=rl.select(self.runs, indices),
            level=self.level[indices],
            iou=self.iou[indices],
            stability=self.stability[indices],
            point=self.point[indices],
            crop=self.crop[indices],
            box=self.box[indices],
        )


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a mask's low-resolution logits (h,w) that matters, and where it lies."""

    logits: "Tensor"
    place: tuple[slice, slice]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stable:
    """G stable masks: index (G,) of the output, box (G,4) as in `threshold.Outlines`, filled (G,) whether
    there is any pixel, and what they are read from.
    """

    index: Ints
    box: Ints
    filled: NDArray[np.bool_]
    cuts: list[Cut]


@dataclass(frozen=True, slots=True)
class Prompted:
    """Decoder outputs for P points of one crop, flattened to 3P (point, level) outputs."""

    crop: Crop
    point: NDArray[np.float64]  # (3P,2) pixels of the crop
    level: NDArray[np.uint8]  # (3P,)
    iou: NDArray[np.float32]  # (3P,)

    def boxed(self, stable: Stable) -> "Boxed":
        """The stable masks, moved into the image."""
        index, corner = stable.index, self.crop.box[:2]
        return Boxed(
            level=self.level[index],
            iou=self.iou[index],
            point=self.point[index] + corner,
            box=np.where(stable.filled[:, None], stable.box + np.tile(corner, 2), 0),
            filled=stable.filled,
            cuts=tuple(stable.cuts),
        )


@dataclass(frozen=True, slots=True)
class Boxed:
    """N stable masks of one crop whose pixels are not read yet; fields as in `Candidates`."""

    level: NDArray[np.uint8]
    iou: NDArray[np.float32]
    point: NDArray[np.float64]
    box: Ints
    filled: NDArray[np.bool_]  # (N,) whether there is any pixel
    cuts: tuple[Cut, ...]

    def __len__(self) -> int:
        return len(self.level)

    def take(self, indices: Ints) -> "Boxed":
        """The masks `indices`, in that order."""
        return Boxed(
            level=self.level[indices],
            iou=self.iou[indices],
            point=self.point[indices],
            box=self.box[indices],
            filled=self.filled[indices],
            cuts=tuple(self.cuts[i] for i in indices),
        )

    def with_masks(
        self, crop: Crop, masks: Pieces, stability: NDArray[np.float32], size: tuple[int, int]
    ) -> Candidates:
        """The candidates, with pieces in their crop, in an image of `size`."""
        runs = rl.join(rl.moved(masks, x=crop.x0, y=crop.y0), len(self), *size)
        return Candidates(
            runs=runs,
            level=self.level,
            iou=self.iou,
            stability=stability,
            point=self.point,
            crop=np.tile(np.array(crop.box), (len(self), 1)),
            box=self.box,
        )


def concat_boxed(parts: Sequence[Boxed]) -> Boxed:
    """All masks of `parts` (at least one), in order."""
    return Boxed(
        level=np.concatenate([p.level for p in parts]),
        iou=np.concatenate([p.iou for p in parts]),
        point=np.concatenate([p.point for p in parts]),
        box=np.concatenate([p.box for p in parts]),
        filled=np.concatenate([p.filled for p in parts]),
        cuts=tuple(cut for p in parts for cut in p.cuts),
    )


def concat(parts: Sequence[Candidates]) -> Candidates:
    """All candidates of `parts` (at least one), in order."""
    return Candidates(
        runs=rl.concat([p.runs for p in parts]),
        level=np.concatenate([p.level for p in parts]),
        iou=np.concatenate([p.iou for p in parts]),
        stability=np.concatenate([p.stability for p in parts]),
        point=np.concatenate([p.point for p in parts]),
        crop=np.concatenate([p.crop for p in parts]),
        box=np.concatenate([p.box for p in parts]),
    )


def full_image(height: int, width: int) -> Candidates:
    """One whole-image mask with scores 0, used if no mask is left."""
    runs = rl.from_labels(np.zeros((height, width), np.uint8))
    return Candidates(
        runs=runs,
        level=np.array([WHOLE], np.uint8),
        iou=np.zeros(1, np.float32),
        stability=np.zeros(1, np.float32),
        point=np.array([[width / 2, height / 2]]),
        crop=np.array([[0, 0, width, height]]),
        box=rl.boxes(runs),
    )


def distinct(counts: Sequence[bytes]) -> list[int]:
    """Indices of the masks that differ from every one before them, by their COCO counts.

    Box NMS drops copies of a mask, unless its box is one pixel high or wide: then the published
    area is 0 and nothing is dropped. Each copy would be a token.

    >>> distinct([b"a", b"b", b"a"])
    [0, 1]
    """
    return sorted({mask: index for index, mask in reversed(list(enumerate(counts)))}.values())


def largest(area: NDArray[np.integer], limit: int) -> Ints:
    """Indices, in list order, of the `limit` largest areas; of equal ones the first stay."""
    order = np.argsort(-area.astype(np.int64), kind="stable")
    return np.sort(order[:limit])


def to_superpixels(
    found: Candidates, counts: tuple[bytes, ...], survivors: Mapping[str, int], fallback: bool
) -> Superpixels:
    """The record that is stored; `counts` are the COCO counts of `found.runs`."""
    return Superpixels(
        height=found.runs.height,
        width=found.runs.width,
        rles=counts,
        level=found.level,
        predicted_iou=found.iou,
        stability=found.stability,
        area=rl.areas(found.runs).astype(np.int32),
        box=found.box.astype(np.int32),
        point=found.point.astype(np.float32),
        crop=found.crop.astype(np.int32),
        fallback=fallback,
        survivors=survivors,
    )
