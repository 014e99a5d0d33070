"""Drop-in SVP projector for other multimodal models, in place of LLaVA's `mm_projector`.

    projector = SVPProjector(in_dim=1024, llm_dim=4096, size=336)
    tokens, valid = projector(features, superpixels)     # instead of tokens = mm_projector(features)

What is different from an MLP: it wants the superpixels of each image beside the patch features, and
the number of tokens varies, so `valid` says which are real. `model.merge.merge` puts them into the
text by index.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....pipeline.display import counted
from ....pipeline.errors import ConfigError
from ....pipeline.masks.encoder_view import Kind, View, derive, sspe_grid
from ....pipeline.records import Superpixels
from .. import MaskInput
from . import SVP


class SVPProjector(nn.Module):
    """`SVP` for LLaVA and its kin, mask preprocessing included.

    in_dim   channels C of the patch features; llm_dim  width D of the language model
    size     side of the encoder's square input in pixels, `view` how images become it: the masks
             must go through the same transform
    options  of `projectors.svp.SVP`

    The patch grid is square, as encoders of square views give it.
    """

    def __init__(
        self, *, in_dim: int, llm_dim: int, size: int = 336, view: Kind = "squash", **options: Any
    ) -> None:
        super().__init__()
        self.svp = SVP(in_dim=in_dim, llm_dim=llm_dim, **options)
        self.view = View(view, size)
        self.budget = 4096  # pixels of a mask on the SSPE grid: a guess, docs/provenance.md

    def forward(
        self, features: Tensor, superpixels: Sequence[Superpixels]
    ) -> tuple[Tensor, Tensor]:
        """Patch features (B,P,C) in raster order, without CLS, and the B images' superpixels ->
        tokens (B,N,D), zero on padding, and which are real (B,N) bool.

        Raises ConfigError if the numbers of images differ or P is no square.
        """
        side = round(features.shape[1] ** 0.5)
        if len(features) != len(superpixels) or side * side != features.shape[1]:
            raise ConfigError(
                f"features {tuple(features.shape)} with superpixels of "
                f"{counted(len(superpixels), 'image')}: need (B,P,C) with P a square, and B of them"
            )
        masks, valid = self.masks(superpixels, (side, side), features.device)
        tokens, real = self.svp(features, (side, side), masks=masks, mask_valid=valid)
        return tokens, real

    def masks(
        self, superpixels: Sequence[Superpixels], grid: tuple[int, int], device: torch.device
    ) -> tuple[MaskInput, Tensor]:
        """Model inputs derived from superpixels, padded, and their validity (B,N) bool."""
        h, w = sspe_grid(self.view, self.budget)
        most, shape = max(map(len, superpixels)), (len(superpixels), -1, h, w)
        cover = torch.zeros(len(superpixels), most, grid[0] * grid[1])
        small = torch.zeros(len(superpixels), most, h * w, dtype=torch.uint8)
        valid = torch.zeros(len(superpixels), most, dtype=torch.bool)
        for b, found in enumerate(superpixels):
            share, bits = derive(found, self.view, grid, self.budget)
            cells = np.unpackbits(bits, axis=1, count=h * w)
            n = len(found)
            cover[b, :n], small[b, :n] = torch.from_numpy(share), torch.from_numpy(cells)
            valid[b, :n] = True
        return MaskInput(cover.to(device), small.view(shape).to(device)), valid.to(device)
