"""Ward's merge tree: the two groups are joined whose union adds least to the variance within.

What ToMe and clustering of tokens do to patches, done to superpixels: none is dropped, and n groups
are left. A group's mask is the union of its members'.
"""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]  # (N,) group of each superpixel


def ward_groups(means: NDArray[np.floating], n: int) -> Labels:
    """Groups 0 to n - 1 of superpixels with means (N,C); each counts as one, whatever its area."""
    centres, weight = means.astype(np.float64), np.ones(len(means))
    label = np.arange(len(centres))
    alive = np.ones(len(centres), np.bool_)
    gap = ((centres[:, None] - centres[None]) ** 2).sum(axis=2)
    for _ in range(len(centres) - max(1, n)):
        cost = gap * (weight[:, None] * weight / (weight[:, None] + weight))
        cost[~alive], cost[:, ~alive] = np.inf, np.inf
        np.fill_diagonal(cost, np.inf)
        i, j = np.unravel_index(int(cost.argmin()), cost.shape)
        total = weight[i] + weight[j]
        centres[i] = (weight[i] * centres[i] + weight[j] * centres[j]) / total
        weight[i] = total
        alive[j] = False
        label[label == label[j]] = label[i]
        gap[i] = gap[:, i] = ((centres - centres[i]) ** 2).sum(axis=1)
    found: Labels = np.unique(label, return_inverse=True)[1].astype(np.int64)
    return found
