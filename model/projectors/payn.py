"""PAYN-like: keep patches spread evenly over the image, by their places alone.

After "Position Is All You Need" (ICML 2026, poster 60690), of which the abstract is public and no
code: tokens that are "adequately distributed in every local neighboring region", which keep their
"original positional indices" in the language model, as if all patches were there.
"""

import torch
from torch import Tensor

from .kept_patches import KeptPatches


class PAYN(KeptPatches):
    """Rows of the grid as even as they divide, and patches in each row."""

    def places(self, grid: tuple[int, int]) -> tuple[int, ...]:
        """As many as the options say, in raster order."""
        return tuple(even_places(self.tokens, grid))

    def chosen(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B,P,C) -> (B,tokens), in raster order."""
        found = torch.tensor(self.places(grid), device=patches.device)
        return found.expand(len(patches), -1)


def even_places(count: int, grid: tuple[int, int]) -> list[int]:
    """`count` places in raster order: as many rows as make the steps along both axes alike.

    >>> even_places(8, (4, 8))
    [9, 11, 13, 15, 25, 27, 29, 31]
    """
    height, width = grid
    fewest = -(-count // width)
    rows = min(max(round((count * height / width) ** 0.5), fewest, 1), height, count)
    places = []
    for row in range(rows):
        own = (row + 1) * count // rows - row * count // rows
        y = (2 * row + 1) * height // (2 * rows)
        places += [y * width + (2 * k + 1) * width // (2 * own) for k in range(own)]
    return places
