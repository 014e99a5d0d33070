"""Input of the selection rules: an image's superpixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int64]  # (N,) indices of all superpixels, the first to be kept first


@dataclass(frozen=True)
class Described:
    """N superpixels of one image.

    means  (N,C) float, the mean of the features under each
    area   (N,) pixels
    worth  (N,) float in [0,1], see `pipeline.cache.worth`
    key    decides what is random
    shape  (N,) float in [0,1], the worth by shape alone; None: it is as `worth`
    """

    means: NDArray[np.floating]
    area: NDArray[np.integer]
    worth: NDArray[np.floating]
    key: int = 0
    shape: NDArray[np.floating] | None = None

    def __len__(self) -> int:
        return len(self.area)
