"""Orders by worth: of shape alone, of shape and features, and times the distance in feature space."""

import numpy as np

from ...cache.worth import spread_order
from .described import Described, Order


def worth_by_shape(found: Described) -> Order:
    """By the worth that is known before there are features: a cap by worth keeps the first."""
    worth = found.worth if found.shape is None else found.shape
    return np.argsort(-worth.astype(np.float64), kind="stable")


def worth_first(found: Described) -> Order:
    """By worth, descending; of equal ones the first."""
    return np.argsort(-found.worth.astype(np.float64), kind="stable")


def worth_and_distance(found: Described) -> Order:
    """The order that a cache stores."""
    return spread_order(found.worth.astype(np.float64), found.means)
