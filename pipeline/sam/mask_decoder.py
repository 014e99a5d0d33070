"""SAM's mask decoder for many single-click prompts of one image, with half the arithmetic.

Same weights, same result up to rounding (about 1e-6 of the largest logit); nothing is approximated.
Three exact rearrangements of segment_anything/modeling/{transformer,mask_decoder}.py:

1. In the first layer every prompt sees the same image tokens, so the image side of both cross
   attentions is projected once instead of once per prompt.
2. Elsewhere the projections of the 4096 image tokens move to the few prompt tokens:
   q . (W x) = (W^T q) . x and sum_i a_i (W x_i) = W (sum_i a_i x_i). With T = 7 tokens and 8 heads
   this replaces products of inner size 128 (per projection) by products with 56 rows. A key bias
   adds the same number to all scores of a query, so the softmax drops it.
3. Only the three hypernetworks whose masks are returned are run.

Shapes: P prompts, T tokens (IoU, 4 masks, click, padding), L = h*w image tokens, C channels, H heads,
D channels per head.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor
from torch.nn import functional as F

from .image_encoder import norm_channels

Attended = tuple[Tensor, Tensor, Tensor]
Wanted = Callable[[Tensor], Tensor]  # see `SamBackend.decode`


def decode_shared(
    decoder: Any, features: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """As `MaskDecoder.forward(multimask_output=True)` for one image.

    features (1,C,h,w), image_pe (1,C,h,w), sparse (P,2,C) click codes, dense (1,C,h,w) or a scalar
    field expanded to it, all in the dtype of the weights. Returns logits (P,3,4h,4w) and IoU (P,3)
    in that dtype.
    """
    hyper, image, iou = attend_shared(decoder, features, image_pe, sparse, dense)
    return masks_shared(decoder, hyper, image, features), iou


def attend_shared(
    decoder: Any, features: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
) -> Attended:
    """`decode_shared` but for the up-scaling, which not every prompt needs: outputs (P,3,C/8) of the
    hypernetworks, image tokens (P,L,C), IoU (P,3).
    """
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    start = torch.cat([outputs.expand(len(sparse), -1, -1), sparse], dim=1)  # (P,T,C)
    image = (features + dense).flatten(2).transpose(1, 2)  # (1,L,C)
    tokens, image = _transform(decoder.transformer, start, image, image_pe.flatten(2).mT)
    networks = decoder.output_hypernetworks_mlps
    hyper = torch.stack([networks[i](tokens[:, 1 + i]) for i in range(1, len(networks))], dim=1)
    return hyper, image, decoder.iou_prediction_head(tokens[:, 0])[:, 1:]


def masks_shared(decoder: Any, hyper: Tensor, image: Tensor, features: Tensor) -> Tensor:
    """The up-scaling, of any of the prompts: logits (P,3,4h,4w) for features (1,C,h,w)."""
    grid = image.mT.reshape(-1, *features.shape[1:])
    upscaled = _upscaled(decoder.output_upscaling, grid)
    return (hyper @ upscaled.flatten(2)).view(*hyper.shape[:2], *upscaled.shape[-2:])


def attend_published(
    decoder: Any, features: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
) -> Attended:
    """As `attend_shared`, the modules called as `MaskDecoder.forward` calls them, bit for bit.

    dense (P,C,h,w); the outputs of all four hypernetworks. Source:
    segment_anything/modeling/mask_decoder.py `predict_masks`.
    """
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    start = torch.cat([outputs.expand(len(sparse), -1, -1), sparse], dim=1)
    image = torch.repeat_interleave(features, len(start), dim=0) + dense
    pe = torch.repeat_interleave(image_pe, len(start), dim=0)
    tokens, image = decoder.transformer(image, pe, start)
    networks = decoder.output_hypernetworks_mlps
    hyper = torch.stack([networks[i](tokens[:, 1 + i, :]) for i in range(len(networks))], dim=1)
    return hyper, image, decoder.iou_prediction_head(tokens[:, 0, :])[:, 1:]


def masks_published(decoder: Any, hyper: Tensor, image: Tensor, features: Tensor) -> Tensor:
    """As `masks_shared`, for what `attend_published` gives, bit for bit."""
    upscaled = decoder.output_upscaling(image.transpose(1, 2).view(-1, *features.shape[1:]))
    masks: Tensor = (hyper @ upscaled.flatten(2)).view(*hyper.shape[:2], *upscaled.shape[-2:])
    return masks[:, 1:]


def _upscaled(layers: Any, image: Tensor) -> Tensor:
    """Two transposed convolutions, (P,C,h,w) -> (P,C/8,4h,4w); see `vit` on the norm between."""
    for layer in layers:
        if isinstance(layer, LayerNorm2d):
            image = norm_channels(layer, image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            image = layer(image)
    return image


def decoder_flops(sam: Any, prompts: int = 256) -> tuple[int, int]:
    """Floating-point operations (2 per multiply-add) of `prompts` clicks: (published, ours).

    Counted by `torch.utils.flop_counter` on meta copies of `sam.mask_decoder`: no arithmetic runs,
    so the full size costs nothing.
    """
    from torch.utils.flop_counter import FlopCounterMode

    decoder = copy.deepcopy(sam.mask_decoder).to("meta")
    grid = sam.prompt_encoder.image_embedding_size
    image = torch.empty(1, decoder.transformer_dim, *grid, device="meta")
    sparse = torch.empty(prompts, 2, decoder.transformer_dim, device="meta")
    counts = []
    for published in (True, False):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            if published:
                decoder(image, image, sparse, image.expand(prompts, -1, -1, -1), True)
            else:
                decode_shared(decoder, image, image, sparse, image)
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def _transform(transformer: Any, start: Tensor, image: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
    """`TwoWayTransformer`: tokens (P,T,C), image (1,L,C), pe (1,L,C) -> (P,T,C), (P,L,C)."""
    tokens = start
    for layer in transformer.layers:
        tokens = _self_attention(layer, tokens, start)
        placed = image + pe
        read = _read_shared if len(image) == 1 else _read
        tokens = layer.norm2(
            tokens + read(layer.cross_attn_token_to_image, tokens + start, placed, image)
        )
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        image = layer.norm4(
            image + _write(layer.cross_attn_image_to_token, placed, tokens + start, tokens)
        )
    final = transformer.final_attn_token_to_image
    tokens = tokens + _read(final, tokens + start, image + pe, image)
    return transformer.norm_final_attn(tokens), image


def _self_attention(layer: Any, tokens: Tensor, start: Tensor) -> Tensor:
    if layer.skip_first_layer_pe:
        mixed: Tensor = layer.self_attn(q=tokens, k=tokens, v=tokens)
    else:
        placed = tokens + start
        mixed = tokens + layer.self_attn(q=placed, k=placed, v=tokens)
    normed: Tensor = layer.norm1(mixed)
    return normed


def _read_shared(attention: Any, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens attend to image tokens that all prompts share: one attention with P*T queries."""
    q = _heads(attention, attention.q_proj(query)).flatten(0, 1)[None]  # (1,P*T,H,D)
    k = _heads(attention, attention.k_proj(placed)).transpose(1, 2)  # (1,H,L,D)
    v = _heads(attention, attention.v_proj(image)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k, v).transpose(1, 2)
    out: Tensor = attention.out_proj(mixed.reshape(*query.shape[:2], -1))
    return out


def _read(attention: Any, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens attend to their own image tokens; k and v projections moved to the token side."""
    q = _heads(attention, attention.q_proj(query))  # (P,T,H,D)
    moved = torch.einsum("pthd,hdc->phtc", q, _by_head(attention, attention.k_proj.weight))
    scale = q.shape[-1] ** -0.5
    # (P,1,H*T,C): one key head, the image tokens themselves, serves all query heads.
    mixed = F.scaled_dot_product_attention(
        moved.flatten(1, 2)[:, None], placed[:, None], image[:, None], scale=scale
    ).view(moved.shape)
    value = torch.einsum("phtc,hdc->pthd", mixed, _by_head(attention, attention.v_proj.weight))
    out: Tensor = attention.out_proj(value.flatten(2) + attention.v_proj.bias)
    return out


def _write(attention: Any, placed: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Image tokens attend to the T prompt tokens -> (P,L,C); q and out projections moved.

    Scores are kept as (P,H,T,L), so the softmax over T runs along long contiguous rows.
    """
    k = _heads(attention, attention.k_proj(key))  # (P,T,H,D)
    v = _heads(attention, attention.v_proj(value))
    heads, width = k.shape[2:]
    if len(placed) == 1:
        q = _heads(attention, attention.q_proj(placed))  # (1,L,H,D)
        scores = k.transpose(1, 2) @ q.permute(0, 2, 3, 1)
    else:
        moved = torch.einsum("pthd,hdc->phtc", k, _by_head(attention, attention.q_proj.weight))
        offset = torch.einsum("pthd,hd->pht", k, attention.q_proj.bias.view(heads, width))
        scores = (moved.flatten(1, 2) @ placed.mT).view(*moved.shape[:3], -1) + offset[..., None]
    weights = (scores * width**-0.5).softmax(dim=2).flatten(1, 2)  # (P,H*T,L)
    out = attention.out_proj.weight.view(-1, heads, width)
    values = torch.einsum("pthd,chd->phtc", v, out).flatten(1, 2)
    written: Tensor = weights.mT @ values + attention.out_proj.bias
    return written


def _heads(attention: Any, x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-1], attention.num_heads, -1)


def _by_head(attention: Any, weight: Tensor) -> Tensor:
    return weight.view(attention.num_heads, -1, weight.shape[-1])  # (H,D,C)
