"""Sine position embedding of a grid, normalised as in DETR and Mask2Former.

Positions count from 1 and are divided by the grid's size, so every grid spans (0, 2 pi]: the code
tells where in the image a cell lies, not how many cells there are. y comes first; sine and cosine
alternate. Source: Mask2Former 9b0651c6, position_encoding.py 12-52 (equal to DETR's).
"""

import math
from typing import Final

import torch
from torch import Tensor

from ..pipeline.errors import ConfigError

TEMPERATURE: Final = 10000.0


def sine_position(
    grid: tuple[int, int], dim: int, device: torch.device | str | None = None
) -> Tensor:
    """(h*w, dim) float32 in raster order. Raises ConfigError if 4 does not divide `dim`."""
    y, x = sine_axes(grid, dim, device)
    return (y[:, None] + x[None]).flatten(0, 1)


def sine_axes(
    grid: tuple[int, int], dim: int, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """(h, dim) and (w, dim): the code of cell (i, j) is y[i] + x[j], as each fills one half.

    Only h + w codes are computed, so nothing needs to be cached.
    """
    if dim % 4:
        raise ConfigError(f"sine positions need a width that 4 divides, got {dim}")
    y, x = (_axis(cells, dim // 2, device) for cells in grid)
    return torch.cat([y, torch.zeros_like(y)], dim=1), torch.cat([torch.zeros_like(x), x], dim=1)


def _axis(cells: int, width: int, device: torch.device | str | None) -> Tensor:
    """(cells, width): sin(u/f), cos(u/f) alternating, u in (0, 2 pi]."""
    index = torch.arange(1, cells + 1, dtype=torch.float32, device=device)
    angle = index / (cells + 1e-6) * (2 * math.pi)
    pair = torch.arange(width // 2, dtype=torch.float32, device=device)
    phase = angle[:, None] / TEMPERATURE ** (2 * pair / width)
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)
