"""Mask head: [SEG] states projected to prompts of SAM's mask decoder.

As GLaMM and LISA: the projected state is the only sparse prompt, the dense prompt is SAM's "no
mask" code, and mask token 0 (the single-mask output) is used; IoU head and the other three
hypernetworks are kept for loading and never run. All masks of a batch are decoded at once, by
`pipeline.sam.mask_decoder`, and brought to the size of the largest photograph.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from ..pipeline.sam.mask_decoder import decode_single
from .batch import MaskLayout
from .mixed_precision import gathered_by_calls, weights_cast

# Added to all scores of a query, so the softmax drops it.
KEY_BIAS = re.compile(r".*attn_.*k_proj\.bias")


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
