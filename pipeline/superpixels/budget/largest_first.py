"""Largest area first: what the cap of `max_superpixels` keeps."""

import numpy as np

from .described import Described, Order


def largest_first(found: Described) -> Order:
    """By area, descending; of equal ones the first."""
    return np.argsort(-found.area.astype(np.int64), kind="stable")
