"""M3: nested average pooling after the MLP, 1, 9, 36, 144 or 576 tokens (arXiv 2405.17430).

The original's loss is the mean over all scales, one forward pass for each. Here each step of the
last stage draws one scale: the same expected gradient at the price of one pass.

Source: the paper (ICLR 2025) and mu-cai/matryoshka-mm ec30cd3 (Apache-2.0, from LLaVA),
llava/model/llava_arch.py, `matryoshka_vis_token_process`, as a description: no code was taken.
"""

from collections.abc import Sequence
from math import gcd

import torch.nn.functional as F
from torch import Tensor

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector, Rename, mlp
from .grid import to_map, to_tokens


class M3(Projector):
    """LLaVA's MLP on every patch, then the mean of each of side*side equal cells.

    sides   of the token grids; each divides the patch grid. None: that of the patch grid, halved
            until it is odd, and 1: with 24x24 patches those of the paper
    tokens  one of the squares of `sides`; None: the largest. It changes no weight
    """

    adjustable = frozenset({"tokens"})
    prefixes = ("model.mm_projector.", "mm_projector.")
    renames = (Rename(r"[02]\.(weight|bias)", r"mlp.\g<0>"),)

    def __init__(
        self,
        *,
        in_dim: int,
        llm_dim: int,
        grid: tuple[int, int],
        sides: Sequence[int] | None = None,
        tokens: int | None = None,
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.sides = tuple(sorted(halved(gcd(*grid)) if sides is None else sides))
        if not self.sides or self.sides[0] < 1:
            raise ConfigError(f"m3: sides={list(self.sides)}: need sides of token grids, each >= 1")
        counts = [side * side for side in self.sides]
        if tokens is not None and tokens not in counts:
            raise ConfigError(f"m3: tokens={tokens}: allowed are {', '.join(map(str, counts))}")
        self.chosen, self._drawn = tokens or counts[-1], 0
        self.mlp = mlp(in_dim, llm_dim, llm_dim)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """Cells: in training those of the step, where it drew. Raises ConfigError."""
        for side in self.sides:
            if grid[0] % side or grid[1] % side:
                raise ConfigError(
                    f"m3: {side}x{side} tokens do not divide the {grid[0]}x{grid[1]} patch grid"
                )
        return self._drawn if self.training and self._drawn else self.chosen

    def most_tokens(self, grid: tuple[int, int]) -> int:
        """Of the largest scale, which training may draw."""
        return int(self.sides[-1] ** 2)

    def draw(self, key: int | None) -> None:
        """One of the scales, equally likely."""
        self._drawn = 0 if key is None else self.sides[key % len(self.sides)] ** 2

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,K,D)."""
        side = round(self.num_tokens(x.grid) ** 0.5)
        cells = F.adaptive_avg_pool2d(to_map(self.mlp(x.patches), x.grid), side)
        return to_tokens(cells)


def halved(side: int) -> set[int]:
    """1, and `side` halved while it is even.

    >>> sorted(halved(24))
    [1, 3, 6, 12, 24]
    """
    return {1, side} if side % 2 else {side} | halved(side // 2)
