"""TokenPacker: a coarse query per window attends to the window's finer, multi-layer features.

Source: TokenPacker 771a16e7, multimodal_projector/builder.py 39-137, used as a
description only: the repository has no licence, so no code was taken from it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Visual
from ..blocks import Attention
from .base import Projector, Rename, mlp, start_linears
from .grid import to_map, to_tokens, to_windows, windows_of


class TokenPacker(Projector):
    """Needs `multi`: hidden states of several encoder layers, side by side.

    The query is the bilinear resize of the patches without antialiasing: at r = 4 it averages only
    the central 2x2 of a window, at r = 3 it is the centre. There is no residual from the query.
    """

    needs = frozenset({"multi"})
    prefixes = ("model.mm_projector.",)
    renames = (
        Rename(r"q_proj_1\.weight", "q_proj.weight"),
        Rename(r"([kv])_proj_1\.([02]\.(?:weight|bias))", r"\1_proj.\2"),
        Rename(r"ln_([qkv])_1\.(weight|bias)", r"\1_norm.\2"),
        Rename(r"clip_attn\.(in_proj_(?:weight|bias)|out_proj\.(?:weight|bias))", r"attn.\1"),
        Rename(r"mlp\.[02]\.(weight|bias)"),
    )

    def __init__(
        self, *, in_dim: int, llm_dim: int, r: int = 4, embed_dim: int = 1024, heads: int = 8
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.r = r
        self.q_proj = nn.Linear(in_dim, embed_dim, bias=False)
        self.k_proj = mlp(self.multi_dim, embed_dim, embed_dim)
        self.v_proj = mlp(self.multi_dim, embed_dim, embed_dim)
        self.q_norm, self.k_norm, self.v_norm = (
            nn.LayerNorm(embed_dim, eps=1e-6) for _ in range(3)
        )
        self.attn = Attention(dim=embed_dim, heads=heads)
        self.mlp = mlp(embed_dim, llm_dim, llm_dim)
        start_linears(self)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """One per window."""
        h, w = windows_of(grid, self.r)
        return h * w

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) and multi (B,P,4C) -> (B,P/r^2,D)."""
        assert x.multi is not None
        keys, values = self.k_norm(self.k_proj(x.multi)), self.v_norm(self.v_proj(x.multi))
        q = self.q_norm(self.q_proj(self._coarse(x.patches, x.grid)))
        k, v = (to_windows(y, x.grid, self.r).flatten(0, 1) for y in (keys, values))
        seen = self.attn(*self.attn.project(q.flatten(0, 1).unsqueeze(1), k, v))  # (B*n,1,e)
        tokens: Tensor = self.mlp(seen.view_as(q))
        return tokens

    def _coarse(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        wide = torch.promote_types(patches.dtype, torch.float32)
        picture = to_map(patches.to(wide), grid)
        small = F.interpolate(picture, size=windows_of(grid, self.r), mode="bilinear")
        return to_tokens(small).to(patches.dtype)
