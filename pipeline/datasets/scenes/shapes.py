"""Exact masks of geometric shapes, without anti-aliasing.

Only +, -, *, / and sqrt are used: IEEE arithmetic gives the same bits on every platform.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
_PI = 3.141592653589793


def shape_mask(shape: str, area: int, u: NDArray[np.float64], v: NDArray[np.float64]) -> Mask:
    """Pixels of a shape of about `area` px centred at 0; `u` right and `v` down, broadcastable."""
    if shape == "disc":
        return np.asarray(u * u + v * v <= area / _PI)
    if shape == "square":
        return _box(u, v, sqrt(area) / 2, sqrt(area) / 2)
    if shape == "diamond":
        return np.asarray(np.abs(u) + np.abs(v) <= sqrt(area / 2))
    if shape == "triangle":  # base 2a, height 2a, apex up
        a = sqrt(area / 2)
        return np.asarray((np.abs(u) <= (v + a) / 2) & (v <= a))
    if shape == "cross":  # arms three times as long as wide
        a = sqrt(area * 9 / 20)
        return _box(u, v, a, a / 3) | _box(u, v, a / 3, a)
    if shape == "bar":
        return _box(u, v, sqrt(area * 2.6) / 2, sqrt(area / 2.6) / 2)
    if shape == "post":
        return _box(u, v, sqrt(area / 2.6) / 2, sqrt(area * 2.6) / 2)
    if shape == "dome":  # the upper half of a disc, centred on its height
        r = sqrt(2 * area / _PI)
        return np.asarray((u * u + (v - r / 2) ** 2 <= r * r) & (v <= r / 2))
    raise AssertionError(f"no such shape: {shape}")


def outline(mask: Mask) -> Mask:
    """Pixels of the mask with a 4-neighbour outside it (outside the array counts as outside)."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def grown(mask: Mask, steps: int) -> Mask:
    """The mask and its 8-neighbours, `steps` times, within the array."""
    for _ in range(steps):
        wide = np.pad(mask, 1)
        rows = wide[:-2] | wide[1:-1] | wide[2:]
        mask = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return mask


def _box(u: NDArray[np.float64], v: NDArray[np.float64], half_w: float, half_h: float) -> Mask:
    return np.asarray((np.abs(u) <= half_w) & (np.abs(v) <= half_h))
