"""Cap of the number of superpixels by worth: those that expressions are likely about stay.

Before there are features a superpixel is known by its shape alone: area, level, SAM's scores and box.
A prior of these, fitted with the order of a cache, ranks what a cap leaves of another cache's.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from ..cache.worth import Prior
from ..records import Superpixels
from .budget.described import Order

PER_SUPERPIXEL: Final = ("level", "predicted_iou", "stability", "area", "box", "point", "crop")


def capped(found: Superpixels, prior: Prior, limit: int) -> Superpixels:
    """The `limit` most worthy, in the order they had; of equal ones the first. All if there are so few."""
    if len(found) <= limit:
        return found
    order = np.argsort(-prior.worth_of_shapes(found).astype(np.float64), kind="stable")
    return _take(found, np.sort(order[:limit]))


def _take(found: Superpixels, kept: Order) -> Superpixels:
    arrays = {name: getattr(found, name)[kept] for name in PER_SUPERPIXEL}
    survivors = {**found.survivors, "kept": len(kept)}
    return replace(found, rles=tuple(found.rles[i] for i in kept), survivors=survivors, **arrays)
