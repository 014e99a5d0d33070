"""Orders by worth: alone, and times the distance in feature space."""

import numpy as np

from ...cache.worth import spread_order
from .described import Described, Order


def worth_first(found: Described) -> Order:
    """By worth, descending; of equal ones the first."""
    return np.argsort(-found.worth.astype(np.float64), kind="stable")


def worth_and_distance(found: Described) -> Order:
    """The order that a cache stores."""
    return spread_order(found.worth.astype(np.float64), found.means)
