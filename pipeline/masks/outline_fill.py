"""Polygons drawn as OpenCV draws them: the inside and the outline.

For masks that are defined by `cv2.polylines` and `cv2.fillPoly` (ReasonSeg): COCO's rasteriser leaves
out half of the outline. Equal to OpenCV's pixels for polygons inside the image without repeated points.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_BITS = 16  # of the fraction of OpenCV's x coordinates (XY_SHIFT)


def fill_outlined(points: Sequence[Sequence[float]], height: int, width: int) -> NDArray[np.bool_]:
    """(H,W) pixels of a closed polygon of x, y points, each cut to integers first."""
    start = np.trunc(np.asarray(points, np.float64)).astype(np.int64).reshape(-1, 2)
    stop = np.roll(start, -1, axis=0)
    mask = _inside(start, stop, height, width)
    x, y = _outline(start, stop)
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    mask[y[seen], x[seen]] = True
    return mask


def _inside(start: Ints, stop: Ints, height: int, width: int) -> NDArray[np.bool_]:
    """By the even-odd rule: between each two crossings of a row, ends included."""
    slanted = start[:, 1] != stop[:, 1]
    down = (start[:, 1] < stop[:, 1])[:, None]
    top, bottom = np.where(down, start, stop)[slanted], np.where(down, stop, start)[slanted]
    rows = bottom[:, 1] - top[:, 1]
    run = (bottom[:, 0] - top[:, 0]) << _BITS
    slope = np.sign(run) * (np.abs(run) // np.maximum(rows, 1))  # C's division, towards 0

    # One crossing per edge and row, the lower end left out, sorted by row and x.
    edge = np.repeat(np.arange(len(rows)), rows)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows)
    y = top[edge, 1] + step
    x = (top[edge, 0] << _BITS) + slope[edge] * step
    order = np.lexsort((x, y))
    y, left, right = y[order][::2], x[order][::2], x[order][1::2]

    left = np.maximum(-(-left >> _BITS), 0)
    right = np.minimum(right >> _BITS, width - 1)
    kept = (y >= 0) & (y < height) & (left <= right)
    change = np.zeros((height, width + 1), np.int32)
    np.add.at(change, (y[kept], left[kept]), 1)
    np.add.at(change, (y[kept], right[kept] + 1), -1)
    return np.asarray(np.cumsum(change[:, :-1], axis=1) > 0, np.bool_)


def _outline(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """x and y of the pixels of all edges: Bresenham lines from left to right."""
    swap = (stop[:, 0] < start[:, 0])[:, None]
    first, last = np.where(swap, stop, start), np.where(swap, start, stop)
    dx, dy = (last - first).T
    sign, dy = np.where(dy < 0, -1, 1), np.abs(dy)
    long, short = np.maximum(dx, dy), np.minimum(dx, dy)
    edge = np.repeat(np.arange(len(long)), long + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(long + 1) - long - 1, long + 1)
    # Pixels to the side after `step` along the longer axis: half a pixel is rounded down.
    twice = np.maximum(2 * long[edge], 1)
    side = (2 * step * short[edge] + long[edge] - 1) // twice
    flat = (dx >= dy)[edge]
    x = first[edge, 0] + np.where(flat, step, side)
    y = first[edge, 1] + sign[edge] * np.where(flat, side, step)
    return x, y
