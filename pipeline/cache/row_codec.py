"""Encode `ImageRow` as padded arrays, and decode it.

The row of `rle` is little-endian: u16 n, then n + 1 u32 offsets from the row's start, then the n
counts strings; the rest is zero. A row that does not fit is an error of that image, never cut.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..display import counted
from ..errors import CacheError, ImageError
from ..records import ImageRow, Superpixels
from .int8 import quantise
from .plan import Plan, PlanImage

Array = NDArray[Any]
MAX_SIDE = 65_535  # box and crop are uint16


def row_arrays(plan: Plan, image: PlanImage, row: ImageRow) -> dict[str, Array]:
    """The unpadded arrays of one image by array name, checked against the plan.

    Raises ImageError if the image does not fit (`too_many_superpixels`, `rle_overflow`,
    `nonfinite_features`, `too-large`); CacheError if the row is not one of this plan (our bug).
    """
    found = row.superpixels
    n = len(found)
    if row.image_id != image.image_id or (found.height, found.width) != (image.height, image.width):
        raise CacheError(
            f"image {image.image_id} ({image.height}x{image.width}): got the row of image "
            f"{row.image_id} ({found.height}x{found.width}): rows must follow the plan's order"
        )
    if n < 1:
        raise CacheError(f"image {image.image_id}: no superpixel: an empty result needs a fallback")
    if n > plan.k:
        raise ImageError("too_many_superpixels", f"{counted(n, 'superpixel')}, the cap is {plan.k}")
    if max(found.height, found.width) > MAX_SIDE:
        raise ImageError("too-large", f"{found.height}x{found.width}, at most {MAX_SIDE} a side")
    arrays = {**_features(plan, row), **_superpixels(plan, found)}
    arrays["cover"] = _fit(row.cover, "float16", (n, plan.patches), "cover", image)
    arrays["sspe_masks"] = _fit(row.sspe_masks, "uint8", (n, plan.mask_bytes), "sspe_masks", image)
    return arrays


def pack_rles(rles: tuple[bytes, ...], width: int) -> NDArray[np.uint8]:
    """The used part of an RLE row. Raises ImageError (`rle_overflow`) if it exceeds `width`."""
    ends = np.cumsum([2 + 4 * (len(rles) + 1), *map(len, rles)])
    if ends[-1] > width:
        raise ImageError(
            "rle_overflow",
            f"RLE row of {ends[-1]} bytes, the plan allows {width}: fewer superpixels "
            "(--max-superpixels) or a smaller copy of the photograph fit",
        )
    head = np.array([len(rles)], "<u2").tobytes() + ends.astype("<u4").tobytes()
    return np.frombuffer(head + b"".join(rles), np.uint8)


def unpack_rles(row: NDArray[np.uint8]) -> tuple[bytes, ...]:
    """The counts strings of a padded RLE row. Raises CacheError if the row is inconsistent."""
    data = row.tobytes()
    n = int.from_bytes(data[:2], "little")
    start = 2 + 4 * (n + 1)
    if n < 1 or start > len(data):
        raise CacheError(f"RLE row says {counted(n, 'superpixel')} in {len(data)} bytes")
    ends = np.frombuffer(data, "<u4", n + 1, 2).astype(np.int64)
    if ends[0] != start or np.any(np.diff(ends) < 1) or ends[-1] > len(data):
        raise CacheError("RLE row has offsets out of order")
    return tuple(data[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def superpixels_of(
    rles: tuple[bytes, ...],
    arrays: Mapping[str, Array],
    size: tuple[int, int],
    fallback: bool,
    survivors: Mapping[str, int],
) -> Superpixels:
    """A `Superpixels` from its stored arrays (already cut to the n used rows)."""
    return Superpixels(
        height=size[0],
        width=size[1],
        rles=rles,
        level=arrays["level"],
        predicted_iou=arrays["iou"],
        stability=arrays["stability"],
        area=arrays["area"],
        box=arrays["box"].astype(np.int32),
        point=arrays["point"],
        crop=arrays["crop"].astype(np.int32),
        fallback=fallback,
        survivors=dict(survivors),
    )


def _features(plan: Plan, row: ImageRow) -> dict[str, Array]:
    p, c = plan.patches, plan.channels
    optional = {
        "layers": (row.layers, (plan.layers, p, c) if plan.layers else None),
        "cls": (row.cls, (c,) if plan.cls else None),
        "sam": (row.sam, plan.sam),
    }
    patches = _finite(_fit(row.patches, "float16", (p, c), "patches", row))
    arrays: dict[str, Array] = {}
    if plan.int8:
        arrays["dino_q8"], arrays["dino_scale"] = quantise(patches)
    else:
        arrays["dino"] = patches
    for name, (value, shape) in optional.items():
        if (value is None) != (shape is None):
            raise CacheError(f"image {row.image_id}: {name} does not go with the plan's recipe")
        if value is not None and shape is not None:
            arrays[name] = _finite(_fit(value, "float16", shape, name, row))
    return arrays


def _superpixels(plan: Plan, found: Superpixels) -> dict[str, Array]:
    return {
        "rle": pack_rles(found.rles, plan.rle_bytes),
        "level": found.level,
        "area": found.area,
        "iou": found.predicted_iou,
        "stability": found.stability,
        "box": _as_u16(found.box),
        "point": found.point,
        "crop": _as_u16(found.crop),
    }


def _as_u16(box: NDArray[np.int32]) -> NDArray[np.uint16]:
    if box.size and (box.min() < 0 or box.max() > MAX_SIDE):
        raise CacheError(f"box value {box.min()} or {box.max()} outside 0..{MAX_SIDE}")
    return box.astype(np.uint16)


def _fit(
    value: Array, dtype: str, shape: tuple[int, ...], name: str, of: ImageRow | PlanImage
) -> Array:
    if value.dtype != np.dtype(dtype) or value.shape != shape:
        raise CacheError(
            f"image {of.image_id}: {name} is {value.dtype}{list(value.shape)}, "
            f"the plan says {dtype}{list(shape)}"
        )
    return np.ascontiguousarray(value)


def _finite(value: Array) -> Array:
    # Ten times faster than np.isfinite on float16: its bits order as integers, Inf and NaN on top.
    if value.view(np.int16).max() >= 0x7C00 or value.view(np.uint16).max() >= 0xFC00:
        raise ImageError("nonfinite_features", "the encoder gave NaN, Inf or a value over 65504")
    return value
