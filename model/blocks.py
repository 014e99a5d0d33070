"""Mask2Former's decoder layers: cross-attention, self-attention, feed-forward, in this order.

Post-norm, ReLU, no dropout, biases everywhere. Positions are added to queries and keys, never to
values nor to the residual, and again in every attention. Parameters carry the names of torch's
`nn.MultiheadAttention` and of Mask2Former's layers, so weights can be exchanged by name.
Source: Mask2Former 9b0651c6, mask2former_transformer_decoder.py 17-178 and 396-416.
"""

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pipeline.errors import ConfigError

QUERY: Final = 0  # rows of the stacked input projection, in torch's order
KEY: Final = 1
VALUE: Final = 2
Parts = tuple[tuple[Tensor, Tensor], ...]


class Attention(nn.Module):
    """`nn.MultiheadAttention(dim, heads, batch_first=True)` without its weights output.

    Raises ConfigError if `heads` does not divide `dim`.
    """

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ConfigError(f"{heads} attention heads do not divide the width {dim}")
        self.dim, self.heads = dim, heads
        # One stacked matrix: its xavier bound is sqrt(6/4d), smaller than that of three (d,d).
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B,Q,d), (B,K,d), (B,K,d) -> (B,Q,d).

        `allowed` is broadcast to (B,heads,Q,K): bool, False forbids, and a row must allow something;
        or float, added to the scores.
        """
        parts = self.parts()
        query, key, value = (self.project(x, part, parts) for part, x in enumerate((q, k, v)))
        if allowed is not None and allowed.dtype != torch.bool:
            allowed = allowed.to(query.dtype)
        return self.merge(F.scaled_dot_product_attention(query, key, value, attn_mask=allowed))

    def parts(self) -> Parts:
        """Weight (d,d) and bias (d,) of each projection, in the dtype of the arithmetic.

        Split once: the gradient of a slice is a whole matrix, zero but for the slice. Cast before:
        autocast casts a view at every use, and only a parameter once.
        """
        weight: Tensor = self.in_proj_weight
        bias: Tensor = self.in_proj_bias
        kind = weight.device.type
        if weight.dtype == torch.float32 and torch.is_autocast_enabled(kind):
            weight, bias = (x.to(torch.get_autocast_dtype(kind)) for x in (weight, bias))
        return tuple(zip(weight.chunk(3), bias.chunk(3), strict=True))

    def project(self, x: Tensor, part: int, parts: Parts | None = None) -> Tensor:
        """(...,L,d) -> (...,heads,L,d/heads) as `QUERY`, `KEY` or `VALUE`.

        parts  of `parts()`, where several projections are made
        """
        return self._by_head(F.linear(x, *(parts or self.parts())[part]))

    def merge(self, heads: Tensor) -> Tensor:
        """Output projection: (...,heads,L,d/heads) -> (...,L,d)."""
        out: Tensor = self.out_proj(heads.transpose(-3, -2).flatten(-2))
        return out

    def _by_head(self, y: Tensor) -> Tensor:
        return y.view(*y.shape[:-1], self.heads, -1).transpose(-3, -2)


# How a block looks at what it attends to: (the layer's weights, queries with their positions) ->
# the attention's output. SSA attends to patches; SSPE to masks, by an exact shortcut.
Attend = Callable[[Attention, Tensor], Tensor]


class CrossLayer(nn.Module):
    """t = LN(t + attention from t to something else)."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(dim=dim, heads=heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, t: Tensor, q_pos: Tensor, attend: Attend) -> Tensor:
        """(B,Q,d) -> (B,Q,d)."""
        out: Tensor = self.norm(t + attend(self.multihead_attn, t + q_pos))
        return out


class SelfLayer(nn.Module):
    """t = LN(t + attention among the rows of t)."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim=dim, heads=heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, t: Tensor, q_pos: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B,Q,d) -> (B,Q,d); `allowed` as in `Attention`."""
        q = t + q_pos
        out: Tensor = self.norm(t + self.self_attn(q, q, t, allowed))
        return out


class FeedForward(nn.Module):
    """t = LN(t + W2 relu(W1 t))."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, t: Tensor) -> Tensor:
        """(B,Q,d) -> (B,Q,d)."""
        out: Tensor = self.norm(t + self.linear2(F.relu(self.linear1(t))))
        return out


class BlockStack(nn.Module):
    """`blocks` times cross-attention, self-attention, feed-forward; no norm after the last."""

    def __init__(self, *, dim: int, heads: int, blocks: int, ffn: int) -> None:
        super().__init__()
        count = range(blocks)
        self.cross = nn.ModuleList(CrossLayer(dim=dim, heads=heads) for _ in count)
        self.self_ = nn.ModuleList(SelfLayer(dim=dim, heads=heads) for _ in count)
        self.ffn = nn.ModuleList(FeedForward(dim=dim, hidden=ffn) for _ in count)

    @torch.no_grad()
    def add_nothing(self) -> None:
        """Zero what every layer adds to its input: the stack then only normalises."""
        for layer in self.modules():
            last = getattr(layer, "out_proj" if isinstance(layer, Attention) else "linear2", None)
            if isinstance(last, nn.Linear):
                last.weight.zero_()
                last.bias.zero_()

    def decode(
        self, t: Tensor, *, q_pos: Tensor, attend: Attend, allowed: Tensor | None = None
    ) -> Tensor:
        """Queries (B,Q,d) with positions (B,Q,d) or (Q,d) -> (B,Q,d).

        `allowed` limits the self-attention. Where all B queries start equal, t may have one row:
        the cross-attention's output then spreads it over the batch.
        """
        for cross, among, ffn in zip(self.cross, self.self_, self.ffn, strict=True):
            t = ffn(among(cross(t, q_pos, attend), q_pos, allowed))
        return t
