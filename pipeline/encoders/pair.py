"""Pair of frozen encoders over one view; the second one's last layer is stored in `layers`.

Each sees the photograph through the same view at a size of its own. The second one's map is resampled to
the first one's patch grid (bilinear, antialiased where it gets coarser): both grids span the whole view,
so a cell of the result is the mean of the patches below it. Maps of one width are stacked; else they lie
side by side, channel after channel (Table 7: CLIP with DINOv2).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .encoder import Encoder, Features

if TYPE_CHECKING:
    from torch import nn

Map = NDArray[np.float32]


class PairEncoder(Encoder):
    """An `Encoder` with a second one beside it."""

    def __init__(self, first: Encoder, second: Encoder) -> None:  # both are made already
        self.first, self.second = first, second
        self.config, self.device, self.view = first.config, first.device, first.view
        self.dim, self.grid = first.dim, first.grid

    @property
    def model(self) -> "nn.Module":
        """The first backbone's weights."""
        return self.first.model

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Features:
        """The first one's features; `layers` ends with the second one's patches.

        (B,L,P,C) as of one encoder; (B,1,P,W) with all maps side by side if the widths differ.
        """
        found = self.first.encode(images)
        beside = resampled(self.second.encode(images).patches, self.second.grid, self.grid)
        maps = (
            []
            if found.layers is None
            else [found.layers[:, i] for i in range(found.layers.shape[1])]
        )
        maps.append(beside)
        if self.second.dim == self.dim:
            return replace(found, layers=np.stack(maps, axis=1))
        return replace(found, layers=np.concatenate(maps, axis=2)[:, None])


def resampled(patches: Map, grid: tuple[int, int], wanted: tuple[int, int]) -> Map:
    """(B,P,C) on one patch grid to (B,P',C) on another over the same view."""
    if grid == wanted:
        return patches
    import torch
    from torch.nn.functional import interpolate

    b, _, c = patches.shape
    maps = torch.from_numpy(patches.reshape(b, *grid, c)).permute(0, 3, 1, 2)
    out = interpolate(maps, size=wanted, mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(out.flatten(2).transpose(1, 2).numpy())
