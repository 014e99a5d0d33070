"""How far int8 features are from what they were made of."""

import numpy as np
from numpy.typing import NDArray

from svp.pipeline.cache.int8 import dequantise, quantise


def relative_error(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """|x - dequantise(quantise(x))| / |x| of each token, (...,P); 0 for a zero token."""
    exact = np.asarray(x, np.float64)
    error = np.linalg.norm(dequantise(*quantise(x)) - exact, axis=-1)
    size = np.linalg.norm(exact, axis=-1)
    relative: NDArray[np.float64] = error / np.where(size > 0, size, 1)
    return relative
