"""SAM's mask decoder for many prompts of few images, with half the arithmetic.

Same weights, same result up to rounding (about 1e-6 of the largest logit); nothing is approximated.
Four exact rearrangements of segment_anything/modeling/{transformer,mask_decoder}.py:

1. In the first layer all prompts of an image see the same image tokens, so the image side of both
   cross attentions is projected once instead of once per prompt.
2. Elsewhere the projections of the 4096 image tokens move to the few prompt tokens:
   q . (W x) = (W^T q) . x and sum_i a_i (W x_i) = W (sum_i a_i x_i). With T = 7 tokens and 8 heads
   this replaces products of inner size 128 (per projection) by products with 56 rows. Keys need
   no bias: it adds the same number to all scores of a query, so the softmax drops it.
3. A transposed convolution whose stride is its kernel is a product; its 2x2 pixels stay side by side
   (channels last) until the masks, of one channel each, are put together.
4. Only the tokens and hypernetworks whose masks are returned are run to the end.

Shapes: B images, P prompts (n = P/B of each image, one image after the other), T tokens (IoU, 4
masks, prompt, padding), L = h*w image tokens, C channels, H heads, D channels per head, M masks.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
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
    tokens, image = _transformed(decoder, features + dense, image_pe, sparse, slice(None))
    networks = decoder.output_hypernetworks_mlps
    hyper = torch.stack([networks[i](tokens[:, 1 + i]) for i in range(1, len(networks))], dim=1)
    return hyper, image, decoder.iou_prediction_head(tokens[:, 0])[:, 1:]


def masks_shared(decoder: Any, hyper: Tensor, image: Tensor, features: Tensor) -> Tensor:
    """The up-scaling, of any of the prompts: logits (P,M,4h,4w) for features (.,C,h,w)."""
    fine = _upscaled(decoder.output_upscaling, image)
    height, width = features.shape[-2:]
    masks = (hyper @ fine.mT).view(*hyper.shape[:2], height, width, 2, 2, 2, 2)
    rows_first = masks.permute(0, 1, 2, 4, 6, 3, 5, 7)  # of the cell, of its quarter, of theirs
    return rows_first.reshape(*hyper.shape[:2], 4 * height, 4 * width)


def decode_single(decoder: Any, features: Tensor, image_pe: Tensor, sparse: Tensor) -> Tensor:
    """As `MaskDecoder.forward(multimask_output=False)` for n prompts of each of B images: logits.

    features (B,C,h,w) with the dense prompt added, image_pe (1,C,h,w), sparse (B*n,K,C) prompts,
    those of an image in a row. Returns (B*n,4h,4w), mask token 0. The IoU head is not run.
    """
    tokens, image = _transformed(decoder, features, image_pe, sparse, slice(1, 2))
    hyper = decoder.output_hypernetworks_mlps[0](tokens)
    return masks_shared(decoder, hyper, image, features)[:, 0]


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
    """Two transposed convolutions, (P,L,C) -> (P,16L,C/8): 2x2 pixels for each, twice."""
    first, norm, activation, second, last = layers
    coarse = activation(norm_channels(norm, _quartered(first, image)))
    fine: Tensor = last(_quartered(second, coarse))
    return fine


def _quartered(convolution: Any, x: Tensor) -> Tensor:
    """`ConvTranspose2d(kernel_size=2, stride=2)` of channels-last x (P,L,C) -> (P,4L,C')."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2*2*C',C)
    out = F.linear(x, weight, convolution.bias.repeat(4))
    return out.view(len(x), 4 * x.shape[1], len(convolution.bias))


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


def _transformed(
    decoder: Any, features: Tensor, image_pe: Tensor, sparse: Tensor, wanted: slice
) -> tuple[Tensor, Tensor]:
    """`TwoWayTransformer`: the `wanted` tokens (P,.,C) and the image tokens (P,L,C)."""
    outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    start = torch.cat([outputs.expand(len(sparse), -1, -1), sparse], dim=1)  # (P,T,C)
    image = features.flatten(2).mT.contiguous()  # (B,L,C)
    pe, tokens = image_pe.flatten(2).mT, start
    asking = tokens  # tokens with their places, as queries and keys
    for layer in decoder.transformer.layers:
        tokens = _self_attention(layer, tokens, asking)
        placed, asking = image + pe, tokens + start
        read = _read_shared if len(image) < len(tokens) else _read
        tokens = layer.norm2(tokens + read(layer.cross_attn_token_to_image, asking, placed, image))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        asking = tokens + start
        into = layer.cross_attn_image_to_token
        image = layer.norm4(_written(into, image, placed, asking, tokens))
    tokens, asking = tokens[:, wanted], asking[:, wanted]
    final = decoder.transformer.final_attn_token_to_image
    tokens = tokens + _read(final, asking, image + pe, image)
    return decoder.transformer.norm_final_attn(tokens), image


def _self_attention(layer: Any, tokens: Tensor, asking: Tensor) -> Tensor:
    attention = layer.self_attn
    q_proj, k_proj, v_proj = attention.q_proj, attention.k_proj, attention.v_proj
    if layer.skip_first_layer_pe:
        q, k, v = _joint((q_proj, k_proj, v_proj), tokens)
        mixed = _attended(attention, q, k, v)
    else:
        q, k = _joint((q_proj, k_proj), asking)
        mixed = tokens + _attended(attention, q, k, v_proj(tokens))
    normed: Tensor = layer.norm1(mixed)
    return normed


def _joint(layers: Any, x: Tensor) -> tuple[Tensor, ...]:
    """The outputs of linear layers of one input, from one product."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).chunk(len(layers), dim=-1)


def _attended(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of projected queries (B,Q,H*D), keys and values (B,K,H*D) -> (B,Q,C)."""
    q, k, v = (_heads(attention, x).transpose(1, 2) for x in (query, key, value))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    out: Tensor = attention.out_proj(mixed.flatten(2))
    return out


def _read_shared(attention: Any, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens attend to image tokens that n prompts share: one attention with n*T queries."""
    q = attention.q_proj(query.reshape(len(image), -1, query.shape[-1]))  # (B,n*T,H*D)
    return _attended(attention, q, _keys(attention, placed), attention.v_proj(image)).view_as(query)


def _read(attention: Any, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens attend to their own image tokens; k and v projections moved to the token side."""
    q = _heads(attention, attention.q_proj(query))  # (P,T,H,D)
    moved = torch.einsum("pthd,hdc->phtc", q, _by_head(attention, attention.k_proj.weight))
    scale = q.shape[-1] ** -0.5
    # (P,1,H*T,C): one key head, the image tokens themselves, serves all query heads.
    mixed = F.scaled_dot_product_attention(
        moved.flatten(1, 2)[:, None], placed[:, None], image[:, None], scale=scale
    ).view(moved.shape)
    weight = _by_head(attention, attention.v_proj.weight).mT  # (H,C,D)
    bias = attention.v_proj.bias.view(len(weight), 1, -1)
    value = torch.baddbmm(bias, mixed.transpose(0, 1).flatten(1, 2), weight)  # (H,P*T,D)
    out: Tensor = attention.out_proj(value.transpose(0, 1).reshape(*query.shape[:2], -1))
    return out


def _written(attention: Any, image: Tensor, placed: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Image tokens and their attention to the T prompt tokens (P,L,C); q and out projections moved.

    Scores are kept as (P,H,T,L), so the softmax over T runs along long contiguous rows.
    """
    k = _heads(attention, _keys(attention, key))  # (P,T,H,D)
    v = _heads(attention, attention.v_proj(value))
    heads, width = k.shape[2:]
    k = k * width**-0.5
    if len(placed) < len(key):
        q = _heads(attention, attention.q_proj(placed)).permute(0, 2, 3, 1)  # (B,H,D,L)
        grouped = k.view(len(placed), -1, *k.shape[1:]).transpose(2, 3)  # (B,n,H,T,D)
        scores = (grouped @ q[:, None]).flatten(0, 1)
    else:
        moved = torch.einsum("pthd,hdc->phtc", k, _by_head(attention, attention.q_proj.weight))
        offset = torch.einsum("pthd,hd->pht", k, attention.q_proj.bias.view(heads, width))
        scores = torch.baddbmm(offset.flatten(1)[..., None], moved.flatten(1, 2), placed.mT)
    weights = scores.view(len(key), heads, -1, placed.shape[1]).softmax(dim=2).flatten(1, 2)
    # The weights of a head add up to 1: each of the heads brings its part of the bias.
    out = attention.out_proj.weight.view(-1, heads, width).permute(1, 2, 0)  # (H,D,C)
    each = v.permute(2, 0, 1, 3).flatten(1, 2)  # (H,P*T,D)
    values = torch.baddbmm(attention.out_proj.bias, each, out, beta=1 / heads)
    values = values.view(heads, *key.shape).transpose(0, 1).flatten(1, 2)  # (P,H*T,C)
    before = image.repeat_interleave(len(key) // len(image), 0)
    return torch.baddbmm(before, weights.mT, values)


def _keys(attention: Any, x: Tensor) -> Tensor:
    return F.linear(x, attention.k_proj.weight)


def _heads(attention: Any, x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-1], attention.num_heads, -1)


def _by_head(attention: Any, weight: Tensor) -> Tensor:
    return weight.view(attention.num_heads, -1, weight.shape[-1])  # (H,D,C)
