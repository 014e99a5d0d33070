"""COCO RLE masks: conversion to and from pixels, and from any COCO `segmentation` value.

Parts of an object are merged (union), never summed: published loaders sum decoded polygons, so
overlap pixels hold 2, which poisons every loss and IoU. Everything from outside is
checked in Python before pycocotools sees it. An `Rle` made here is canonical: equal masks have
equal bytes.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..display import quote, show
from ..errors import DataError
from ..records import Rle
from .rle_codec import MAX_SIDE, Runs, canonical, check_runs, check_side, from_string, to_string

__all__ = [
    "Runs",
    "area",
    "canonical",
    "check_runs",
    "check_side",
    "decode",
    "encode",
    "from_segmentation",
    "from_string",
    "overlap",
    "parts",
    "to_string",
    "union",
]

MAX_COORDINATE = 65536.0  # far outside any image we accept; pycocotools multiplies it by 5 as int
MAX_PERIMETER = 4_000_000.0  # pixels; its C code allocates 5 points per pixel of outline

MERGED = 8  # masks that are united at once


def encode(mask: NDArray[Any]) -> Rle:
    """The canonical `Rle` of a (H,W) mask, bool or integer with values {0,1}."""
    if mask.ndim != 2 or not 1 <= min(mask.shape) <= max(mask.shape) <= MAX_SIDE:
        raise DataError(f"mask has shape {mask.shape}, expected (H,W) with sides 1..{MAX_SIDE}")
    if mask.dtype != np.bool_ and not (mask.dtype.kind in "iu" and _is_binary(mask)):
        raise DataError(f"mask has dtype {mask.dtype}, expected bool or integers in {{0,1}}")
    edges = _edges(mask.astype(np.bool_, copy=False))
    bounds = np.concatenate(([0], edges, [mask.size]))
    runs = np.diff(bounds)
    runs = np.concatenate(([0], runs)) if mask[0, 0] else runs
    height, width = mask.shape
    return Rle(height, width, to_string(runs))


def decode(rle: Rle) -> NDArray[np.uint8]:
    """The mask as (H,W) uint8 in {0,1}, column-major in memory. DataError if the runs are bad."""
    runs = check_runs(rle.counts, rle.height, rle.width)
    flat = np.zeros(rle.height * rle.width, dtype=np.uint8)
    bounds = np.cumsum(runs).tolist()
    for start, stop in zip(bounds[0::2], bounds[1::2], strict=False):
        flat[start:stop] = 1
    return flat.reshape((rle.height, rle.width), order="F")


def area(rle: Rle) -> int:
    """Number of pixels in the mask. DataError if the runs are bad."""
    return int(check_runs(rle.counts, rle.height, rle.width)[1::2].sum())


def from_segmentation(segmentation: object, height: int, width: int, where: str) -> Rle:
    """The union of all parts as one canonical `Rle`, or a DataError naming `where`.

    | value               | result                                                    |
    |---------------------|-----------------------------------------------------------|
    | list of polygons    | union; parts outside the image are clipped                |
    | RLE dict, or a list | checked, then union                                       |
    | empty list          | the empty mask                                            |
    | anything else       | refused: under 6 or an odd count of numbers, NaN, mixture |

    Numbers may be Python's or numpy's, polygons lists, tuples or 1-D arrays.
    """
    return union(parts(segmentation, height, width, where), height, width)


def parts(segmentation: object, height: int, width: int, where: str) -> list[Rle]:
    """One `Rle` per polygon or RLE of a `segmentation` value, each checked before decoding."""
    check_side(height, width, where)
    if isinstance(segmentation, dict):
        return [_from_dict(segmentation, height, width, where)]
    if not isinstance(segmentation, list | tuple):
        hint = "; write [] where there is no target" if segmentation is None else ""
        raise DataError(f"{where}: {quote(segmentation)} is neither polygons nor an RLE{hint}")
    if all(isinstance(part, dict) for part in segmentation):
        return [_from_dict(part, height, width, where) for part in segmentation]
    if len(segmentation) >= 6 and all(_is_number(part) for part in segmentation):
        raise DataError(
            f"{where}: a polygon outside a list; write a list of polygons: [[x1, y1, ...]]"
        )
    polygons = [_polygon(part, f"{where}, polygon {i}") for i, part in enumerate(segmentation)]
    return _rasterise(polygons, height, width)


def union(masks: Sequence[Rle], height: int, width: int) -> Rle:
    """One mask of all `masks`, which must be checked; the empty mask for none."""
    from pycocotools import mask as coco

    if not masks:
        return encode(np.zeros((height, width), dtype=np.bool_))
    # In groups: one merge of all walks the growing union again for every mask, so that the 50,000
    # polygons of a fragmented object would take minutes.
    while len(masks) > 1:
        groups = [masks[i : i + MERGED] for i in range(0, len(masks), MERGED)]
        merged = (coco.merge([mask.coco() for mask in group])["counts"] for group in groups)
        masks = [Rle(height, width, bytes(counts)) for counts in merged]
    return masks[0]


def overlap(masks: Sequence[Rle], merged: Rle) -> int:
    """Pixels by which a summed mask would exceed the union; 0 for disjoint parts."""
    return sum(area(mask) for mask in masks) - area(merged)


def _is_binary(mask: NDArray[Any]) -> bool:
    return bool(mask.min() >= 0 and mask.max() <= 1)


def _edges(mask: NDArray[np.bool_]) -> Runs:
    """Column-major positions where a pixel differs from the one before, ascending.

    Found by rows: transposing the whole mask first costs ten times as much.
    """
    height, width = mask.shape
    y, x = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), width)
    tops = np.flatnonzero(mask[0, 1:] != mask[-1, :-1]) + 1
    return np.sort(np.concatenate((x * height + y + 1, tops * height)))


def _from_dict(value: Mapping[str, object], height: int, width: int, where: str) -> Rle:
    """A checked, canonical `Rle` from `{"size": [h, w], "counts": list | str | bytes}`."""
    size = value.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise DataError(f"{where}: RLE size {quote(size)} is not [height, width]")
    size = [int(side) if isinstance(side, np.integer) else side for side in size]
    check_side(size[0], size[1], where)
    if (size[0], size[1]) != (height, width):
        turned = "; turned by 90 degrees it would fit" if size[::-1] == [height, width] else ""
        raise DataError(
            f"{where}: RLE size {size[0]}x{size[1]} differs from the image's {height}x{width}{turned}"
        )
    runs = check_runs(value.get("counts"), height, width, where)
    return Rle(height, width, to_string(canonical(runs)))


def _polygon(value: object, where: str) -> list[float]:
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: {quote(value)} is not a list of numbers")
    if value and all(isinstance(point, list | tuple) for point in value):
        raise DataError(f"{where}: points in lists of their own; write [x1, y1, x2, y2, ...]")
    if len(value) < 6 or len(value) % 2:
        box = "; a box is no polygon: write its four corners" if len(value) == 4 else ""
        raise DataError(f"{where}: {len(value)} numbers; need an even count of at least 6{box}")
    for number in value:
        if not _is_number(number) or not (isinstance(number, int) or math.isfinite(number)):
            raise DataError(f"{where}: {quote(number)} is not a finite number")
        if abs(number) > MAX_COORDINATE:
            raise DataError(f"{where}: coordinate {show(number)} is beyond {MAX_COORDINATE:.0f}")
    numbers = [float(number) for number in value]
    if perimeter(numbers) > MAX_PERIMETER:
        raise DataError(f"{where}: the outline is longer than {MAX_PERIMETER:.0f} pixels")
    return numbers


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def perimeter(numbers: Sequence[float]) -> float:
    """Pixels of the closed outline x1 y1 x2 y2 ..., each line by its longer axis."""
    points = [*zip(numbers[0::2], numbers[1::2], strict=True), (numbers[0], numbers[1])]
    return sum(max(abs(a[0] - b[0]), abs(a[1] - b[1])) for a, b in pairwise(points))


def _rasterise(polygons: list[list[float]], height: int, width: int) -> list[Rle]:
    from pycocotools import mask as coco

    made = coco.frPyObjects(polygons, height, width)
    return [Rle(height, width, bytes(part["counts"])) for part in made]
