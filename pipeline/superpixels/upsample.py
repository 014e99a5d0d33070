"""Upsample SAM's low-resolution logits to image size, for the selected masks.

`exact`  two bilinear `F.interpolate` steps, bit-equal to `Sam.postprocess_masks`; only the rows and
         columns that survive the un-padding are computed, which changes no bit.
`fused`  both steps are linear maps along one axis each, so they compose into one matrix per axis:
         two small fp32 products and no image_size^2 intermediate (rounding only, about 1e-5).

Work goes in chunks that fit a cache (CPU) or a slice of memory (GPU); the chunk size changes no bit
of `exact`. The published code up-scales (N,3,h,w), a prompt's three masks at once, and torch's
bilinear CPU kernel rounds otherwise for exactly three channels than for any other number: so masks
go through it in threes here too, whatever the chunk.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

CPU_CHUNK_BYTES = 16 << 20  # four 1024 x 1024 fp32 intermediates; 4 to 16 MiB measured best
GPU_CHUNK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class UpsampleShape:
    """image_size: side of the padded model input; resized: (h,w) in it; size: (H,W) wanted."""

    image_size: int
    resized: tuple[int, int]
    size: tuple[int, int]

    def chunk(self, device: torch.device, fused: bool) -> int:
        """Masks to up-scale at once; a multiple of three, as `two_step` goes in threes."""
        pixels = self.size[0] * self.size[1]
        largest = pixels if fused else max(pixels, self.image_size**2)
        budget = CPU_CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES
        return 3 * max(1, budget // (12 * largest))


@dataclass(frozen=True, slots=True)
class Axis:
    """Both bilinear steps along one axis as a matrix (size, low) fp32.

    first, last  (size,) the low-res pixels that an image pixel is made of, one to spare at each end
    """

    matrix: Tensor
    first: NDArray[np.int64]
    last: NDArray[np.int64]


def axes(shape: UpsampleShape, low: Tensor) -> tuple[Axis, Axis]:
    """Along y and along x, for logits (..., h, w)."""
    sides = zip(low.shape[-2:], shape.resized, shape.size, strict=True)
    y, x = (_axis(side, shape.image_size, resized, size) for side, resized, size in sides)
    return y, x


def fused(low: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(..., h, w) -> (..., H, W) by the matrices (H,h) and (W,w).

    The result lies column-major in memory, the order in which runs are read.
    """
    return (columns @ (rows @ low).mT).mT


def two_step(low: Tensor, shape: UpsampleShape) -> Tensor:
    """(K,h,w) -> (K,H,W) by the published arithmetic: to image_size^2, un-pad, to (H,W)."""
    used, padded = _needed(low, shape)
    if filler := -len(used) % 3:
        used = torch.cat([used, used[:1].expand(filler, -1, -1)])
    threes = used.reshape(len(used) // 3, 3, *used.shape[1:])
    large = F.interpolate(threes, padded, mode="bilinear", align_corners=False)
    large = large[..., : shape.resized[0], : shape.resized[1]]
    if shape.resized == shape.size:  # the second step would give each value times one
        return large.flatten(0, 1)[: len(low)]
    found = F.interpolate(large, shape.size, mode="bilinear", align_corners=False)
    return found.flatten(0, 1)[: len(low)]


def _needed(low: Tensor, shape: UpsampleShape) -> tuple[Tensor, tuple[int, int]]:
    """The part of `low` that reaches the un-padded region, and the size to up-scale it to."""
    ratio = shape.image_size // low.shape[-1]
    square = low.shape[-2] == low.shape[-1] and ratio * low.shape[-1] == shape.image_size
    if not square or ratio & (ratio - 1):
        return low, (shape.image_size, shape.image_size)
    # With a power-of-two ratio the source coordinates do not depend on the length, so a prefix
    # gives the same bits; one low-res pixel more keeps the clamp at its end out of sight.
    height, width = (min(low.shape[-1], -(-n // ratio) + 1) for n in shape.resized)
    return low[..., :height, :width], (height * ratio, width * ratio)


@lru_cache(maxsize=64)
def _axis(low: int, padded: int, resized: int, size: int) -> Axis:
    """In double until the end."""
    matrix = _bilinear(resized, size) @ _bilinear(low, padded)[:resized]
    used = (matrix != 0).numpy()
    first, last = used.argmax(1), low - 1 - used[:, ::-1].argmax(1)
    return Axis(matrix.float(), np.maximum(first - 1, 0), np.minimum(last + 1, low - 1))


def _bilinear(source: int, target: int) -> Tensor:
    """(target, source) fp64 matrix of 1-D `F.interpolate(mode="linear", align_corners=False)`."""
    eye = torch.eye(source, dtype=torch.float64)[None]
    return F.interpolate(eye, size=target, mode="linear", align_corners=False)[0].T
