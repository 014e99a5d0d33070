"""Exact cross-attention to binary masks, without per-pixel keys, values or scores.

A pixel's key is Wk e + Wk pos + bk with e = e0 outside the mask and e1 inside; its value is v0 or
v1. So the output is v0 + a (v1 - v0), where `a` is the softmax mass inside the mask, and

    a = sigmoid(delta + log S1 - log S0)    delta = q . Wk (e1 - e0)
    S1 = sum of exp(score) over the pixels inside, S0 over those outside; bk cancels.

Sine positions are a row's code beside a column's, hence a score is row[y] + column[x] and
S1 = rows^T mask columns with rows = exp(row), columns = exp(column): per query h + w exponentials
and one small matrix product instead of h*w scores. Float32 or wider throughout.
Shapes: n superpixels, h x w masks, Q queries, d = heads * c. The attention is the paper's (Sec. 4.2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...blocks import KEY, QUERY, VALUE, Attention


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks prepared once for all blocks.

    values  (n,h,w) as given: integers 0/1, or floating in [0,1] (soft); they get no gradient
    sides   (n,h,2w) float32 or wider: inside beside outside; None for soft masks
    empty   (n,1,2) bool: the side inside, outside holds no pixel; None for soft masks
    """

    values: Tensor
    sides: Tensor | None
    empty: Tensor | None

    @classmethod
    def of(cls, values: Tensor, dtype: torch.dtype) -> "Masks":
        """Soft exactly when floating. `dtype` is the model's."""
        if values.is_floating_point():
            return cls(values, None, None)
        inside = values.to(_wide(dtype))
        sides = torch.stack([inside, 1 - inside], dim=2)  # (n,h,2,w)
        empty = sides.sum(dim=(1, 3)) == 0
        return cls(values, sides.flatten(2), empty.unsqueeze(1))


def attend_masks(
    attn: Attention, q: Tensor, masks: Masks, embed: Tensor, axes: tuple[Tensor, Tensor]
) -> Tensor:
    """Attention from q (n,Q,d), or (1,Q,d) for all masks alike, to the masks -> (n,Q,d).

    `embed` (2,d) holds e0 and e1. `axes` (h,d), (w,d): a key's position is their sum.
    """
    parts = attn.parts()
    keys, values = (attn.project(embed, part, parts) for part in (KEY, VALUE))  # (heads,2,c)
    queries = attn.project(q, QUERY, parts)  # (n,heads,Q,c)
    rows, columns = (attn.project(axis, KEY, parts) for axis in axes)  # (heads,h,c), (heads,w,c)
    with torch.autocast(q.device.type, enabled=False):
        wide = _wide(queries.dtype)
        scaled = queries.to(wide) * queries.shape[-1] ** -0.5
        delta = _scores(scaled, keys[:, 1:] - keys[:, :1])[..., 0]
        mass = _mass if masks.sides is not None else _soft_mass
        a = mass(_scores(scaled, rows), _scores(scaled, columns), delta, masks)
    outside, inside = values[:, :1], values[:, 1:]
    return attn.merge(outside + a.to(values.dtype).unsqueeze(-1) * (inside - outside))


def _scores(q: Tensor, keys: Tensor) -> Tensor:
    """q (n,heads,Q,c) . keys (heads,L,c) -> (n,heads,Q,L)."""
    return torch.einsum("nhqc,hlc->nhql", q, keys.to(q.dtype))


def _mass(row: Tensor, column: Tensor, delta: Tensor, masks: Masks) -> Tensor:
    """row (n|1,heads,Q,h), column (n|1,heads,Q,w), delta (n|1,heads,Q) -> (n,heads,Q)."""
    assert masks.sides is not None and masks.empty is not None
    y, x = _exp(row).flatten(1, 2), _exp(column).flatten(1, 2)  # (n,heads*Q,h), (...,w)
    across = (y @ masks.sides).view(len(masks.values), -1, 2, x.shape[-1])  # (n,heads*Q,2,w)
    sums = (across * x.unsqueeze(2)).sum(3)
    # Finite for an empty side, so that the gradient of an empty or a full mask is 0 and not NaN.
    # The clamp bounds what float32 cannot hold: a side whose best score is 87 below the other's.
    logs = sums.clamp_min(torch.finfo(sums.dtype).tiny).log() - 1e4 * masks.empty
    inside, outside = logs.unbind(2)
    return (delta + (inside - outside).view(-1, *delta.shape[1:])).sigmoid()


def _soft_mass(row: Tensor, column: Tensor, delta: Tensor, masks: Masks) -> Tensor:
    """The same for soft masks: sum_p softmax_p(score_p + m_p delta) m_p, over every pixel."""
    m = masks.values.to(row.dtype)[:, None, None]  # (n,1,1,h,w)
    scores = row.unsqueeze(-1) + column.unsqueeze(-2) + m * delta[..., None, None]
    return (scores.flatten(3).softmax(3) * m.flatten(3)).sum(3)


def _exp(score: Tensor) -> Tensor:
    """exp relative to the largest: a common factor of both sides, which cancels."""
    return (score - score.detach().amax(-1, keepdim=True)).exp()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
