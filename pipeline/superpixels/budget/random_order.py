"""A random order, the least that a rule has to beat."""

import numpy as np

from .described import Described, Order


def random_order(found: Described) -> Order:
    """A permutation that is a function of the key alone."""
    return np.random.Generator(np.random.PCG64(found.key)).permutation(len(found))
