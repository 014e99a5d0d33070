"""Encode `ImageRow` as padded arrays, and decode it.

The row of `rle` is little-endian: u16 n, then n + 1 u32 offsets from the row's start, then the n
counts strings; the rest is zero. A row that does not fit is an error of that image, never cut.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..display import counted
from ..errors import CacheError, ImageError
from ..records import ImageRow, Superpixels
from . import int4
from .image_list import PlanImage
from .int4 import superpixel_means
from .int8 import dequantise, quantise
from .layers import Layer
from .plan import Plan
from .worth import Prior, spread_order

Array = NDArray[Any]
Value = TypeVar("Value")
MAX_SIDE = 65_535  # box and crop are uint16


def row_arrays(plan: Plan, layer: Layer, image: PlanImage, row: ImageRow) -> dict[str, Array]:
    """The unpadded arrays of one image in one layer by name, checked against the plan.

    Raises ImageError if the image does not fit (`too_many_superpixels`, `rle_overflow`,
    `nonfinite_features`, `too-large`); CacheError if the row is not one of this plan (our bug).
    """
    if row.image_id != image.image_id:
        raise CacheError(f"image {image.image_id}: got the row of image {row.image_id}")
    p, c = plan.patches, plan.channels
    match layer.kind:
        case "superpixels":
            return _superpixels(plan, image, _given(row.superpixels, "superpixels", row))
        case "cover":
            n = len(_given(row.cover, "cover", row))
            return {
                "cover": _fit(row.cover, "float16", (n, p), "cover", row),
                "sspe_masks": _fit(
                    row.sspe_masks, "uint8", (n, plan.mask_bytes), "sspe_masks", row
                ),
            }
        case "pooled":
            cover, patches = _cover_and_patches(plan, row)
            maps = [patches, *(_blocks(plan, row) if plan.thin and plan.blocks else ())]
            return {"pooled": np.hstack([superpixel_means(cover, one) for one in maps])}
        case "features":
            if plan.mean_int4:
                cover, patches = _cover_and_patches(plan, row)
                found = int4.encode(cover, superpixel_means(cover, patches), patches)
                return dict(zip(("dino_q4", "dino_scale"), found, strict=True))
            patches = _finite(_fit(row.patches, "float16", (p, c), "patches", row))
            if plan.int8:
                return dict(zip(("dino_q8", "dino_scale"), quantise(patches), strict=True))
            return {"dino": patches}
        case "layers":
            return {"layers": _blocks(plan, row)}
        case "cls":
            return {"cls": _finite(_fit(row.cls, "float16", (c,), "cls", row))}
        case "order":
            return _order(plan, row)
    assert plan.sam is not None
    sam = _finite(_fit(row.sam, "float16", plan.sam, "sam", row))
    if not plan.sam_int8:
        return {"sam": sam}
    # Groups of 64 pixels of one channel: channels differ in size, neighbours hardly.
    q, scale = quantise(sam.reshape(len(sam), -1))
    return {"sam_q8": q.reshape(sam.shape), "sam_scale": scale}


def stored_features(plan: Plan, read: Callable[[str], Array]) -> Array:
    """(P,C) patch features, float16 or float32, of a plan's arrays; `read` gives an array's row."""
    if plan.int8:
        return dequantise(read("dino_q8"), read("dino_scale"))
    if plan.mean_int4:
        return int4.decode(read("cover"), read("pooled"), read("dino_q4"), read("dino_scale"))
    return read("dino")


def stored_sam(plan: Plan, read: Callable[[str], Array]) -> Array:
    """The SAM embedding, float16 or float32, of a plan's arrays, as `stored_features`."""
    if plan.sam_int8:
        q = read("sam_q8")
        return dequantise(q.reshape(len(q), -1), read("sam_scale")).reshape(q.shape)
    return read("sam")


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


def _superpixels(plan: Plan, image: PlanImage, found: Superpixels) -> dict[str, Array]:
    n = len(found)
    if (found.height, found.width) != (image.height, image.width):
        raise CacheError(
            f"image {image.image_id} ({image.height}x{image.width}): got superpixels of "
            f"{found.height}x{found.width}: rows must follow the plan's order"
        )
    if n < 1:
        raise CacheError(f"image {image.image_id}: no superpixel: an empty result needs a fallback")
    if n > plan.k:
        raise ImageError("too_many_superpixels", f"{counted(n, 'superpixel')}, the cap is {plan.k}")
    if max(found.height, found.width) > MAX_SIDE:
        raise ImageError("too-large", f"{found.height}x{found.width}, at most {MAX_SIDE} a side")
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


def _order(plan: Plan, row: ImageRow) -> dict[str, Array]:
    """Worth and order, of the means as the plan's cache gives them back."""
    assert plan.recipe.order is not None
    means = row.means
    if means is None:
        cover, patches = _cover_and_patches(plan, row)
        if plan.int8:
            patches = dequantise(*quantise(patches)).astype(np.float16)
        means = superpixel_means(cover, patches)
    found = _given(row.superpixels, "superpixels", row)
    worth = Prior.parse(plan.recipe.order.prior).worth(means, found)
    return {"order": spread_order(worth, means).astype(np.uint16), "worth": worth}


def _cover_and_patches(plan: Plan, row: ImageRow) -> tuple[Array, Array]:
    n, p = len(_given(row.cover, "cover", row)), plan.patches
    cover = _fit(row.cover, "float16", (n, p), "cover", row)
    return cover, _finite(_fit(row.patches, "float16", (p, plan.channels), "patches", row))


def _blocks(plan: Plan, row: ImageRow) -> Array:
    """The maps beside the features, as `Plan.layers_shape` says."""
    return _finite(_fit(row.layers, "float16", plan.layers_shape, "layers", row))


def _given(value: Value | None, name: str, row: ImageRow) -> Value:
    if value is None:
        raise CacheError(f"image {row.image_id}: the row has no {name}")
    return value


def _as_u16(box: NDArray[np.int32]) -> NDArray[np.uint16]:
    if box.size and (box.min() < 0 or box.max() > MAX_SIDE):
        raise CacheError(f"box value {box.min()} or {box.max()} outside 0..{MAX_SIDE}")
    return box.astype(np.uint16)


def _fit(value: Array | None, dtype: str, shape: tuple[int, ...], name: str, of: ImageRow) -> Array:
    value = _given(value, name, of)
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
