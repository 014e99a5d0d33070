"""Array schema of a cache: names, dtypes, shapes, codecs.

One chunk = one image's row, one shard file = 64 rows. Ragged fields are padded to the plan's
`max_superpixels` and compressed, so that zeros cost nothing and an image's index is its row number
in every array. Features are not compressed: lossless codecs save under 15 % of float16 features and
cost 7-20x read time, so they carry a crc32c only.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from ..display import show
from ..errors import CacheError
from .int8 import GROUP

CRC32C = "crc32c"


@dataclass(frozen=True)
class ArraySpec:
    """One array: (N, *row) of `dtype`; `codec` is what follows `bytes` for one row.

    level   zstd level, or None for crc32c without compression
    layer   folder of the layer it is an array of, "" for none yet
    axes    names of the axes, the first is always "image"; one name has one length in a cache
    """

    name: str
    dtype: str
    row: tuple[int, ...]
    level: int | None
    axes: tuple[str, ...]
    meaning: str
    layer: str = ""

    @property
    def path(self) -> str:
        """Its folder in the cache."""
        return f"{self.layer}/{self.name}"

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row before the codec."""
        return prod(self.row) * np.dtype(self.dtype).itemsize

    @cached_property
    def numpy(self) -> np.dtype[np.generic]:
        """The dtype in memory and on disk: always little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def small(self) -> bool:
        """Whether rows are so small that an object store is asked for 64 of them, a shard file, at once."""
        return self.level is not None and self.axes[-1] != "channel"

    @property
    def codecs(self) -> tuple[str, ...]:
        """The codec chain of one row, by Zarr name."""
        return ("bytes", CRC32C if self.level is None else "zstd")


def array_specs(
    *,
    k: int,
    patches: int,
    channels: int,
    mask_bytes: int,
    rle_bytes: int,
    stored: str,
    means: int,
    layers: tuple[int, int, int] | None,
    cls: bool,
    sam: tuple[int, int, int] | None,
    sam_int8: bool = False,
    order: bool = False,
) -> dict[str, tuple[ArraySpec, ...]]:
    """The sharded arrays of a plan with these sizes by kind of layer, in the order of writing.

    means   channels of the stored means of the superpixels, 0 for none
    layers  shape of a row of the array `layers`, None for none
    """
    p, c = patches, channels
    table = {
        "superpixels": (
            ArraySpec("rle", "uint8", (rle_bytes,), 5, ("byte",), "COCO RLE, the truth"),
            ArraySpec("level", "uint8", (k,), 3, ("superpixel",), "0 sub-part, 1 part, 2 whole"),
            ArraySpec("area", "int32", (k,), 3, ("superpixel",), "pixels"),
            ArraySpec("iou", "float32", (k,), 3, ("superpixel",), "predicted IoU"),
            ArraySpec("stability", "float32", (k,), 3, ("superpixel",), "stability score"),
            ArraySpec("box", "uint16", (k, 4), 3, ("superpixel", "xyxy"), "inclusive maxima"),
            ArraySpec("point", "float32", (k, 2), 3, ("superpixel", "xy"), "prompt, image pixels"),
            ArraySpec("crop", "uint16", (k, 4), 3, ("superpixel", "xyxy"), "exclusive maxima"),
        ),
        "cover": (
            ArraySpec("cover", "float16", (k, p), 3, ("superpixel", "patch"), "covered share"),
            ArraySpec(
                "sspe_masks",
                "uint8",
                (k, mask_bytes),
                3,
                ("superpixel", "mask_byte"),
                "packed masks",
            ),
        ),
    }
    if stored != "mean":
        table["features"] = _features(p, c, stored)
    if means:
        one, row = ("superpixel", "channel"), (k, means)
        table["pooled"] = (ArraySpec("pooled", "float16", row, 3, one, "mean of the patches"),)
    if layers:
        axes = ("layer", "patch", "channel")
        table["layers"] = (ArraySpec("layers", "float16", layers, None, axes, "encoder"),)
    if cls:
        table["cls"] = (ArraySpec("cls", "float16", (c,), None, ("channel",), "CLS token"),)
    if sam is not None:
        table["sam"] = _sam(sam, sam_int8)
    if order:
        table["order"] = (
            ArraySpec("order", "uint16", (k,), 3, ("superpixel",), "first to be kept first"),
            ArraySpec("worth", "float16", (k,), 3, ("superpixel",), "expected best IoU"),
        )
    return table


# The small arrays `finalize` writes into a layer for other tools: one chunk each, not sharded. `k`
# is of the superpixels alone.
COLUMNS = (
    ArraySpec("status", "uint8", (), 3, (), "0 missing, 1 ok, 2 quarantined"),
    ArraySpec("k", "uint16", (), 3, (), "superpixels"),
)


def spec_of(specs: tuple[ArraySpec, ...], name: str) -> ArraySpec:
    """The array called `name`. Raises CacheError if the plan stores none."""
    for spec in specs:
        if spec.name == name:
            return spec
    raise CacheError(
        f"this cache stores no array {show(name)}; it has "
        + ", ".join(spec.name for spec in specs)
        + ": add it with `svp cache add`"
    )


def _features(p: int, c: int, stored: str) -> tuple[ArraySpec, ...]:
    if stored == "float16":
        return (ArraySpec("dino", "float16", (p, c), None, ("patch", "channel"), "features"),)
    scales = ArraySpec(
        "dino_scale", "float16", (p, -(-c // GROUP)), None, ("patch", "group"), "scales"
    )
    if stored == "int8":
        axes = ("patch", "channel")
        return (ArraySpec("dino_q8", "int8", (p, c), None, axes, "features / scale"), scales)
    axes, row = ("patch", "pair"), (p, -(-c // 2))
    return (ArraySpec("dino_q4", "uint8", row, None, axes, "(features - means) / scale"), scales)


def _sam(shape: tuple[int, int, int], int8: bool) -> tuple[ArraySpec, ...]:
    axes = ("sam_channel", "y", "x")
    if not int8:
        return (ArraySpec("sam", "float16", shape, None, axes, "SAM image embedding"),)
    channels, height, width = shape
    scales = (channels, -(-height * width // GROUP))
    return (
        ArraySpec("sam_q8", "int8", shape, None, axes, "SAM image embedding / scale"),
        ArraySpec("sam_scale", "float16", scales, None, ("sam_channel", "sam_group"), "scales"),
    )
