"""Mask head: [SEG] states projected to prompts of SAM's mask decoder.

As GLaMM and LISA: the projected state is the only sparse prompt, the dense prompt is SAM's "no
mask" code, and mask token 0 (the single-mask output) is used; IoU head and the other three
hypernetworks are kept for loading and never run. All masks of a batch are decoded at once.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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

    def forward(self, prompts: Tensor, row: Tensor, sam: Tensor) -> Tensor:
        """Low-resolution logits (S,4h,4w) float32 for `prompts` (S,C) on `sam` (B,C,h,w)[row].

        Source: segment_anything/modeling/mask_decoder.py `predict_masks`, mask token 0 only.
        """
        decoder, encoder = self.decoder, self.prompt_encoder
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(len(prompts), -1, -1), prompts[:, None]], 1)  # (S,6,C)
        dense = encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        image = (sam + dense)[row]  # (S,C,h,w)
        places = encoder.get_dense_pe().to(image.dtype).expand(len(prompts), -1, -1, -1)
        states, keys = decoder.transformer(image, places, tokens.to(image.dtype))
        fine = decoder.output_upscaling(keys.transpose(1, 2).reshape(image.shape))
        mix = decoder.output_hypernetworks_mlps[0](states[:, 1])
        low: Tensor = torch.einsum("sc,schw->shw", mix, fine).float()
        return low


def upscale(low: Tensor, image_size: int, size: tuple[int, int]) -> Tensor:
    """Low-resolution logits (S,h,w) -> (S,H,W) at the photograph's `size`, float32.

    Bilinear to SAM's square, the padding cut off, bilinear to the photograph: losses and IoU live
    there. Source: segment_anything/modeling/sam.py `postprocess_masks`.
    """
    scale = image_size / max(size)
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    square = (image_size, image_size)
    full = F.interpolate(low.float()[:, None], square, mode="bilinear", align_corners=False)
    cut = full[..., :height, :width]
    return F.interpolate(cut, size, mode="bilinear", align_corners=False)[:, 0]
