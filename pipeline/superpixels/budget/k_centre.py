"""k-centre: each next superpixel is the one farthest from all before, by features.

The greedy algorithm of Gonzalez (1985), as token pruning uses it (DivPrune, EVTP-IVS). It begins
with the superpixel nearest to the mean of all.
"""

import numpy as np

from .described import Described, Order


def k_centre(found: Described) -> Order:
    """By distance to the nearest that was taken, descending; of equal ones the first."""
    means = found.means.astype(np.float64)
    first = int(((means - means.mean(axis=0)) ** 2).sum(axis=1).argmin())
    taken, nearest = [first], np.full(len(means), np.inf)
    while len(taken) < len(means):
        nearest = np.minimum(nearest, ((means - means[taken[-1]]) ** 2).sum(axis=1))
        nearest[taken] = -1.0
        taken.append(int(nearest.argmax()))
    return np.array(taken, np.int64)
