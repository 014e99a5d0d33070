"""The encoder's field of view, and the model inputs derived from superpixels through it.

One affine map per axis serves images and masks alike: through different resizes a superpixel would
be pooled from patches beside it. Coordinates are continuous: pixel i covers [i, i+1). Coverage of a
cell is the exact share of its area, counted in integers, so the result is the same bit for bit
whatever the batch, the threads or the order of summation.

RLE at image size is the truth; patch coverage and the SSPE's small masks are pure functions of it,
of the view and of two grids, so `svp cache verify` can recompute and compare them. Invariant: under
`squash` every superpixel has a non-zero row in both, however tiny it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..display import show
from ..errors import ConfigError, DataError
from ..records import Rle, Superpixels
from .patch_cells import Axis, Cells, cell_areas
from .resize import Box, resize, resize_tensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = Literal["squash", "center_crop", "pad", "clip"]
KINDS: tuple[Kind, ...] = ("squash", "center_crop", "pad", "clip")
LONGEST = 16  # sides ratio beyond which `clip` resizes no more than is seen: a line is no bomb
PAD_COLOUR = (124, 116, 104)  # ImageNet mean x 255: near zero after either encoder's normalisation


@dataclass(frozen=True, slots=True)
class View:
    """Mapping from an image of any size to the encoder's `size` x `size` input.

    | kind          | what is seen                                                              |
    |---------------|---------------------------------------------------------------------------|
    | `squash`      | everything, aspect ratio lost (the default: superpixels cover the image)  |
    | `center_crop` | the largest centred square; what lies outside has zero coverage           |
    | `pad`         | everything, aspect kept, centred on a plain ground that nothing covers    |
    | `clip`        | what CLIP's own preprocessing shows: shorter side to `size`, then cropped |

    `clip` and `center_crop` see the same square but for rounding: CLIP resizes the whole photograph
    first, in whole pixels, and crops afterwards. GLaMM and LISA were trained on its bits.
    """

    kind: Kind
    size: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"view={show(self.kind)}: allowed are {', '.join(KINDS)}")
        if self.size < 1:
            raise ConfigError(f"view size={self.size}: need >= 1")

    def axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """The maps of y and x for an image of `height` x `width` pixels."""
        if self.kind == "center_crop":
            side = min(height, width)
            return Axis.crop(height, side, self.size), Axis.crop(width, side, self.size)
        if self.kind == "pad":
            longest = max(height, width)
            return Axis.fit(height, longest, self.size), Axis.fit(width, longest, self.size)
        if self.kind == "clip":
            shortest = min(height, width)
            return Axis.cover(height, shortest, self.size), Axis.cover(width, shortest, self.size)
        return Axis.full(height, self.size), Axis.full(width, self.size)

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H,W,3) uint8 to (size,size,3) uint8: antialiased bicubic, see `resize`.

        An image that already has the view's shape comes back unchanged.
        """
        y, x, box = self._seen(image)
        canvas = np.empty((self.size, self.size, 3), dtype=np.uint8)
        canvas[:] = PAD_COLOUR
        (to, row), (across, column) = (self._overlap(axis) for axis in (y, x))
        canvas[to, across] = resize(image, y.extent, x.extent, "bicubic", box)[row, column]
        return canvas

    def tensor(self, image: NDArray[np.uint8], device: "torch.device") -> "Tensor":
        """As `image`, on `device`: resized by Pillow on the CPU, else on the device."""
        import torch

        if device.type == "cpu":
            return torch.from_numpy(self.image(image))
        y, x, box = self._seen(image)
        colour = torch.tensor(PAD_COLOUR, dtype=torch.uint8, device=device)
        canvas = colour.repeat(self.size, self.size, 1)
        (to, row), (across, column) = (self._overlap(axis) for axis in (y, x))
        whole = torch.from_numpy(np.ascontiguousarray(image)).to(device)
        seen = resize_tensor(whole, y.extent, x.extent, "bicubic", box)
        canvas[to, across] = seen[row, column]
        return canvas

    def _seen(self, image: NDArray[np.uint8]) -> tuple[Axis, Axis, Box]:
        """Axes of an image, y before x, and the box of it that is resized."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(f"image is {image.dtype} {image.shape}, expected uint8 (H,W,3)")
        y, x = self.axes(*image.shape[:2])
        if self.kind == "clip" and max(y.extent, x.extent) > LONGEST * self.size:
            y, x = View("center_crop", self.size).axes(*image.shape[:2])
        return y, x, (x.start, y.start, x.stop, y.stop)

    def _overlap(self, axis: Axis) -> tuple[slice, slice]:
        """The overlap of the canvas and what was resized: a slice of each."""
        at, cut = max(axis.offset, 0), max(-axis.offset, 0)
        count = min(axis.extent - cut, self.size - at)
        return slice(at, at + count), slice(cut, cut + count)

    def matrices(
        self, height: int, width: int, grid: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ry (gh,H) and Rx (gw,W) such that `Ry @ mask @ Rx.T` is the mask's coverage.

        Entry (cell, pixel) is the share of the cell that the pixel fills. Rows sum to 1, but for
        cells in the padding.
        """
        y, x = self._cells(height, width, grid)
        return y.matrix() / y.length, x.matrix() / x.length

    def resize_masks(self, masks: Sequence[Rle], grid: tuple[int, int]) -> NDArray[np.float64]:
        """Exact coverage (N,gh,gw) in [0,1] of N masks of one image on a grid over the view.

        Equal to `matrices` applied to the decoded masks, and to adaptive average pooling where the
        sizes divide; computed from the runs. A partition of the image stays a partition: the sum
        over N is 1 (0 in the padding). Raises DataError for bad runs or masks of several sizes.
        """
        if not masks:
            return np.zeros((0, *grid))
        height, width = masks[0].height, masks[0].width
        for mask in masks:
            if (mask.height, mask.width) != (height, width):
                raise DataError(
                    f"masks of one image differ in size: {mask.height}x{mask.width} "
                    f"and {height}x{width}"
                )
        y, x = self._cells(height, width, grid)
        return cell_areas(masks, y, x) / float(y.length * x.length)

    def cover(self, masks: Sequence[Rle], grid: tuple[int, int]) -> NDArray[np.float32]:
        """`resize_masks` rounded once to float32, (N,gh,gw)."""
        return self.resize_masks(masks, grid).astype(np.float32)

    def points(self, xy: NDArray[np.floating], height: int, width: int) -> NDArray[np.float64]:
        """Image coordinates (...,2), x y, to coordinates of the view. Outside stays outside."""
        y, x = self.axes(height, width)
        return np.stack((x.forward(xy[..., 0]), y.forward(xy[..., 1])), axis=-1)

    def _cells(self, height: int, width: int, grid: tuple[int, int]) -> tuple[Cells, Cells]:
        if min(grid) < 1:
            raise ConfigError(f"grid={grid}: need at least one cell per side")
        y, x = self.axes(height, width)
        return y.cells(grid[0]), x.cells(grid[1])


# Eq. 2 divides a row of cover by max(its sum, 1e-6): a visible superpixel must not fall below.
LEAST_COVER = 17 * 2.0**-24  # the smallest float16 above 1e-6


def sspe_grid(view: View, budget: int) -> tuple[int, int]:
    """Height and width of the grid the SSPE masks live on.

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
        assert cover.any(axis=1).all(), (
            "a superpixel has no pixel: the superpixel source must not return one"
        )
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
