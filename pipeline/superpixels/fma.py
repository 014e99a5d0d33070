"""FMA-WSSS level filter ("rock, sand, water"): whole masks first, then uncovered parts.

Walks the levels whole, part, sub-part. The first level that has masks is kept whole; of each
further level a mask is kept if every mask kept from the levels before covers less than `threshold`
of it. Invariants: the maximum over kept masks counts, not their union; masks of one level never
compete; output order is level order, then list order.

Source: `SamAuto.rock_sand_water`, HAL-42/FMA-WSSS src/libs/sam/custom_sam/sam_auto.py:424-479.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from ..display import counted
from ..errors import DataError
from ..records import PART, SUB_PART, WHOLE, Rle


def keep_superpixels(
    rles: Sequence[Rle], levels: Sequence[int] | NDArray[np.uint8], threshold: float = 0.3
) -> list[int]:
    """Indices of the masks that stay, in output order.

    rles    N masks of one image; levels (N,) 0 sub-part, 1 part, 2 whole
    A recall of exactly `threshold` is dropped; so is a mask without pixels, unless its level is
    the first. Raises DataError if the lists do not belong together.
    """
    level = _checked(rles, levels)
    masks = [rle.coco() for rle in rles]
    area = _areas(masks)
    kept: list[int] = []
    for wanted in (WHOLE, PART, SUB_PART):
        members = np.flatnonzero(level == wanted)
        if kept and len(members):  # `kept` stays as it is while a level is filtered
            covered = _largest_overlap([masks[i] for i in members], [masks[i] for i in kept])
            members = members[_below(covered, area[members], threshold)]
        kept += members.tolist()
    return kept


def _checked(rles: Sequence[Rle], levels: Sequence[int] | NDArray[np.uint8]) -> NDArray[np.integer]:
    level = np.asarray(levels, dtype=np.int64)
    if level.shape != (len(rles),):
        raise DataError(
            f"{counted(len(rles), 'mask', 'need')} as many levels, got shape {level.shape}"
        )
    if len(level) and not 0 <= level.min() <= level.max() <= WHOLE:
        raise DataError(f"levels are 0, 1 or 2, got {level.min()} to {level.max()}")
    if len({(rle.height, rle.width) for rle in rles}) > 1:
        raise DataError("masks of one image must have one size")
    return level


def _largest_overlap(
    masks: Sequence[dict[str, object]], kept: Sequence[dict[str, object]]
) -> NDArray[np.int64]:
    """(len(masks),) pixels shared with the kept mask that shares most."""
    # iscrowd=1 makes pycocotools return intersection / area(mask), a double: exact to undo.
    recall = np.asarray(coco.iou(masks, kept, [1] * len(kept)))
    shared: NDArray[np.float64] = np.rint(recall.max(axis=1) * _areas(masks))
    return shared.astype(np.int64)


def _areas(masks: Sequence[dict[str, object]]) -> NDArray[np.int64]:
    # pycocotools 2.0.11 with NumPy 2 raises OverflowError for more than 255 masks in one call.
    parts = [coco.area(masks[i : i + 255]) for i in range(0, len(masks), 255)]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def _below(
    covered: NDArray[np.int64], area: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    # Equal to the reference's fp32 test for every area under 2^24, and right above it.
    share = Fraction(repr(threshold)).limit_denominator(10**6)
    return (covered * share.denominator < area * share.numerator) & (area > 0)
