"""DeCo: average pooling first, then an MLP. No positions, no norm.

Source: DeCo 103416e7, the code block of its README.md.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Visual
from .base import Projector, Rename
from .grid import to_map, to_tokens


class DeCo(Projector):
    """Adaptive average pooling to `out_grid`, then `layers` linears with GELU between."""

    prefixes = ("model.mm_projector.",)
    renames = (Rename(r"mlp_projector\.(\d+\.(?:weight|bias))", r"mlp.\1"),)

    def __init__(
        self, *, in_dim: int, llm_dim: int, out_grid: tuple[int, int] = (6, 6), layers: int = 2
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.out_grid = out_grid
        steps: list[nn.Module] = [nn.Linear(in_dim, llm_dim)]
        for _ in range(layers - 1):
            steps += [nn.GELU(), nn.Linear(llm_dim, llm_dim)]
        self.mlp = nn.Sequential(*steps)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """The cells of `out_grid`."""
        return self.out_grid[0] * self.out_grid[1]

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,K,D)."""
        pooled = F.adaptive_avg_pool2d(to_map(x.patches, x.grid), self.out_grid)
        tokens: Tensor = self.mlp(to_tokens(pooled))
        return tokens
