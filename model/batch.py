"""Batch of model inputs: frozen encoder outputs, dialogues and targets of B images.

Everything is padded on the right and says how long it really is; nothing depends on a fixed number
of visual tokens. Letters: B images, N superpixels, P patches, C channels, T text ids, S masks.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

IGNORE = -100  # label of a position that is not supervised
Self = TypeVar("Self", "Visual", "Layout", "Batch")


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
class SameSize:
    """Masks whose photographs have one size (H,W): `members`, their places among the batch's masks,
    and the same as a tensor, `index`.
    """

    size: tuple[int, int]
    members: tuple[int, ...]
    index: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Lengths and places of a batch that the host knows, so that it never waits for values on a GPU.

    superpixels  per image, None without any
    real         (n,) int64 places of the real superpixels in the flattened (B*N), or None
    lengths      per image, ids that are real
    label_row    (t,) int64 image of each supervised id; label_col (t,) its index in the text
    images       of each mask
    sizes        the masks by size of their photograph
    shared       leading ids that all dialogues have in common
    slot         of <image> in the first dialogue
    segs         least and largest index of a [SEG] in the text, (0, 0) without any
    """

    superpixels: tuple[int, ...] | None
    real: Tensor | None
    lengths: tuple[int, ...]
    label_row: Tensor
    label_col: Tensor
    images: tuple[int, ...]
    sizes: tuple[SameSize, ...]
    shared: int
    slot: int
    segs: tuple[int, int]

    @classmethod
    def of(cls, batch: "Batch") -> "Layout":
        """Read a batch; waits if it is on a GPU."""
        valid = batch.visual.valid
        row, col = (batch.labels != IGNORE).nonzero(as_tuple=True)
        images, cols = tuple(batch.seg_row.tolist()), batch.seg_col.tolist()
        return cls(
            None if valid is None else tuple(valid.sum(1).tolist()),
            None if valid is None else valid.flatten().nonzero().flatten(),
            tuple(batch.lengths.tolist()),
            row,
            col,
            images,
            by_size(images, batch.sizes, batch.seg_row.device),
            int((batch.ids == batch.ids[:1]).all(0).long().cumprod(0).sum()),
            int(batch.slot[0]),
            (min(cols, default=0), max(cols, default=0)),
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Layout":
        """A copy with `change` applied to every tensor."""
        sizes = tuple(replace(one, index=change(one.index)) for one in self.sizes)
        return replace(_map(self, change), sizes=sizes)


def by_size(
    images: Sequence[int], sizes: Sequence[tuple[int, int]], device: torch.device
) -> tuple[SameSize, ...]:
    """Masks of `images` by the photographs' sizes, in the order in which these come first."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for k, image in enumerate(images):
        found[sizes[image]].append(k)
    return tuple(
        SameSize(size, tuple(members), torch.tensor(members, device=device))
        for size, members in found.items()
    )


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

        def move(x: Tensor) -> Tensor:
            cast = dtype is not None and x.is_floating_point() and x is not cover
            return x.to(device, dtype if cast else x.dtype, non_blocking=later)

        return self.with_layout().map(move)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """A copy with `change` applied to every tensor, its layout's too."""
        packed = self.packed and tuple(change(x) for x in self.packed)
        changed = replace(_map(self, change), visual=self.visual.map(change), packed=packed)
        return changed if self.known is None else changed._knowing(self.known.map(change))

    def targets_of(self, group: SameSize) -> Tensor:
        """(n,H,W) uint8 in {0,1} of the masks of `group`. Raises ValueError as `targets`."""
        if self.packed is None:
            raise ValueError("this batch was made without target masks")
        images = dict.fromkeys(self.layout.images[k] for k in group.members)
        height, width = group.size
        bits = torch.cat([self.packed[image] for image in images])
        return unpack_bits(bits, height * width).view(-1, height, width)

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
