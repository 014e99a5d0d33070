"""Exact area of a mask in every cell of a grid, from its runs, without decoding pixels.

An `Axis` maps source intervals to target cells by four integers; image resize, mask coverage and
point mapping all derive from them, so they cannot disagree. A mask is a set of runs down the
columns, so its integral over a cell is a signed sum, over the run ends, of one function F(end):
everything before that pixel in column-major order. F splits into whole columns (a product of two
vectors) and the part of one column, which meets only the few cells under it; both are small
sparse-dense products. All in int64: nothing is rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from ..records import Rle
from .rle_codec import check_runs


@dataclass(frozen=True, slots=True)
class Cells:
    """A grid along one axis, in units of 1/`pixel` source pixels.

    Source pixel i covers [i*pixel, (i+1)*pixel); cell j covers [first + j*length, +length).
    """

    pixels: int  # source pixels on this axis
    count: int  # grid cells on this axis
    pixel: int
    first: int
    length: int

    def matrix(self) -> NDArray[np.int64]:
        """(count, pixels) overlap of every cell with every pixel, in units."""
        filled = self.cumulative()
        overlap: NDArray[np.int64] = filled[:, 1:] - filled[:, :-1]
        return overlap

    def cumulative(self) -> NDArray[np.int64]:
        """(count, pixels + 1): how much of each cell the pixels before each edge fill, in units."""
        edges = self.pixel * np.arange(self.pixels + 1, dtype=np.int64)
        starts = self.first + self.length * np.arange(self.count, dtype=np.int64)
        filled: NDArray[np.int64] = np.clip(edges - starts[:, None], 0, self.length)
        filled -= filled[:, :1].copy()  # what lies before pixel 0 is padding
        return filled

    def touched(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The cells each pixel meets, (pixels + 1, K), and the overlaps, in units.

        Rows are filled up with overlap 0; so is the last row, which stands for "after the end".
        """
        edges = self.pixel * np.arange(self.pixels + 1, dtype=np.int64)
        low = (edges - self.first) // self.length
        high = (edges + self.pixel - 1 - self.first) // self.length
        cells = low[:, None] + np.arange(int((high - low).max()) + 1)
        start = self.first + self.length * cells
        stop = np.minimum(start + self.length, edges[:, None] + self.pixel)
        overlap = np.maximum(stop - np.maximum(start, edges[:, None]), 0)
        overlap[(cells < 0) | (cells >= self.count)] = 0
        overlap[-1] = 0
        return np.clip(cells, 0, self.count - 1), overlap


@dataclass(frozen=True, slots=True)
class Axis:
    """Source interval `[start2, start2 + length2]` half pixels to `[offset, offset + extent]`.

    What lies outside `[0, size]` of that is not seen (`cover`).

    Half pixels, because the crop of an odd margin starts between two pixels.
    """

    pixels: int
    start2: int
    length2: int
    offset: int
    extent: int
    size: int  # of the view

    @classmethod
    def full(cls, pixels: int, size: int) -> "Axis":
        """All pixels onto the whole view."""
        return cls(pixels, 0, 2 * pixels, 0, size, size)

    @classmethod
    def crop(cls, pixels: int, side: int, size: int) -> "Axis":
        """The centred `side` pixels onto the whole view."""
        return cls(pixels, pixels - side, 2 * side, 0, size, size)

    @classmethod
    def fit(cls, pixels: int, longest: int, size: int) -> "Axis":
        """All pixels, scaled by size/longest to a whole number of view pixels, centred."""
        extent = max(1, (2 * pixels * size + longest) // (2 * longest))  # round half up
        return cls(pixels, 0, 2 * pixels, (size - extent) // 2, extent, size)

    @classmethod
    def cover(cls, pixels: int, shortest: int, size: int) -> "Axis":
        """All pixels, scaled by size/shortest (rounded down), of which the view is the middle.

        The arithmetic of CLIP's preprocessing: resize the shorter side, then crop the centre.
        """
        extent = size * pixels // shortest
        return cls(pixels, 0, 2 * pixels, -((extent - size) // 2), extent, size)

    @property
    def start(self) -> float:
        """First source coordinate in the view."""
        return self.start2 / 2

    @property
    def stop(self) -> float:
        """Last source coordinate in the view."""
        return (self.start2 + self.length2) / 2

    def forward(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Source coordinates to view coordinates."""
        return self.offset + (np.asarray(x, np.float64) - self.start) * (
            2 * self.extent / self.length2
        )

    def cells(self, count: int) -> Cells:
        """`count` equal cells over the view, in the smallest unit that makes all edges integers."""
        # In units of 1/(2*extent*count) source pixels; cell j starts at view j*size/count.
        pixel = 2 * self.extent * count
        first = self.start2 * self.extent * count - self.offset * count * self.length2
        length = self.size * self.length2
        unit = gcd(pixel, first, length)
        return Cells(self.pixels, count, pixel // unit, first // unit, length // unit)


def cell_areas(masks: Sequence[Rle], y: Cells, x: Cells) -> NDArray[np.int64]:
    """Covered area (N,gh,gw) int64 of masks of one size, in units of 1/(y.pixel * x.pixel) pixels.

    The full area of a cell is `y.length * x.length`. Exact: sides are at most 8192 and view sizes
    1024, which keeps every partial sum below 2**60. Raises DataError for bad runs.
    """
    from scipy.sparse import coo_array

    index, sign, ends = _run_ends(masks)
    columns, rows = np.divmod(ends, y.pixels)
    count, before_y, before_x = len(masks), y.cumulative(), x.cumulative()

    whole = coo_array((sign, (index, columns)), shape=(count, x.pixels + 1)).tocsr() @ before_x.T
    areas = np.multiply.outer(whole, before_y[:, -1])  # (N,gw,gh)

    cells, overlap = x.touched()  # (W+1,K)
    bins = index[:, None] * x.count + cells[columns]
    values = sign[:, None] * overlap[columns]
    at = (bins.ravel(), np.repeat(rows, cells.shape[1]))
    shape = (count * x.count, y.pixels + 1)
    part = coo_array((values.ravel(), at), shape=shape).tocsr() @ before_y.T
    areas += part.reshape(areas.shape)
    return np.ascontiguousarray(areas.transpose(0, 2, 1))


def _run_ends(masks: Sequence[Rle]) -> tuple[NDArray[np.int64], ...]:
    """Mask index, sign (-1 where ones start, +1 where they stop) and position of all run ends."""
    ends = []
    for mask in masks:
        stops = np.cumsum(check_runs(mask.counts, mask.height, mask.width))
        ends.append(stops[: stops.size // 2 * 2])  # a last run of zeros adds nothing
    sizes = [end.size for end in ends]
    sign = np.concatenate([np.tile(np.array([-1, 1]), size // 2) for size in sizes])
    return np.repeat(np.arange(len(masks)), sizes), sign, np.concatenate(ends)
