"""Batch of model inputs: frozen encoder outputs, dialogues and targets of B images.

Everything is padded on the right and says how long it really is; nothing depends on a fixed number
of visual tokens. Letters: B images, N superpixels, P patches, C channels, T text ids, S masks.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..pipeline.masks.upscale_matrix import upscale_matrices

IGNORE = -100  # label of a position that is not supervised
Self = TypeVar("Self", "Visual", "MaskLayout", "Layout", "Batch")


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
    real     (n,) int64 places of the real superpixels in the flattened (B*N); a `Layout` holds it,
             a batch does not
    """

    patches: Tensor
    grid: tuple[int, int]
    cover: Tensor | None = None
    masks: Tensor | None = None
    valid: Tensor | None = None
    cls: Tensor | None = None
    multi: Tensor | None = None
    means: Tensor | None = None
    real: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Visual":
        """A copy with `change` applied to every tensor."""
        return _map(self, change)


@dataclass(frozen=True, slots=True)
class MaskLayout:
    """S masks of a batch: whose they are, how they get their photographs' sizes, their targets.

    (Y,X) are the sides of the largest photographs among them, to which all are padded.

    images   of each mask
    filled   (B*n,) int64: the masks of each SAM embedding, one embedding after the other; the one
             with most has n, and where one has fewer any mask stands in
    place    (S,) int64 of each mask in `filled`
    matrix   (S,) int64 of each mask in `rows` and `columns`
    rows     (U,Y,h) float32, up-scaling of h rows of logits to each of U sizes; columns (U,w,X)
    beyond_y (S,Y) bool, what is padding; beyond_x (S,X) bool
    bits     (S,Y,ceil(X/8)) uint8: targets in {0,1}, high bit first, or None
    """

    images: tuple[int, ...]
    filled: Tensor
    place: Tensor
    matrix: Tensor
    rows: Tensor
    columns: Tensor
    beyond_y: Tensor
    beyond_x: Tensor
    bits: Tensor | None

    @classmethod
    def of(cls, batch: "Batch", images: Sequence[int], *, targets: bool = False) -> "MaskLayout":
        """Of masks of `images`, rising, on the device of `batch`, which is not waited for.

        targets  the masks are those of `batch`, which has targets
        """
        low, embeddings = 4 * batch.sam.shape[-1], len(batch.sam)
        owners = [image if embeddings > 1 else 0 for image in images]
        most = max(Counter(owners).values(), default=0)
        place = [most * owner + owners[:k].count(owner) for k, owner in enumerate(owners)]
        filled = torch.zeros(embeddings * most, dtype=torch.int64)
        filled[place] = torch.arange(len(place))

        sizes = [batch.sizes[image] for image in images]
        known = {size: u for u, size in enumerate(dict.fromkeys(sizes))}
        sides = torch.tensor(sizes, dtype=torch.int64).view(-1, 2)
        height, width = (max(side, default=1) for side in zip(*known or [(1, 1)], strict=True))
        rows = torch.zeros(len(known), height, low)
        columns = torch.zeros(len(known), low, width)
        for size, u in known.items():
            along_y, along_x = upscale_matrices(low, batch.square, size)
            rows[u, : size[0]] = torch.from_numpy(along_y)
            columns[u, :, : size[1]] = torch.from_numpy(along_x).T
        made = cls(
            tuple(images),
            filled,
            torch.tensor(place, dtype=torch.int64),
            torch.tensor([known[size] for size in sizes], dtype=torch.int64),
            rows,
            columns,
            torch.arange(height) >= sides[:, :1],
            torch.arange(width) >= sides[:, 1:],
            _aligned(batch, images, (height, width)) if targets else None,
        )
        return made.map(lambda x: x.to(batch.ids.device))

    def map(self, change: Callable[[Tensor], Tensor]) -> "MaskLayout":
        """A copy with `change` applied to every tensor."""
        return _map(self, change)

    def beyond(self) -> Tensor | None:
        """(S,Y,X) bool, what is padding; None where nothing is."""
        if len(self.rows) == 1:
            return None
        return self.beyond_y[:, :, None] | self.beyond_x[:, None]

    def targets(self) -> Tensor:
        """(S,Y,X) bool, False on padding. Raises ValueError if the batch holds no targets."""
        if self.bits is None:
            raise ValueError("this batch was made without target masks")
        rows = unpack_bits(self.bits.flatten(0, 1), self.beyond_x.shape[1])
        return rows.view(*self.bits.shape[:2], self.beyond_x.shape[1]).view(torch.bool)


def _aligned(batch: "Batch", images: Sequence[int], largest: tuple[int, int]) -> Tensor:
    """Targets of all masks (S,Y,ceil(X/8)): each row of pixels begins with a byte."""
    assert batch.packed is not None
    out = torch.zeros(len(images), largest[0], -(-largest[1] // 8), dtype=torch.uint8)
    first = 0
    for image in dict.fromkeys(images):
        (height, width), bits = batch.sizes[image], batch.packed[image]
        if width % 8:
            pixels = unpack_bits(bits, height * width).view(-1, height, width)
            bits = torch.from_numpy(np.packbits(pixels.numpy(), axis=2))
        rows = bits.view(len(bits), height, -1)
        out[first : first + len(rows), :height, : rows.shape[2]] = rows
        first += len(rows)
    return out


@dataclass(frozen=True, slots=True)
class Layout:
    """Lengths and places of a batch that the host knows, so that it never waits for values on a GPU.

    superpixels  per image, None without any
    real         (n,) int64 places of the real superpixels in the flattened (B*N), or None
    lengths      per image, ids that are real
    label_row    (t,) int64 image of each supervised id; label_col (t,) its index in the text
    masks        of all [SEG]
    shared       leading ids that all dialogues have in common
    slot         of <image> in the first dialogue
    segs         least and largest index of a [SEG] in the text, (0, 0) without any
    """

    superpixels: tuple[int, ...] | None
    real: Tensor | None
    lengths: tuple[int, ...]
    label_row: Tensor
    label_col: Tensor
    masks: MaskLayout
    shared: int
    slot: int
    segs: tuple[int, int]

    @classmethod
    def of(cls, batch: "Batch") -> "Layout":
        """Read a batch; waits if it is on a GPU."""
        valid = batch.visual.valid
        row, col = (batch.labels != IGNORE).nonzero(as_tuple=True)
        images, cols = batch.seg_row.tolist(), batch.seg_col.tolist()
        return cls(
            None if valid is None else tuple(valid.sum(1).tolist()),
            None if valid is None else valid.flatten().nonzero().flatten(),
            tuple(batch.lengths.tolist()),
            row,
            col,
            MaskLayout.of(batch, images, targets=batch.packed is not None),
            int((batch.ids == batch.ids[:1]).all(0).long().cumprod(0).sum()),
            int(batch.slot[0]),
            (min(cols, default=0), max(cols, default=0)),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Layout":
        """A copy with `change` applied to every tensor."""
        return replace(_map(self, change), masks=self.masks.map(change))


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: B images, each with one dialogue of up to a few turns.

    ids       (B,T) int64 text ids, right-padded; one of them is the <image> placeholder
    lengths   (B,) int64 ids that are real
    labels    (B,T) int64: ids where supervised (answers and their </s>), else `IGNORE`; not shifted
    slot      (B,) int64 index in the text of <image>
    seg_row   (S,) int64 image of each [SEG], sorted by image, then by turn
    seg_col   (S,) int64 index in the text of each [SEG]
    sam       (B,c,h,w) float SAM image embedding, h = w
    square    side in pixels of SAM's input, of which `sam` is the embedding
    sizes     (H,W) of each photograph
    packed    per image (n, ceil(H*W/8)) uint8: targets in {0,1}, row-major bits, high bit first; they
              stay on the CPU, the layout takes those of all masks to the device
    sent_ids  per image, the sentence of each [SEG]
    known     its `layout`, if that was made; `dataclasses.replace` drops it
    """

    visual: Visual
    ids: Tensor
    lengths: Tensor
    labels: Tensor
    slot: Tensor
    seg_row: Tensor
    seg_col: Tensor
    sam: Tensor
    square: int
    sizes: tuple[tuple[int, int], ...]
    packed: tuple[Tensor, ...] | None
    sent_ids: tuple[tuple[int, ...], ...]
    known: Layout | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def layout(self) -> Layout:
        """Its lengths and places; read now if they are not known, which waits for a GPU."""
        return self.known if self.known is not None else Layout.of(self)

    def with_layout(self) -> "Batch":
        """This batch, its layout made: `to` does so before the copy."""
        return self if self.known is not None else replace(self)._knowing(Layout.of(self))

    def pinned(self) -> "Batch":
        """A copy whose tensors lie in pinned memory; those that do already are shared."""
        return self.map(lambda x: x if x.is_pinned() else x.pin_memory())

    def _knowing(self, layout: Layout) -> "Batch":
        object.__setattr__(self, "known", layout)  # of a copy that nobody else holds
        return self

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """A copy on `device`; floating-point tensors but `cover` become `dtype` if given.

        The layout is made before, so that nothing waits for the device later.
        """
        cover = self.visual.cover  # Eq. 2 and 3 are float32: bfloat16 would round their input
        # Elsewhere than on CUDA a copy may be made after its source was freed (pytorch#189690).
        later = torch.device(device).type == "cuda"

        def copied(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=later)

        def moved(x: Tensor) -> Tensor:
            cast = dtype is not None and x.is_floating_point() and x is not cover
            return copied(x).to(dtype) if cast else copied(x)

        return self._map(moved)._knowing(self.layout.map(copied))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """A copy with `change` applied to every tensor but `packed`, its layout's too."""
        changed = self._map(change)
        return changed if self.known is None else changed._knowing(self.known.map(change))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(_map(self, change), visual=self.visual.map(change))

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
