"""LDPv2 (MobileVLM V2): an MLP on every patch, pooling, and a convolution that carries position.

Source: MobileVLM 688fdec9, mobilevlm/model/vision_projector.py 38-102.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Visual
from .base import Projector, Rename, mlp
from .grid import to_map, to_tokens


class LDPv2(Projector):
    """tokens = Y + depthwise 3x3(Y), Y = adaptive average pooling of the MLP's output.

    The zero padding of the convolution is all that tells where a token lies.
    """

    prefixes = ("model.mm_projector.",)
    renames = (
        Rename(r"mlp\.mlp\.([02]\.(?:weight|bias))", r"mlp.\1"),
        Rename(r"peg\.peg\.0\.(weight|bias)", r"peg.\1"),
    )

    def __init__(self, *, in_dim: int, llm_dim: int, out_grid: tuple[int, int] = (6, 6)) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.out_grid = out_grid
        self.mlp = mlp(in_dim, llm_dim, llm_dim)
        self.peg = nn.Conv2d(llm_dim, llm_dim, 3, padding=1, groups=llm_dim)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """The cells of `out_grid`."""
        return self.out_grid[0] * self.out_grid[1]

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,K,D)."""
        full = to_map(self.mlp(x.patches), x.grid)
        pooled = F.adaptive_avg_pool2d(full, self.out_grid)
        return to_tokens(pooled + self.peg(pooled))
