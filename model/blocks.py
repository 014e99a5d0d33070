"""Mask2Former's decoder layers: cross-attention, self-attention, feed-forward, in this order.

Post-norm, ReLU, no dropout, biases everywhere. Positions are added to queries and keys, never to
values nor to the residual, and again in every attention. Parameters carry the names of torch's
`nn.MultiheadAttention` and of Mask2Former's layers, so weights can be exchanged by name.
Source: Mask2Former 9b0651c6, mask2former_transformer_decoder.py 17-178 and 396-416.

The positions are the same in all layers, and W (t + p) + b = W t + (W p + b): what they add to the
projections of every layer is one product.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pipeline.errors import ConfigError

QUERY: Final = 0  # rows of the stacked input projection, in torch's order
KEY: Final = 1
VALUE: Final = 2


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
        """Projected queries (B,Q,d), keys and values (B,K,d) -> (B,Q,d).

        `allowed` is broadcast to (B,heads,Q,K): bool, False forbids, and a row must allow something;
        or float, added to the scores.
        """
        if allowed is not None and allowed.dtype != torch.bool:
            allowed = allowed.to(q.dtype)
        q, k, v = (self.by_head(x) for x in (q, k, v))
        return self.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed))

    def project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(...,d) each, as `forward` takes them."""
        # Split once: the gradient of a slice is a whole matrix, zero but for the slice.
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = map(F.linear, (q, k, v), weights, biases)
        return query, key, value

    def by_head(self, x: Tensor) -> Tensor:
        """(...,L,d) -> (...,heads,L,d/heads)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(-3, -2)

    def merge(self, heads: Tensor) -> Tensor:
        """Output projection: (...,heads,L,d/heads) -> (...,L,d)."""
        out: Tensor = self.out_proj(heads.transpose(-3, -2).flatten(-2))
        return out


def projected(t: Tensor, weight: Tensor, place: Tensor) -> Tensor:
    """t (B,Q,d) W^T + place (B,Q,e) or (Q,e) -> (B,Q,e)."""
    if place.shape[:-1] == t.shape[:-1]:
        return torch.addmm(place.flatten(0, 1), t.flatten(0, 1), weight.t()).view(place.shape)
    return F.linear(t, weight) + place


class Queries(NamedTuple):
    """Query projection of one cross-attention.

    weight  (d,d)
    place   (B,Q,d) or (Q,d), the positions' projection and the bias
    """

    weight: Tensor
    place: Tensor


# How a layer looks at what it attends to: queries (B,Q,d), projected -> the attention's output.
# SSA attends to patches; SSPE to masks, by an exact shortcut.
Look = Callable[[Tensor], Tensor]


class CrossLayer(nn.Module):
    """t = LN(t + attention from t to something else)."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(dim=dim, heads=heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, t: Tensor, queries: Queries, look: Look) -> Tensor:
        """(B,Q,d) -> (B,Q,d)."""
        out: Tensor = self.norm(t + look(projected(t, *queries)))
        return out


class SelfLayer(nn.Module):
    """t = LN(t + attention among the rows of t)."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim=dim, heads=heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, t: Tensor, place: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B,Q,d) -> (B,Q,d).

        place  (B,Q,3d) or (Q,3d): what positions add to the stacked projection, its bias included
        """
        attn = self.self_attn
        stacked = projected(t, attn.in_proj_weight, place)
        out: Tensor = self.norm(t + attn(*stacked.chunk(3, -1), allowed))
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


class Crossings(NamedTuple):
    """Input projections of a stack's cross-attentions, each a tuple with one entry by layer.

    weights  of queries, keys and values: (d,d)
    biases   the same: (d,)
    """

    weights: tuple[tuple[Tensor, ...], ...]
    biases: tuple[tuple[Tensor, ...], ...]

    def all_layers(self, x: Tensor, part: int) -> tuple[Tensor, ...]:
        """x (...,d) as `KEY` or `VALUE` of every layer, by one product: (...,d) each."""
        weight, bias = torch.cat(self.weights[part]), torch.cat(self.biases[part])
        return F.linear(x, weight, bias).chunk(len(self.weights[part]), -1)


class BlockStack(nn.Module):
    """`blocks` times cross-attention, self-attention, feed-forward; no norm after the last."""

    def __init__(self, *, dim: int, heads: int, blocks: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
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

    @property
    def crossing(self) -> list[Attention]:
        """The cross-attentions, by layer."""
        return [layer.multihead_attn for layer in self.cross]  # type: ignore[misc]

    def crossings(self) -> Crossings:
        """The cross-attentions' input projections, split once for all who use them."""
        attns = self.crossing
        weights = zip(*(attn.in_proj_weight.chunk(3) for attn in attns), strict=True)
        biases = zip(*(attn.in_proj_bias.chunk(3) for attn in attns), strict=True)
        return Crossings(tuple(weights), tuple(biases))

    def decode(
        self,
        t: Tensor,
        *,
        q_pos: Tensor,
        crossings: Crossings,
        looks: Sequence[Look],
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Queries (B,Q,d) with positions (B,Q,d) or (Q,d) -> (B,Q,d).

        crossings  `crossings()`; looks  how each layer attends to what is crossed with
        `allowed` limits the self-attention. Where all B queries start equal, t may have one row:
        the cross-attention's output then spreads it over the batch.
        """
        places = self._places(q_pos, crossings)
        for i, (cross, among, ffn) in enumerate(zip(self.cross, self.self_, self.ffn, strict=True)):
            queries = Queries(crossings.weights[QUERY][i], places[2 * i])
            t = ffn(among(cross(t, queries, looks[i]), places[2 * i + 1], allowed))
        return t

    def _places(self, q_pos: Tensor, crossings: Crossings) -> tuple[Tensor, ...]:
        """Projections of q_pos, biases included: for a layer's queries (...,d), then for its
        self-attention (...,3d), where values have the bias only.
        """
        d = q_pos.shape[-1]
        nothing = q_pos.new_zeros(d, d)
        weights, biases = [], []
        for i, layer in enumerate(self.self_):
            attn: Attention = layer.self_attn  # type: ignore[assignment]
            weights += [crossings.weights[QUERY][i], attn.in_proj_weight[: 2 * d], nothing]
            biases += [crossings.biases[QUERY][i], attn.in_proj_bias]
        placed = F.linear(q_pos, torch.cat(weights), torch.cat(biases))
        return torch.split(placed, [d, 3 * d] * len(self.self_), -1)
