"""Masks as dense arrays, to compare runs with."""

import numpy as np
from numpy.typing import NDArray

from svp.pipeline.masks.runs import Runs


def to_masks(runs: Runs) -> NDArray[np.bool_]:
    """Dense masks (N,H,W) bool."""
    flat = np.zeros((runs.count, runs.height * runs.width), np.bool_)
    for mask, start, end in zip(runs.mask, runs.start, runs.end, strict=True):
        assert not flat[mask, start:end].any(), "runs of one mask overlap"
        flat[mask, start:end] = True
    return flat.reshape(runs.count, runs.width, runs.height).transpose(0, 2, 1)
