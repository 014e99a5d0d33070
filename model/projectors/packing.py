"""Pack the superpixels of a padded batch along one axis, without padding.

Images have different numbers of superpixels. What looks at one superpixel at a time (SSPE, the
output MLP) works on the packed axis; what lets the superpixels of an image see each other works
on the padded one. No Python loop runs over images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packing:
    """`index` (n,) int64: places of the real superpixels in the flattened (B*N)."""

    index: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, valid: Tensor, real: Tensor | None = None) -> "Packing":
        """Packing of `valid` (B,N) bool. Raises ValueError where an image has no superpixel.

        real  the index, where it is known that every image has one

        Attention over nothing is NaN; the data step gives such an image one whole-image mask.
        """
        if real is not None:
            return cls(real, (valid.shape[0], valid.shape[1]))
        if not bool(valid.any(dim=1).all()):
            rows = (~valid.any(dim=1)).nonzero().flatten().tolist()
            raise ValueError(f"images {rows} of the batch have no valid superpixel")
        return cls(valid.flatten().nonzero().flatten(), (valid.shape[0], valid.shape[1]))

    def pack(self, x: Tensor) -> Tensor:
        """(B,N,...) -> (n,...)."""
        return x.flatten(0, 1).index_select(0, self.index)

    def unpack(self, x: Tensor) -> Tensor:
        """(n,...) -> (B,N,...), zero on padding."""
        flat = x.new_zeros(self.shape[0] * self.shape[1], *x.shape[1:])
        return flat.index_copy(0, self.index, x).view(*self.shape, *x.shape[1:])

    def counts(self) -> list[int]:
        """Superpixels of each image."""
        images = torch.div(self.index, self.shape[1], rounding_mode="floor")
        return torch.bincount(images, minlength=self.shape[0]).tolist()
