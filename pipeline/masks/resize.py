"""Image resizing shared by SAM and the vision encoders, in every command.

Pillow's antialiased filters are separable, and each of its two passes rounds to 8 bits, so their
order can be seen in the result. Up to version 12.2 the horizontal pass always came first; from 13.0
on, whichever is cheaper. Cached bits must not depend on that: here the passes are two calls, along
the rows and then along the columns, which is what the published weights were trained with.

`resize_tensor` does the same on a GPU, with Pillow's weights in its fixed point: the same bits again.
Source: Pillow 12.2, src/libImaging/Resample.c.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

BITS: Final = 22  # of a weight, behind the point
SUPPORT: Final = {"bilinear": 1.0, "bicubic": 2.0}  # source pixels on either side, not shrunk

Filter = Literal["bilinear", "bicubic"]
Box = tuple[float, float, float, float]


def resize(
    image: NDArray[np.uint8], height: int, width: int, kind: Filter, box: Box | None = None
) -> NDArray[np.uint8]:
    """`image` (H,W,3) uint8 to (height,width,3): Pillow's filter, along x first, then along y.

    box  (x0, y0, x1, y1) in pixels of `image`, the part that is seen; None: all of it

    Bit-equal to `Image.resize` of Pillow 12.2 with the same filter and box.
    """
    from PIL import Image

    x0, y0, x1, y1 = box or (0, 0, image.shape[1], image.shape[0])
    seen = Image.fromarray(image)
    seen = _pass(seen, (width, seen.height), kind, (x0, 0, x1, seen.height))
    return np.array(_pass(seen, (width, height), kind, (0, y0, width, y1)))


def _pass(image: "Image", size: tuple[int, int], kind: Filter, box: Box) -> "Image":
    from PIL import Image

    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[kind]
    return image.resize(size, how, box, reducing_gap=None)


def resize_tensor(
    image: "Tensor", height: int, width: int, kind: Filter, box: Box | None = None
) -> "Tensor":
    """As `resize`, of a tensor (H,W,3) uint8 on its device: the same bits."""
    x0, y0, x1, y1 = box or (0, 0, image.shape[1], image.shape[0])
    seen = _weighted(image, 1, *_taps(image.shape[1], x0, x1, width, kind))
    return _weighted(seen, 0, *_taps(image.shape[0], y0, y1, height, kind))


def _weighted(
    image: "Tensor", along: int, first: NDArray[np.int64], weights: NDArray[np.int32]
) -> "Tensor":
    """One pass of a filter along an axis: sums in int32, rounded, cut to 8 bits."""
    import torch

    shape = [1, 1, 1]
    shape[along] = len(first)
    start = torch.from_numpy(first).to(image.device)
    total = torch.full((), 1 << (BITS - 1), dtype=torch.int32, device=image.device)
    for tap, weight in enumerate(torch.from_numpy(weights).to(image.device)):
        at = (start + tap).clamp_max_(image.shape[along] - 1)  # beyond the edge the weight is 0
        total = total + image.index_select(along, at).int() * weight.view(shape)
    return (total >> BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=256)
def _taps(
    size: int, start: float, stop: float, wanted: int, kind: Filter
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """First source pixel of each wanted one (W,), and weights (K,W) of it and the next."""
    low, high = np.float32(start), np.float32(stop)  # as Pillow holds a box
    scale = float(high - low) / wanted
    widened = max(scale, 1.0)
    support = SUPPORT[kind] * widened
    taps = math.ceil(support) * 2 + 1
    centre = float(low) + (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), size)
    pixels = first + np.arange(taps)[:, None]  # (K,W)
    distance = np.abs((pixels - centre + 0.5) * (1.0 / widened))
    weights = np.where(pixels < last, _FILTERS[kind](distance), 0.0)
    total = np.zeros(wanted)
    for row in weights:  # in Pillow's order
        total += row
    weights = weights / np.where(total == 0, 1, total) * (1 << BITS)
    return first, np.trunc(weights + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - x, 0.0)


def _cubic(x: NDArray[np.float64], a: float = -0.5) -> NDArray[np.float64]:
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_FILTERS: Final = {"bilinear": _triangle, "bicubic": _cubic}
