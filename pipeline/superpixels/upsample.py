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

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
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


def upsampler(shape: UpsampleShape, low: Tensor, *, fused: bool) -> Callable[[Tensor], Tensor]:
    """A function (K,h,w) fp32 -> (K,H,W) fp32 for logits like `low` (..., h, w)."""
    if not fused:
        return lambda chunk: two_step(chunk, shape)
    height, width = low.shape[-2:]
    rows = _axis(height, shape.image_size, shape.resized[0], shape.size[0]).to(low.device)
    columns = _axis(width, shape.image_size, shape.resized[1], shape.size[1]).to(low.device)
    return lambda chunk: _composite(chunk, rows, columns)


def two_step(low: Tensor, shape: UpsampleShape) -> Tensor:
    """(K,h,w) -> (K,H,W) by the published arithmetic: to image_size^2, un-pad, to (H,W)."""
    used, padded = _needed(low, shape)
    if filler := -len(used) % 3:
        used = torch.cat([used, used[:1].expand(filler, -1, -1)])
    threes = used.reshape(len(used) // 3, 3, *used.shape[1:])
    large = F.interpolate(threes, padded, mode="bilinear", align_corners=False)
    large = large[..., : shape.resized[0], : shape.resized[1]]
    found = F.interpolate(large, shape.size, mode="bilinear", align_corners=False)
    return found.flatten(0, 1)[: len(low)]


def _composite(low: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # The result lies column-major in memory, the order in which runs are read.
    if low.is_cuda:  # one launch; on a CPU a batched product is no faster
        return (columns @ (rows @ low).mT).transpose(1, 2)
    scaled = low.new_empty((len(low), len(columns), len(rows)))
    for mask, result in zip(low, scaled, strict=True):
        torch.matmul(columns, (rows @ mask).T, out=result)
    return scaled.transpose(1, 2)


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
def _axis(low: int, padded: int, resized: int, size: int) -> Tensor:
    """(size, low) both bilinear steps along one axis, in double until the end."""
    return (_bilinear(resized, size) @ _bilinear(low, padded)[:resized]).float()


def _bilinear(source: int, target: int) -> Tensor:
    """(target, source) fp64 matrix of 1-D `F.interpolate(mode="linear", align_corners=False)`."""
    eye = torch.eye(source, dtype=torch.float64)[None]
    return F.interpolate(eye, size=target, mode="linear", align_corners=False)[0].T
