"""The mean feature of each superpixel of a row, from what a cache stores."""

import numpy as np
from numpy.typing import NDArray

from .int4 import superpixel_means
from .layers import POOLED
from .row_reader import RowReader


def stored_means(reader: RowReader, i: int) -> NDArray[np.float16]:
    """(n,C) of row `i`: stored, else by coverage (Eq. 2) from the patches as they are stored."""
    plan = reader.plan
    if plan.recipe.features.means:
        rows = np.empty(plan.layer(POOLED).arrays[0].row, np.float16)
        return reader.pooled(i, rows)[:, : plan.channels].copy()
    return superpixel_means(reader.cover(i), reader.features(i))
