"""PVTC (InternVL-X): each window is summarised by two queries, its own patches and the CLS token.

Both queries attend to the window's patches only: the "global" one takes just its content from the
CLS token. Nothing has a bias, and the output is the un-normed residual stream.
Source: InternVL-X 50896f93, modeling_internvl_chat.py 41-275.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipeline.errors import ConfigError
from ..batch import Visual
from .base import Projector, Rename
from .grid import require_grid, to_windows, windows_of

_ATTENTION = r"attn_(local|global)\.attn\."


class PVTC(Projector):
    """Needs `cls`; `cls_scale` is tied to `grid`.

    The blocks have the LLM's width: 612,558,848 parameters at 1024 -> 4096, r = 4. An integer
    `width` runs them at that width and ends with a bias-free Linear(width->D): our reduction.
    """

    needs = frozenset({"cls"})
    prefixes = ("projector.",)
    renames = (
        Rename("cls_scale"),
        Rename(r"mlp1\.([01]\.weight)", r"to_local.\1"),
        Rename(r"mlp2\.([01]\.weight)", r"to_global.\1"),
        Rename(r"mlp3\.([01]\.weight)", r"to_memory.\1"),
        Rename(_ATTENTION + r"((?:q|k|v|proj|norm1|norm2)\.weight)", r"\1_block.\2"),
        Rename(r"attn_(local|global)\.mlp\.(w[123]\.weight)", r"\1_block.\2"),
        Rename(r"attn_(local|global)\.mlp\.norm\.weight", r"\1_block.norm3.weight"),
    )

    def __init__(
        self,
        *,
        in_dim: int,
        llm_dim: int,
        grid: tuple[int, int],
        r: int = 4,
        heads: int = 16,
        drop_path: float = 0.1,
        width: int | None = None,
    ) -> None:
        super().__init__(in_dim=in_dim, llm_dim=llm_dim)
        self.grid, self.r = grid, r
        dim = width or llm_dim
        self.cls_scale = nn.Parameter(torch.randn(1, *windows_of(grid, r), dim))
        self.to_local = _norm_linear(r * r * in_dim, dim)
        self.to_global = _norm_linear(in_dim, dim)
        self.to_memory = _norm_linear(in_dim, dim)
        self.local_block = Block(dim=dim, heads=heads, drop_path=drop_path)
        self.global_block = Block(dim=dim, heads=heads, drop_path=drop_path)
        self.out = nn.Linear(dim, llm_dim, bias=False) if width else nn.Identity()

    def num_tokens(self, grid: tuple[int, int]) -> int:
        """One per window."""
        require_grid("pvtc", self.grid, grid)
        h, w = windows_of(grid, self.r)
        return h * w

    def project(self, x: Visual) -> Tensor:
        """(B,P,C) and cls (B,C) -> (B,P/r^2,D)."""
        assert x.cls is not None
        local = F.silu(self.to_local(to_windows(x.patches, x.grid, self.r).flatten(2)))
        memory = F.silu(self.to_memory(x.patches))
        scale = self.cls_scale.flatten(1, 2)  # (1,n,D)
        whole = F.silu(self.to_global(x.cls)).unsqueeze(1) * scale
        windows = to_windows(memory, x.grid, self.r)
        tokens: Tensor = self.out(
            self.local_block(local, windows) + self.global_block(whole, windows)
        )
        return tokens


class Block(nn.Module):
    """Pre-norm attention from one query to its window, then SwiGLU; RMSNorm eps 1e-6, no biases."""

    def __init__(self, *, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"pvtc: {heads} attention heads do not divide the width {dim}")
        self.heads, self.drop_path = heads, drop_path
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.w1, self.w3 = (nn.Linear(dim, 4 * dim, bias=False) for _ in range(2))
        self.w2 = nn.Linear(4 * dim, dim, bias=False)
        self.norm1, self.norm2, self.norm3 = (RMSNorm(dim) for _ in range(3))

    def forward(self, q: Tensor, memory: Tensor) -> Tensor:
        """q (B,n,D) one query per window, memory (B,n,r^2,D) -> (B,n,D)."""
        q = q + self._drop(self._attend(q, memory))
        u = self.norm3(q)
        return q + self._drop(self.w2(F.silu(self.w1(u)) * self.w3(u)))

    def _attend(self, q: Tensor, memory: Tensor) -> Tensor:
        kv = self.norm2(memory)
        queries = self._split(self.q(self.norm1(q)).unsqueeze(2))
        seen = F.scaled_dot_product_attention(
            queries, self._split(self.k(kv)), self._split(self.v(kv))
        )
        out: Tensor = self.proj(seen.transpose(2, 3).reshape(q.shape))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B,n,L,D) -> (B,n,heads,L,D/heads)."""
        return x.view(*x.shape[:3], self.heads, -1).transpose(2, 3)

    def _drop(self, x: Tensor) -> Tensor:
        """DropPath: drops a window of an image as a whole, in training only."""
        if not self.training or self.drop_path == 0:
            return x
        kept = torch.empty_like(x[..., :1]).bernoulli_(1 - self.drop_path)
        return x * kept / (1 - self.drop_path)


class RMSNorm(nn.RMSNorm):
    """Without bias, eps 1e-6; in the weight's precision also under autocast."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(...,D) -> (...,D)."""
        return super().forward(x.to(self.weight.dtype))


def _norm_linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(RMSNorm(inputs), nn.Linear(inputs, outputs, bias=False))
