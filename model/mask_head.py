"""Mask head: [SEG] states projected to prompts of SAM's mask decoder.

As GLaMM and LISA: the projected state is the only sparse prompt, the dense prompt is SAM's "no
mask" code, and mask token 0 (the single-mask output) is used; IoU head and the other three
hypernetworks are kept for loading and never run. All masks of a batch are decoded at once, by
`pipeline.sam.mask_decoder`, and brought to the size of the largest photograph.

Clicks are what SAM's published decoder reads: a code of the place and the embedding "foreground". A
[SEG] state that is projected to the code of a pixel of its object gives a mask at once, before decoder
and projection have learned anything of each other. The masks' own losses cannot find that: a random
prompt decodes to nothing or to everything, and its gradient says little of where to go.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..pipeline.sam.mask_decoder import decode_single
from .batch import Batch, MaskLayout
from .mixed_precision import gathered_by_calls, weights_cast

# Added to all scores of a query, so the softmax drops it.
KEY_BIAS = re.compile(r".*attn_.*k_proj\.bias")
# Mean square of the sines and cosines of a place: an error of 1 is that of a code of no place.
CLICK_SCALE = 0.5


class MaskHead(nn.Module):
    """`segment_anything`'s prompt encoder (frozen) and mask decoder (trained).

    image_size  side of SAM's padded square input in pixels, from the prompt encoder
    width       channels of a prompt
    """

    def __init__(self, prompt_encoder: Any, decoder: Any) -> None:
        super().__init__()
        self.prompt_encoder, self.decoder = prompt_encoder.requires_grad_(False), decoder
        self.image_size: int = prompt_encoder.input_image_size[0]
        self.width: int = prompt_encoder.embed_dim

    def forward(self, prompts: Tensor, masks: MaskLayout, sam: Tensor) -> Tensor:
        """Low-resolution logits (S,4h,4w) float32 for `prompts` (S,C) on `sam` (B,C,h,w).

        Source: segment_anything/modeling/mask_decoder.py `predict_masks`, mask token 0 only. The
        arithmetic is in autocast's dtype where that is on, in all operators.
        """
        if gathered_by_calls(self.decoder):
            return self._published(prompts, masks, sam)
        with weights_cast(self.decoder), torch.autocast(sam.device.type, enabled=False):
            dtype = self.decoder.iou_token.weight.dtype
            dense = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
            sparse = prompts.index_select(0, masks.filled)[:, None]  # (B*n,1,C)
            inputs = (x.to(dtype) for x in (sam + dense, self._places(), sparse))
            low = decode_single(self.decoder, *inputs)
            return low.index_select(0, masks.place).float()

    def _published(self, prompts: Tensor, masks: MaskLayout, sam: Tensor) -> Tensor:
        """`forward` by calls of segment_anything's modules, on a copy of the image per prompt."""
        decoder = self.decoder
        for name, bias in decoder.named_parameters():  # its gradient is 0, but for rounding
            if KEY_BIAS.match(name) and bias.requires_grad and not bias._backward_hooks:
                bias.register_hook(torch.zeros_like)
        owner = masks.place // (len(masks.filled) // len(sam))
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(len(prompts), -1, -1), prompts[:, None]], 1)  # (S,6,C)
        image = (sam + self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1))[owner]
        places = self._places().to(image.dtype).expand(len(prompts), -1, -1, -1)
        states, keys = decoder.transformer(image, places, tokens.to(image.dtype))
        fine = decoder.output_upscaling(keys.transpose(1, 2).reshape(image.shape))
        mix = decoder.output_hypernetworks_mlps[0](states[:, 1])
        return torch.einsum("sc,schw->shw", mix, fine).float()

    def _places(self) -> Tensor:
        """`PromptEncoder.get_dense_pe`, (1,C,h,w) float32, of a square embedding."""
        matrix = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix  # (2,C/2)
        side = self.prompt_encoder.image_embedding_size[0]
        # Centres of the cells, 2 pi times as far from the middle.
        end = 2 * math.pi * (1 - 1 / side)
        along = torch.linspace(-end, end, side, device=matrix.device)[:, None, None] * matrix
        # (h,w,C/2): x with the first row of the matrix, y with the other.
        angles = along[:, 0] + along[:, None, 1]
        return torch.cat([angles.sin(), angles.cos()], -1).permute(2, 0, 1)[None]


def upscale(low: Tensor, masks: MaskLayout) -> Tensor:
    """Low-resolution logits (S,h,w) -> (S,Y,X) float32 at the photographs' sizes, padded with 0.

    Bilinear to SAM's square, the padding cut off, bilinear to the photograph: losses and IoU live
    there. Source: segment_anything/modeling/sam.py `postprocess_masks`.
    """
    with torch.autocast(low.device.type, enabled=False):
        rows, columns = (
            matrices.index_select(0, masks.matrix) for matrices in (masks.rows, masks.columns)
        )
        return rows @ low.float() @ columns


def inner_points(masks: Tensor) -> Tensor:
    """Of masks (S,H,W) bool the pixel nearest to the centre of mass: its x, y (S,2) float32.

    The middle of the image for an empty mask.
    """
    height, width = masks.shape[1:]
    y = torch.arange(height, device=masks.device) + 0.5
    x = torch.arange(width, device=masks.device) + 0.5
    share = masks.float()
    area = share.sum((1, 2))
    empty = area == 0
    area = area.clamp(min=1)
    cy = torch.where(empty, height / 2, share.sum(2) @ y / area)
    cx = torch.where(empty, width / 2, share.sum(1) @ x / area)
    far = (y - cy[:, None]).square()[:, :, None] + (x - cx[:, None]).square()[:, None]
    nearest = far.masked_fill(~masks & ~empty[:, None, None], torch.inf).flatten(1).argmin(1)
    return torch.stack([x[nearest % width], y[nearest // width]], 1)


def click_targets(masks: Tensor, layout: MaskLayout, batch: Batch) -> Tensor:
    """`inner_points` of the masks (S,H,W) of a batch, in pixels of SAM's square."""
    longest = [max(batch.sizes[image]) for image in layout.images]
    return (
        inner_points(masks) * (batch.square / torch.tensor(longest, device=masks.device))[:, None]
    )


def click_codes(prompt_encoder: Any, points: Tensor, square: int) -> Tensor:
    """Codes (S,C) float32 of foreground clicks at `points` (S,2), x y in pixels of SAM's square.

    Source: segment_anything/modeling/prompt_encoder.py `_embed_points`.
    """
    matrix = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.float()  # (2,C/2)
    angles = 2 * torch.pi * (2 * points.float() / square - 1) @ matrix
    code = torch.cat([angles.sin(), angles.cos()], 1)
    label: Tensor = prompt_encoder.point_embeddings[1].weight
    return code + label.float()


def click_errors(prompts: Tensor, codes: Tensor) -> Tensor:
    """Mean squared error (S,) of prompts (S,C), 1 for the code of no place."""
    return F.mse_loss(prompts.float(), codes, reduction="none").mean(1) / CLICK_SCALE
