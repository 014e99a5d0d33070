"""How much of every grid cell a mask covers, from its runs, without decoding a pixel.

A mask is a set of runs down the columns, so its integral over a cell is a signed sum, over the
run ends, of one function F(end): everything before that pixel in column-major order. F splits
into whole columns (a product of two vectors) and the part of one column, which meets only the few
cells under it; both are small sparse-dense products. All in int64: nothing is rounded.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..records import Rle
from .axis import Cells
from .rle_codec import check_runs


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
