"""Means of patch features over superpixels, and the rest that no superpixel covers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...pipeline.errors import DataError
from ...pipeline.masks.encoder_view import View
from ...pipeline.records import Superpixels

LEAST_REST = 1e-3  # of all patches: below that the rest is rounding at outlines, no token


@dataclass(frozen=True, slots=True)
class Pooling:
    """Means of the patches of one image, one per token.

    weights  (N,P) float32, rows sum to 1: token n is the mean of the patches with these weights
    centre   (N,2) float32, row and column of each token's centroid, in patches
    """

    weights: Tensor
    centre: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def __call__(self, features: Tensor) -> Tensor:
        """(P,C) -> (N,C) in the dtype of the features; summed in float32."""
        return (self.weights.to(features.device) @ features.float()).to(features.dtype)


def pooling(found: Superpixels, view: View, grid: tuple[int, int], *, rest: bool) -> Pooling:
    """Coverage-weighted means over the `grid` (rows, columns) of patches of the `view`.

    Superpixels that the view does not show have no token. `rest` adds one for the area under none.
    Raises DataError if nothing is left.
    """
    cover = torch.from_numpy(view.cover(found.masks(), grid)).flatten(1)  # (N,P)
    cover = cover[cover.any(1)]
    if rest:
        # What no superpixel covers, a lower bound where several share a patch.
        bare = (1 - cover.sum(0)).clamp_min(0)
        if bare.sum() > LEAST_REST * bare.numel():
            cover = torch.cat([cover, bare[None]])
    if not len(cover):
        raise DataError(
            "no superpixel lies in the part of the image that the model sees: give superpixels of "
            "the same image, or rest=True"
        )
    weights = cover / cover.sum(1, keepdim=True)
    rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    cells = torch.stack([rows.flatten(), columns.flatten()], 1).float()
    return Pooling(weights, weights @ cells)
