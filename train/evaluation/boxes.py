"""Evaluation on targets that are known by their boxes: Ref-L4 and Ref-Adv.

The predicted box is the one around the predicted mask, x1 y1 x2 y2 in pixels with exclusive maxima.
"""

from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..metrics import box_metrics
from .results import Row

Box = tuple[float, float, float, float]
SMALL, LARGE = 128, 256  # sides of a square of equal area, pixels (Ref-L4 evaluation.py)
ABOVE = frozenset({"ref-l4"})  # its program counts IoU > t, Ref-Adv's IoU >= t


def box_around(mask: NDArray[np.bool_]) -> Box | None:
    """The box around a mask (H,W); None for an empty one."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(ys):
        return None
    return float(xs[0]), float(ys[0]), float(xs[-1]) + 1, float(ys[-1]) + 1


def box_iou(target: Box, found: Box | None) -> float:
    """IoU of two boxes; 0 if nothing was found.

    >>> box_iou((0, 0, 10, 10), (5, 0, 15, 10))
    0.3333333333333333
    """
    if found is None:
        return 0.0
    width = min(target[2], found[2]) - max(target[0], found[0])
    height = min(target[3], found[3]) - max(target[1], found[1])
    inter = max(0.0, width) * max(0.0, height)
    return inter / (_area(target) + _area(found) - inter)


def box_figures(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """`all`, `small`, `medium`, `large` -> Acc@0.5 to 0.9 and mAcc; empty unless all have boxes."""
    boxes = [row.box for row in rows if row.box is not None]
    if not boxes or len(boxes) != len(rows):
        return {}
    strict = rows[0].dataset in ABOVE
    groups: Mapping[str, list[float]] = {"all": [], "small": [], "medium": [], "large": []}
    for box in boxes:
        side = sqrt(_area(box.target))
        groups["all"].append(box.iou)
        groups["small" if side < SMALL else "medium" if side <= LARGE else "large"].append(box.iou)
    return {
        name: box_metrics(np.array(ious), strict=strict) for name, ious in groups.items() if ious
    }


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
