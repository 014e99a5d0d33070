"""Pixel-Shuffle (InternVL): the patches of a window concatenated, then an MLP.

Source: InternVL 2410d1db, modeling_internvl_chat.py (mlp1 89-94, pixel_shuffle 257-271).
"""

from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector, Rename, mlp
from .grid import to_windows, windows_of


class PixelShuffle(Projector):
    """LN(r^2 C), Linear(r^2 C->D), GELU, Linear(D->D) on windows of side r = 1 / the ratio.

    `ps_version="v1"` keeps the original's old default: the same tokens in column-major order.
    """

    prefixes = ("mlp1.",)
    renames = (
        Rename(r"0\.(weight|bias)", r"norm.\1"),
        Rename(r"1\.(weight|bias)", r"mlp.0.\1"),
        Rename(r"3\.(weight|bias)", r"mlp.2.\1"),
    )

    def __init__(self, *, in_dim: int, llm_dim: int, r: int = 4, ps_version: str = "v2") -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        if ps_version not in ("v1", "v2"):
            raise ConfigError(f"ps_version {ps_version!r}: need v1 or v2")
        self.r, self.ps_version = r, ps_version
        self.norm = nn.LayerNorm(r * r * in_dim)
        self.mlp = mlp(r * r * in_dim, llm_dim, llm_dim)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """One per window."""
        h, w = windows_of(grid, self.r)
        return h * w

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,P/r^2,D)."""
        tokens: Tensor = self.mlp(self.norm(to_windows(x.patches, x.grid, self.r).flatten(2)))
        if self.ps_version == "v1":
            h, w = windows_of(x.grid, self.r)
            return tokens.view(len(tokens), h, w, -1).transpose(1, 2).flatten(1, 2)
        return tokens
