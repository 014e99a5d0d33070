"""Reshape patches to a grid and back, and to square windows; raster order, y outer."""

import torch
from torch import Tensor

from ...pipeline.errors import ConfigError


def to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B,h*w,C) -> (B,C,h,w)."""
    return x.transpose(1, 2).reshape(len(x), -1, *grid)


def to_tokens(x: Tensor) -> Tensor:
    """(B,C,h,w) -> (B,h*w,C)."""
    return x.flatten(2).transpose(1, 2)


def to_windows(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """(B,h*w,C) -> (B, h/side * w/side, side*side, C): windows, and the patches in each.

    Flattened, the last two axes are space-to-depth with channel index [row][column][channel]:
    not torch's PixelUnshuffle, which has the channel first.
    """
    (h, w), (b, _, c) = grid, x.shape
    cut = x.reshape(b, h // side, side, w // side, side, c).transpose(2, 3)
    return cut.reshape(b, -1, side * side, c)


def windows_of(grid: tuple[int, int], side: int) -> tuple[int, int]:
    """The grid of windows. Raises ConfigError if `side` does not divide the grid."""
    h, w = grid
    if side < 1 or h % side or w % side:
        raise ConfigError(f"windows of side {side} do not divide the {h}x{w} patch grid")
    return h // side, w // side


def cells(tokens: int, grid: tuple[int, int]) -> Tensor:
    """(K,P) 0/1: which of `tokens` equal cells each patch is in; runs of patches if none divide."""
    height, width = grid
    fits = [
        (rows, tokens // rows)
        for rows in range(1, height + 1)
        if tokens % rows == 0 and tokens // rows <= width
    ]
    if fits:
        rows, cols = min(fits, key=lambda shape: abs(shape[0] * width - shape[1] * height))
        y, x = torch.arange(height) * rows // height, torch.arange(width) * cols // width
        cell = (y[:, None] * cols + x).flatten()
    else:
        cell = torch.arange(height * width) * tokens // (height * width)
    return (cell == torch.arange(tokens)[:, None]).float()


def require_grid(name: str, built: tuple[int, int], given: tuple[int, int]) -> None:
    """Tables are tied to a grid and never resized: raises ConfigError for another one."""
    if tuple(built) != tuple(given):
        raise ConfigError(
            f"{name} was built for a {built[0]}x{built[1]} patch grid, not {given[0]}x{given[1]}"
        )
