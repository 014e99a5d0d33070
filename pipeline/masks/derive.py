"""What the model eats of the superpixels: coverage of the patches, and small binary masks.

RLE at image size is the truth; both arrays are pure functions of it, of the view and of two grids
(method spec 3.2 and 3.3), so `svp cache verify` can recompute and compare them. Invariant: under
`squash` every superpixel has a non-zero row in both, however tiny it is.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..records import Superpixels
from .view import View

# Eq. 2 divides a row of cover by max(its sum, 1e-6): a visible superpixel must not fall below.
LEAST_COVER = 17 * 2.0**-24  # the smallest float16 above 1e-6


def sspe_grid(view: View, budget: int) -> tuple[int, int]:
    """Height and width of the grid the SSPE masks live on (method spec 3.3, `per_mask`).

    The view is scaled by s = min(1, sqrt(budget / pixels)) per side, never up.

    >>> sspe_grid(View("squash", 336), 4096)
    (64, 64)
    """
    scale = min(1.0, math.sqrt(budget / (view.size * view.size)))
    side = max(1, round(scale * view.size))
    return side, side


def derive(
    superpixels: Superpixels, view: View, grid: tuple[int, int], budget: int
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Model-ready arrays of one image's N superpixels.

    Returns `cover` (N,P) float16, the share of each of the P = gh*gw patches (raster order) that
    each superpixel covers, and `sspe_masks` (N,ceil(G/8)) uint8, the masks on `sspe_grid` as bits,
    raster order, high bit first. A superpixel outside the view (`center_crop`) has zero rows.
    """
    masks = superpixels.masks()
    cover = half_cover(view.resize_masks(masks, grid).reshape(len(masks), -1))
    small = view.resize_masks(masks, sspe_grid(view, budget)).reshape(len(masks), -1)
    bits = binarise(small)
    if view.kind == "squash":
        assert cover.any(axis=1).all(), "a superpixel has no pixel: the source broke its promise"
    return cover, np.packbits(bits, axis=1, bitorder="big")


def half_cover(cover: NDArray[np.float64]) -> NDArray[np.float16]:
    """Exact coverage (N,P) rounded once to float16; a row that was not zero does not become so.

    A one-pixel superpixel of a huge image covers less of a patch than float16 can tell from zero,
    or less than the 1e-6 clamp of Eq. 2. Such a row gets `LEAST_COVER` at its largest entry.
    """
    half = cover.astype(np.float16)
    faint = cover.any(axis=1) & (half.sum(axis=1, dtype=np.float64) < 1e-6)
    half[faint, cover[faint].argmax(axis=1)] = LEAST_COVER
    return half


def binarise(cover: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,G) coverage >= 0.5; a row left empty gets its best-covered cell, the first on ties."""
    bits = cover >= 0.5
    empty = cover.any(axis=1) & ~bits.any(axis=1)
    bits[empty, cover[empty].argmax(axis=1)] = True
    return bits
