"""Fast forward pass of SAM's ViT image encoder, exact up to rounding.

Same weights, same result up to rounding; nothing is approximated. What the published forward pass
(segment_anything/modeling/image_encoder.py) does besides:

1. Each call gathers the tables of relative positions again, with indices made on the host, which a
   GPU waits for 64 times per image. Frozen weights: gathered once.
2. Scores, bias and softmax are tensors of their own. One fused attention does it all: on a CPU with the
   bias as its mask; elsewhere, where a mask excludes the fastest kernels and a bias of 4096 x 4096
   tokens is half a gigabyte, with the relative positions as further channels of queries and keys.
3. The neck's LayerNorm2d is four passes over memory; torch's layer_norm is one, and sums in float32
   whatever the dtype.

Shapes: B images, h x w tokens, C channels, H heads, D channels per head.
"""

from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import (
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn
from torch.nn import functional as F


class FastViT(nn.Module):
    """A frozen `ImageEncoderViT`, called by another way. It keeps the modules of `vit`.

    Tables follow the dtype of the weights at the time it is made.
    """

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit
        for number, block in enumerate(vit.blocks):
            for axis in ("h", "w"):
                self.register_buffer(f"{axis}{number}", _table(block.attn, axis), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised (B,3,S,S) -> (B,C,h,w)."""
        x = self.vit.patch_embed(pixels)  # (B,h,w,C)
        if self.vit.pos_embed is not None:
            x = x + self.vit.pos_embed
        for number, block in enumerate(self.vit.blocks):
            tables = (self.get_buffer(f"{axis}{number}") for axis in ("h", "w"))
            x = x + _attended(block, block.norm1(x), *tables)
            x = x + block.mlp(block.norm2(x))
        for layer in self.vit.neck:
            x = norm_channels(layer, x) if isinstance(layer, LayerNorm2d) else _conv(layer, x)
        features: Tensor = x.permute(0, 3, 1, 2)
        return features


def norm_channels(norm: Any, x: Tensor) -> Tensor:
    """SAM's `LayerNorm2d` of channels-last x (...,C)."""
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)


def _conv(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out


def _table(attention: Any, axis: str) -> Tensor | None:
    """(n,n,D) relative positions of a side of n tokens; None without them."""
    if not attention.use_rel_pos:
        return None
    known = getattr(attention, f"rel_pos_{axis}")
    side = (len(known) + 1) // 2
    table: Tensor = get_rel_pos(side, side, known).detach()
    return table


def _attended(block: Any, x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    """The block's attention over windows or the whole image, (B,h,w,C) -> (B,h,w,C)."""
    if not block.window_size:
        return _attend(block.attn, x, rows, columns)
    windows, padded = window_partition(x, block.window_size)
    mixed = _attend(block.attn, windows, rows, columns)
    joined: Tensor = window_unpartition(mixed, block.window_size, padded, x.shape[1:3])
    return joined


def _attend(attention: Any, x: Tensor, rows: Tensor | None, columns: Tensor | None) -> Tensor:
    batch, height, width, channels = x.shape
    heads = attention.num_heads
    qkv = attention.qkv(x).reshape(batch, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)  # (B,H,h*w,D)
    if rows is None or columns is None:
        mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    else:
        at = q.reshape(batch, heads, height, width, -1)
        by_row = torch.einsum("bnhwd,hkd->bnhwk", at, rows)
        by_column = torch.einsum("bnhwd,wkd->bnhwk", at, columns)
        attend = with_mask if x.device.type == "cpu" else with_key_channels
        mixed = attend(q, k, v, by_row, by_column, attention.scale)
    out: Tensor = attention.proj(mixed.transpose(1, 2).reshape(batch, height, width, channels))
    return out


def with_mask(
    q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, scale: float
) -> Tensor:
    """Attention of q, k, v (B,H,h*w,D) with biases (B,H,h,w,h) and (B,H,h,w,w) of a key's row and
    column, added up to a mask.
    """
    bias = by_row[..., :, None] + by_column[..., None, :]
    mask = bias.reshape(*q.shape[:3], k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def with_key_channels(
    q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, scale: float
) -> Tensor:
    """As `with_mask` without a mask, with D + h + w channels.

    A key says its row and its column by a one each, so that its product with a query that has the
    biases as further channels adds the two that apply. Values get zeros: flash kernels want all three
    alike. On a CPU it takes a quarter to a half longer than the mask.
    """
    height, width = by_row.shape[-1], by_column.shape[-1]
    eye = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, 0)
    place = torch.cat([eye, torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)], 1)
    biases = torch.cat([by_row, by_column], dim=-1).flatten(2, 3)
    q = torch.cat([q, biases / scale], dim=-1)
    k = torch.cat([k, place.expand(*k.shape[:2], -1, -1)], dim=-1)
    mixed = F.scaled_dot_product_attention(q, k, F.pad(v, (0, height + width)), scale=scale)
    return mixed[..., : v.shape[-1]]
