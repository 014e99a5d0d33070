"""Mask head: [SEG] states projected to prompts of SAM's mask decoder.

As GLaMM and LISA: the projected state is the only sparse prompt, the dense prompt is SAM's "no
mask" code, and mask token 0 (the single-mask output) is used; IoU head and the other three
hypernetworks are kept for loading and never run. All masks of a batch are decoded at once, by
`pipeline.sam.mask_decoder`, and brought to the size of the largest photograph.
"""

import copy
import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..pipeline.sam.mask_decoder import decode_single
from .batch import MaskLayout

# Added to all scores of a query, so the softmax drops it.
KEY_BIAS = re.compile(r".*attn_.*k_proj\.bias")
# Parameters that `decode_single` does not read.
UNUSED = re.compile(rf"iou_prediction_head\.|output_hypernetworks_mlps\.[^0]|{KEY_BIAS.pattern}")


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
        # Modules without values, which are called with weights of another dtype; no part of ours.
        self._hollow = (_Single(copy.deepcopy(decoder).to("meta")),)

    def forward(self, prompts: Tensor, masks: MaskLayout, sam: Tensor) -> Tensor:
        """Low-resolution logits (S,4h,4w) float32 for `prompts` (S,C) on `sam` (B,C,h,w).

        Source: segment_anything/modeling/mask_decoder.py `predict_masks`, mask token 0 only. The
        arithmetic is in autocast's dtype where that is on, in all operators.
        """
        if gathered_by_calls(self.decoder):
            return self._published(prompts, masks, sam)
        stored = self.decoder.iou_token.weight.dtype
        dtype = autocast_dtype(sam.device) or stored
        with torch.autocast(sam.device.type, enabled=False):
            dense = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
            sparse = prompts.index_select(0, masks.filled)[:, None]  # (B*n,1,C)
            inputs = tuple(x.to(dtype) for x in (sam + dense, self._places(), sparse))
            if dtype == stored:
                low = decode_single(self.decoder, *inputs)
            else:
                weights = cast_once(self.decoder, dtype, UNUSED)
                named = {f"decoder.{name}": weight for name, weight in weights.items()}
                low = functional_call(self._hollow[0], named, inputs)
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
        end = (
            2 * math.pi * (1 - 1 / side)
        )  # centres of the cells, 2 pi times as far from the middle
        along = torch.linspace(-end, end, side, device=matrix.device)[:, None, None] * matrix
        angles = (
            along[:, 0] + along[:, None, 1]
        )  # (h,w,C/2): x with the first row, y with the other
        return torch.cat([angles.sin(), angles.cos()], -1).permute(2, 0, 1)[None]


class _Single(nn.Module):
    """`decode_single` as a module, which `functional_call` wants."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Tensor, image_pe: Tensor, sparse: Tensor) -> Tensor:
        return decode_single(self.decoder, features, image_pe, sparse)


def gathered_by_calls(module: nn.Module) -> bool:
    """Whether weights are whole only while their own module is called: DeepSpeed's ZeRO 3."""
    return any(hasattr(p, "ds_id") for p in module.parameters())


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of products on `device` where autocast is on."""
    on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


def cast_once(
    module: nn.Module, dtype: torch.dtype, without: re.Pattern[str] | None = None
) -> dict[str, Tensor]:
    """Parameters of `module` by name in `dtype`, but those whose names match `without`.

    One cast of all forward and one backward, instead of one for each. Gradients reach them.
    """
    # Asked of the modules: a strategy that splits weights gathers what is asked for by name.
    found = {
        name: module.get_parameter(name)
        for name, _ in module.named_parameters()
        if without is None or not without.match(name)
    }
    together = torch.cat([weight.flatten() for weight in found.values()]).to(dtype)
    parts = torch.split(together, [weight.numel() for weight in found.values()])
    return {
        name: part.view(weight.shape)
        for (name, weight), part in zip(found.items(), parts, strict=True)
    }


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
