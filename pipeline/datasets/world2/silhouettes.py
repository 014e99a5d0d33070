"""Silhouettes of world 2 inside one box, and how a body is divided into parts.

All silhouettes fill their box to its four sides, and all but square and disc cover five ninths of
it: neither a box nor an area tells one from another. Only +, -, *, / and comparisons are used, so
that every platform gives the same bits.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .vocabulary import ARRANGEMENTS, GRIDS, TURNS

Mask = NDArray[np.bool_]
_SHARE: Final = 5 / 9
_PI: Final = 3.141592653589793


def turns(silhouette: str) -> int:
    """Number of distinct rotations by 90 degrees."""
    return len(TURNS.get(silhouette, ("",)))


@cache
def silhouette_mask(silhouette: str, turn: int, side: int) -> Mask:
    """(side, side) pixels of a silhouette turned clockwise by `turn` * 90 degrees, read-only."""
    mask = np.rot90(_upright(silhouette, side), -turn).copy()
    mask.setflags(write=False)
    return mask


@cache
def part_map(arrangement: str, side: int) -> NDArray[np.uint8]:
    """(side, side) number of the part at each pixel of a box, from 1; read-only.

    Parts that a mirror exchanges have equal areas where the side is a multiple of 6, so that a mean
    over a body is the mean over its mirror image.
    """
    axis = np.arange(side)
    y, x = axis[:, None], axis[None, :]
    out = np.ones((side, side), np.uint8)
    half, third = side / 2, side / 3
    low, right = y + 0.5 > half, x + 0.5 > half
    if arrangement == "stack":
        out[np.broadcast_to(low, out.shape)] = 2
    elif arrangement == "row":
        out[np.broadcast_to(right, out.shape)] = 2
    elif arrangement == "core":
        out[~_box(side, side / 3)] = 2
    elif arrangement == "stack of three":
        out += np.broadcast_to(
            (y + 0.5 > third).astype(np.uint8) + (y + 0.5 > 2 * third), out.shape
        )
    elif arrangement == "row of three":
        out += np.broadcast_to(
            (x + 0.5 > third).astype(np.uint8) + (x + 0.5 > 2 * third), out.shape
        )
    elif arrangement in ("quarters", "target"):
        out += (2 * low.astype(np.uint8) + right.astype(np.uint8)).astype(np.uint8)
        if arrangement == "target":
            out[_box(side, side / 5)] = 5
    elif arrangement != "whole":
        raise AssertionError(f"no such arrangement: {arrangement}")
    assert out.max() == ARRANGEMENTS[arrangement]
    out.setflags(write=False)
    return out


def _upright(silhouette: str, side: int) -> Mask:
    axis = np.arange(side) + 0.5 - side / 2
    u, v = axis[None, :], axis[:, None]
    r = side / 2
    if silhouette == "square":
        return np.ones((side, side), np.bool_)
    if silhouette in GRIDS:
        cell = (np.arange(side) * 3) // side
        filled = np.array([[c == "#" for c in row] for row in GRIDS[silhouette]])
        return np.asarray(filled[np.ix_(cell, cell)])
    disc = np.asarray(u * u + v * v <= r * r)
    if silhouette == "disc":
        return disc
    if silhouette == "ring":
        hole = (_PI / 4 - _SHARE) * side * side / _PI
        return np.asarray(disc & (u * u + v * v > hole))
    if silhouette == "moon":  # a disc less a smaller one at its right
        hole = (_PI / 4 - _SHARE) * side * side / _PI
        radius = hole**0.5
        return np.asarray(disc & ((u - (r - radius)) ** 2 + v * v > radius * radius))
    raise AssertionError(f"no such silhouette: {silhouette}")


def _box(side: int, half: float) -> Mask:
    axis = np.abs(np.arange(side) + 0.5 - side / 2)
    return np.asarray((axis[:, None] <= half) & (axis[None, :] <= half))
