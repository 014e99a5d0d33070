"""SAM's up-scaling of mask logits as a matrix for each axis.

segment_anything/modeling/sam.py `postprocess_masks` goes bilinear to SAM's square, cuts the padding
off, and goes bilinear to the photograph. Each of the three steps is linear and treats the axes
apart: all together are one matrix for the rows and one for the columns.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def upscale_matrices(low: int, square: int, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """(H,low) float32 for the rows and (W,low) for the columns of a photograph of `size` (H,W).

    low     side of the logits in cells
    square  side of SAM's input in pixels, whose upper left part the photograph fills

    The weights are those of torch's `interpolate`, in float32 as there. Do not write to them.
    """
    scale = square / max(size)
    height, width = (_axis(low, square, max(1, int(side * scale + 0.5)), side) for side in size)
    return height, width


@lru_cache(64)  # photographs of a data set have few different sides
def _axis(low: int, square: int, cut: int, side: int) -> Floats:
    return _resize(_resize(np.eye(low, dtype=np.float32), square)[:cut], side)


def _resize(values: Floats, count: int) -> Floats:
    """`values` (n,C) to (count,C): bilinear along the first axis, corners not aligned."""
    last = len(values) - 1
    scale = np.float32(len(values)) / np.float32(count)
    place = np.maximum(
        scale * (np.arange(count, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0
    )
    first = np.minimum(place.astype(np.int64), last)
    share = (place - first.astype(np.float32))[:, None]
    out: Floats = (1 - share) * values[first] + share * values[np.minimum(first + 1, last)]
    return out
