"""Batch of model inputs: frozen encoder outputs, dialogues and targets of B images.

Everything is padded on the right and says how long it really is; nothing depends on a fixed number
of visual tokens. Letters: B images, N superpixels, P patches, C channels, T text ids, S masks.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

IGNORE = -100  # label of a position that is not supervised
Self = TypeVar("Self", "Visual", "Batch")


@dataclass(frozen=True, slots=True)
class Visual:
    """Inputs of a projector.

    patches  (B,P,C) float, raster order of `grid`; (B,0,C) of a thin cache, which has `means`
    grid     (h, w) with h * w = P
    cover    (B,N,P) float, share of each patch covered by each superpixel, or None
    masks    (B,N,h',w') uint8 0/1, the superpixels on the SSPE grid, or None
    valid    (B,N) bool, False on padding; None exactly when `cover` is
    cls      (B,C) float CLS token, or None
    multi    (B,P,4C) float, four encoder layers side by side, or None
    means    (B,N,C) float, the mean of the patches under each superpixel by `cover`, zero on padding,
             or None; of a thin cache, of which `multi` are means, too: (B,N,4C)
    """

    patches: Tensor
    grid: tuple[int, int]
    cover: Tensor | None = None
    masks: Tensor | None = None
    valid: Tensor | None = None
    cls: Tensor | None = None
    multi: Tensor | None = None
    means: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Visual":
        """A copy with `change` applied to every tensor."""
        return _map(self, change)


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: B images, each with one dialogue of up to a few turns.

    ids       (B,T) int64 text ids, right-padded; one of them is the <image> placeholder
    lengths   (B,) int64 ids that are real
    labels    (B,T) int64: ids where supervised (answers and their </s>), else `IGNORE`; not shifted
    slot      (B,) int64 index in the text of <image>
    seg_row   (S,) int64 image of each [SEG], sorted by image, then by turn
    seg_col   (S,) int64 index in the text of each [SEG]
    sam       (B,c,h,w) float SAM image embedding
    sizes     (H,W) of each photograph
    packed    per image (n, ceil(H*W/8)) uint8: targets in {0,1}, row-major bits, high bit first
    sent_ids  per image, the sentence of each [SEG]
    """

    visual: Visual
    ids: Tensor
    lengths: Tensor
    labels: Tensor
    slot: Tensor
    seg_row: Tensor
    seg_col: Tensor
    sam: Tensor
    sizes: tuple[tuple[int, int], ...]
    packed: tuple[Tensor, ...] | None
    sent_ids: tuple[tuple[int, ...], ...]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """A copy on `device`; floating-point tensors but `cover` become `dtype` if given."""

        def move(x: Tensor) -> Tensor:
            kind = dtype if dtype is not None and x.is_floating_point() else x.dtype
            return x.to(device, kind, non_blocking=True)

        packed = self.packed and tuple(move(x) for x in self.packed)
        visual, cover = self.visual.map(move), self.visual.cover
        if cover is not None:  # Eq. 2 and 3 are computed in float32: bfloat16 would round its input
            visual = replace(visual, cover=cover.to(device, non_blocking=True))
        return replace(_map(self, move), visual=visual, packed=packed)

    def targets(self) -> list[Tensor]:
        """Per image (n,H,W) uint8 in {0,1}. Raises ValueError if the batch holds no targets."""
        if self.packed is None:
            raise ValueError("this batch was made without target masks")
        return [
            unpack_bits(bits, h * w).view(-1, h, w)
            for bits, (h, w) in zip(self.packed, self.sizes, strict=True)
        ]


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """(n, ceil(count/8)) uint8 -> (n, count) uint8 in {0,1}, high bit first (as np.packbits)."""
    shifts = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    return ((packed.unsqueeze(-1) >> shifts) & 1).flatten(1)[:, :count]


def pack_bits(masks: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """(n,H,W) uint8 in {0,1} -> (n, ceil(H*W/8)) uint8, the inverse of `unpack_bits`."""
    count, height, width = masks.shape
    return torch.from_numpy(np.packbits(masks.reshape(count, height * width), axis=1))


def _map(value: Self, change: Callable[[Tensor], Tensor]) -> Self:
    found: dict[str, Any] = {f.name: getattr(value, f.name) for f in fields(value)}
    changed: dict[str, Any] = {k: change(x) for k, x in found.items() if isinstance(x, Tensor)}
    return replace(value, **changed)
