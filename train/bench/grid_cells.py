"""SAM with replaced outputs: full computation, then masks of a regular grid's cells.

Untrained weights predict masks that no selection keeps, so the time after the decoder would be
missing. Here encoder and decoder run as they are; the logits handed on are those of the cell under
each point, one good mask in three. Selection, up-scaling and clean-up then have real work, and
every photograph has the same number of superpixels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...pipeline.sam import SamBackend
from ...pipeline.sam.mask_decoder import Wanted

LOGIT = 50.0  # borders are sharp, so every cell is stable
SCORES = (0.5, 0.5, 0.95)  # predicted IoU of sub-part, part, whole: the last passes


class CellSam:
    """`SamBackend` around `inner` for photographs of one `size` (H,W), cut into `cells` (rows,
    columns). `lap` is told when the encoder begins and ends, as a stopwatch wants it.
    """

    report = None

    def __init__(
        self,
        inner: SamBackend,
        size: tuple[int, int],
        cells: tuple[int, int],
        lap: Callable[[str], None],
    ) -> None:
        self.inner, self.size, self.cells, self.lap = inner, size, cells, lap

    @property
    def image_size(self) -> int:
        """Side of the padded square, pixels."""
        return self.inner.image_size

    @property
    def channels(self) -> int:
        """C of the image embedding."""
        return self.inner.channels

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """See `SamBackend.frame`."""
        return self.inner.frame(height, width)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """See `SamBackend`."""
        self.lap("superpixels")
        features = self.inner.embed(images)
        self.lap("SAM encoder")
        return features

    def decode(
        self, features: Tensor, points: Tensor, wanted: Wanted | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `SamBackend`. A third of our scores passes, so `inner` makes the masks of all prompts."""
        low, _ = self.inner.decode(features, points)
        scale = low.shape[-1] / self.image_size
        height, width = (round(x * scale) for x in self.frame(*self.size))
        cell = torch.full(low.shape[-2:], -1, device=low.device)
        cell[:height, :width] = cell_map(self.cells, (height, width)).to(low.device)
        at = (points.to(low.device) * scale).long()
        under = cell[at[:, 1].clamp(max=height - 1), at[:, 0].clamp(max=width - 1)]
        inside = cell == under[:, None, None]
        logits = torch.where(inside, LOGIT, -LOGIT)[:, None].expand(low.shape).contiguous()
        iou = torch.tensor(SCORES, device=low.device).expand(len(points), -1)
        return logits if wanted is None else logits[wanted(iou).to(low.device)], iou


def cell_map(cells: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(h,w) int64: which of rows * columns cells each pixel lies in, raster order."""
    y, x = (torch.arange(n) * k // n for k, n in zip(cells, size, strict=True))
    return y[:, None] * cells[1] + x[None]
