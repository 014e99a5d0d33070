"""Sine position embedding of a grid, normalised as in DETR and Mask2Former.

Positions count from 1 and are divided by the grid's size, so every grid spans (0, 2 pi]: the code
tells where in the image a cell lies, not how many cells there are. y comes first; sine and cosine
alternate. Source: Mask2Former 9b0651c6, position_encoding.py 12-52 (equal to DETR's).
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ....pipeline.errors import ConfigError

TEMPERATURE: Final = 10000.0


def sine_position(
    grid: tuple[int, int], dim: int, device: torch.device | str | None = None
) -> Tensor:
    """(h*w, dim) float32 in raster order. Raises ConfigError if 4 does not divide `dim`."""
    (h, w), (y, x) = grid, _codes(grid, dim, device)
    return torch.cat([y[:, None].expand(-1, w, -1), x[None].expand(h, -1, -1)], 2).flatten(0, 1)


def sine_axes(
    grid: tuple[int, int], dim: int, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """(h, dim) and (w, dim): the code of cell (i, j) is y[i] + x[j], as each fills one half.

    Only h + w codes are computed, so nothing needs to be cached.
    """
    y, x = _codes(grid, dim, device)
    return F.pad(y, (0, dim // 2)), F.pad(x, (dim // 2, 0))


def _codes(
    grid: tuple[int, int], dim: int, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """(h, dim/2) and (w, dim/2): sin(u f), cos(u f) alternating, u in (0, 2 pi]."""
    if dim % 4:
        raise ConfigError(f"sine positions need a width that 4 divides, got {dim}")
    pairs = dim // 4
    frequency = TEMPERATURE ** -(torch.arange(pairs, dtype=torch.float32, device=device) / pairs)
    sizes = sorted(set(grid))  # a square's axes are the same
    codes = {size: _axis(size, frequency) for size in sizes}
    return codes[grid[0]], codes[grid[1]]


def _axis(cells: int, frequency: Tensor) -> Tensor:
    step = 2 * math.pi / (cells + 1e-6)
    angle = torch.linspace(step, cells * step, cells, device=frequency.device)
    phase = angle[:, None] * frequency
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)
