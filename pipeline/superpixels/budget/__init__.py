"""Selection of superpixels by a budget of tokens.

A rule orders the superpixels of an image, and its first n are kept; a `Selector` says how many. A rule
is one file and one line of `RULES`.
"""

from collections.abc import Callable

from .described import Described, Order
from .k_centre import k_centre
from .largest_first import largest_first
from .random_order import random_order
from .worth_first import worth_and_distance, worth_by_shape, worth_first

__all__ = ["RULES", "Described", "Order", "Rule"]

Rule = Callable[[Described], Order]
RULES: dict[str, Rule] = {
    "largest": largest_first,
    "random": random_order,
    "k-centre": k_centre,
    "worth by shape": worth_by_shape,
    "worth": worth_first,
    "worth x distance": worth_and_distance,
}
