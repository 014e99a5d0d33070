"""Exact cross-attention to binary masks, without per-pixel keys, values or scores.

A pixel's key is Wk e + Wk pos + bk with e = e0 outside the mask and e1 inside; its value is v0 or
v1. So the output is a v1 + (1 - a) v0, where `a` is the softmax mass inside the mask. Sine positions
are a row's code beside a column's, hence a score is row[y] + column[x], with a column that has one
score inside the mask and another one outside, and

    a = S1 / (S1 + S0)    S1 = rows^T mask inside, S0 = rows^T (1 - mask) outside

with rows = softmax(row), (inside, outside) = softmax(both columns), whose factors cancel; so does
what is equal in all keys (bk). Per query these are h + 2 w exponentials and one small matrix product
instead of h*w scores. Scores and masses are float32 or wider.
Shapes: n superpixels, h x w masks, Q queries, d = heads * c. The attention is the paper's (Sec. 4.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...blocks import KEY, VALUE, Attention, Crossings, Look

SMALLEST = 1e-30  # share of a side that a pixel does not belong to: keeps an empty side's mass > 0


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks prepared once for all blocks.

    values  (n,h,w) as given: integers 0/1, or floating in [0,1] (soft); they get no gradient
    sides   (n,h,2w) float32 or wider: outside beside inside; None for soft masks
    """

    values: Tensor
    sides: Tensor | None

    @classmethod
    def of(cls, values: Tensor, dtype: torch.dtype) -> "Masks":
        """Soft exactly when floating. `dtype` is the model's."""
        if values.is_floating_point():
            return cls(values, None)
        inside = values.to(_wide(dtype))
        sides = torch.cat([1 - inside, inside], dim=2)
        return cls(values, sides.clamp_min(SMALLEST))


@dataclass(frozen=True, slots=True)
class MaskLook:
    """One layer's attention to the masks: queries (n,Q,d) or (1,Q,d) for all alike -> (n,Q,d).

    keys    (heads,c,h+2w) float32 or wider, of rows, of columns outside and of columns inside
    values  (heads*2,d), of outside and inside by head, through the output projection; each holds
            its part of the bias
    """

    masks: Masks
    keys: Tensor
    values: Tensor

    def __call__(self, queries: Tensor) -> Tensor:
        heads, c, _ = self.keys.shape
        h, w = self.masks.values.shape[1:]
        with torch.autocast(queries.device.type, enabled=False):
            scaled = queries.to(self.keys.dtype).view(-1, heads, c).transpose(0, 1)
            scores = (scaled @ self.keys).view(heads, *queries.shape[:2], -1).transpose(0, 1)
            mass = _mass if self.masks.sides is not None else _soft_mass
            row, columns = torch.split(scores, [h, 2 * w], -1)
            share = mass(row, columns, self.masks)  # (n,Q,heads,2)
        return share.flatten(2).to(self.values.dtype) @ self.values


def mask_looks(
    layers: Sequence[Attention],
    crossings: Crossings,
    masks: Masks,
    embed: Tensor,
    axes: tuple[Tensor, Tensor],
) -> list[Look]:
    """Attention of each layer to the masks.

    `embed` (2,d) holds e0 and e1. `axes` (h,d), (w,d): a key's position is their sum.
    """
    (y, x), count, heads = axes, len(layers), layers[0].heads
    outside, inside = embed.unbind()
    rows = torch.cat([y, x, x + (inside - outside), embed])
    # Keys and values of all layers by one product; the rows that are not needed are few.
    stacked = torch.cat([*crossings.weights[KEY], *crossings.weights[VALUE]])
    bias = torch.cat([*crossings.biases[KEY], *crossings.biases[VALUE]])
    table = F.linear(rows, stacked, bias).view(len(rows), 2, count, heads, -1)
    keys = table[:-2, 0].permute(1, 2, 3, 0).to(_wide(table.dtype)) * table.shape[-1] ** -0.5
    values = _through_output(layers, table[-2:, 1].permute(1, 2, 0, 3))
    return [MaskLook(masks, *one) for one in zip(keys.unbind(), values.unbind(), strict=True)]


def _through_output(layers: Sequence[Attention], values: Tensor) -> Tensor:
    """(L,heads,2,c) -> (L,heads*2,d): a head's values through its columns of the output projection."""
    count, heads, _, c = values.shape
    weight = torch.stack([attn.out_proj.weight for attn in layers]).view(count, -1, heads, c)
    bias = torch.stack([attn.out_proj.bias for attn in layers])[:, None, None]
    out = values @ weight.permute(0, 2, 3, 1)
    return torch.add(out, bias, alpha=1 / heads).flatten(
        1, 2
    )  # the shares of all heads sum to heads


def _mass(row: Tensor, columns: Tensor, masks: Masks) -> Tensor:
    """row (n|1,heads,Q,h), columns (n|1,heads,Q,2w) -> (n,Q,heads,2), outside and inside, sum 1."""
    assert masks.sides is not None
    n, (_, heads, queries, _) = len(masks.values), row.shape
    across = row.softmax(-1).flatten(1, 2) @ masks.sides  # (n,heads*Q,2w)
    found = across.view(n, heads, queries, 2, -1) * columns.softmax(-1).view(*row.shape[:3], 2, -1)
    mass = found.transpose(1, 2).sum(4)
    return mass / mass.sum(3, keepdim=True)


def _soft_mass(row: Tensor, columns: Tensor, masks: Masks) -> Tensor:
    """The same for soft masks: sum_p softmax_p(score_p + m_p delta) m_p, over every pixel."""
    m = masks.values.to(row.dtype)[:, None, None]  # (n,1,1,h,w)
    outside, inside = columns.unsqueeze(3).chunk(2, -1)  # (n|1,heads,Q,1,w)
    scores = row.unsqueeze(-1) + outside + m * (inside - outside)
    a = (scores.flatten(3).softmax(3) * m.flatten(3)).sum(3).transpose(1, 2)
    return torch.stack([1 - a, a], 3)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
