"""MQT: a nested set of queries, of which a prefix is used (arXiv 2405.19315).

One cross-attention; the number of queries is drawn at each step of the last stage, so that every
prefix is a trained projector, and chosen when it is used.

Source: the paper (NeurIPS 2024) and gordonhu608/MQT-LLaVA 92c35d0 (Apache-2.0),
llava/model/multimodal_projector/builder.py, as a description: no code was taken. Published weights
load by `from_original`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..batch import Visual
from ..blocks import Attention
from .base import Projector, Rename


class MQT(Projector):
    """side*side queries with sine positions; keys are the patches' positions alone, as published.

    tokens  queries that are used; None: all. It changes no weight
    """

    adjustable = frozenset({"tokens"})
    prefixes = ("model.mm_projector.", "mm_projector.")
    renames = (
        Rename("pos_embed", None),  # sine positions, made here
        Rename("query|proj"),
        Rename(r"ln_([qkv])\.(weight|bias)", r"\1_norm.\2"),
        Rename(r"attn\.(in_proj_(weight|bias)|out_proj\.(weight|bias))"),
    )

    def __init__(
        self,
        *,
        in_dim: int,
        llm_dim: int,
        side: int = 16,
        tokens: int | None = None,
        heads: int = 16,
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        if side < 2 or in_dim % 4:
            raise ConfigError(f"mqt: side={side}, in_dim={in_dim}: need >= 2, a multiple of 4")
        if tokens is not None and not 1 <= tokens <= side * side:
            raise ConfigError(f"mqt: tokens={tokens}: there are {side * side} queries")
        self.side, self.tokens = side, tokens
        self._drawn: int | None = None
        self.query = nn.Parameter(torch.empty(side * side, in_dim))
        self.q_norm, self.k_norm, self.v_norm = (nn.LayerNorm(in_dim, eps=1e-6) for _ in range(3))
        self.attn = Attention(dim=in_dim, heads=heads)
        self.proj = nn.Parameter(torch.randn(in_dim, llm_dim) * llm_dim**-0.5)
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.trunc_normal_(self.attn.out_proj.weight, std=0.02)

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """Queries that are used: in training those of the step, where it drew."""
        if self.training and self._drawn is not None:
            return self._drawn
        return self.tokens or self.side**2

    def most_tokens(self, grid: tuple[int, int]) -> int:
        """All queries, which training may draw."""
        return self.side**2

    def draw(self, key: int | None) -> None:
        """2, 4, ... or all, equally likely."""
        self._drawn = None if key is None else 2 * (1 + key % (self.side**2 // 2))

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) -> (B,K,D)."""
        n, kind = self.num_tokens(x.grid), self._dtype
        table = sine_positions(self.side, self.in_dim).to(x.patches.device)
        own = table[:n].to(kind)
        q = self.q_norm(self.query[:n] + own)
        k = self.k_norm(_resized(table, self.side, x.grid).to(kind))
        v = self.v_norm(x.patches)
        rows = len(v)
        q, k = (t.expand(rows, -1, -1) for t in (q, k))
        tokens: Tensor = self.attn(*self.attn.project(q, k, v)) @ self.proj
        return tokens


def sine_positions(side: int, dim: int) -> Tensor:
    """(side*side, dim) float32: sines and cosines of x in the first half, of y in the second.

    As MAE's, and rounded to float16 as MQT stores them.
    """
    turns = 1 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64),) * 2, indexing="ij")
    angles = (axis.flatten()[:, None] * turns for axis in (x, y))
    parts = [part for angle in angles for part in (angle.sin(), angle.cos())]
    return torch.cat(parts, 1).half().float()


def _resized(table: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """The table (side*side,C) at the places of a patch grid (P,C), bicubic."""
    square = table.T.reshape(1, -1, side, side)
    return F.interpolate(square, size=grid, mode="bicubic", align_corners=False)[0].flatten(1).T
