"""Tensor names of segment-anything and of transformers' `SamModel`: one state dict as the other."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def from_original(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A segment-anything state dict under `SamModel`'s names; a hub state dict passes through.

    Source: transformers src/models/sam/convert_sam_to_hf.py. The positional matrix is held twice.
    """
    # `iou_prediction_head.layers.0` exists in both layouts and means different tensors.
    original = any(name.startswith("image_encoder.") for name in state)
    renamed = {_rename(name) if original else name: value for name, value in state.items()}
    for kept, other in (_TIED, _TIED[::-1]):
        if kept in renamed:
            renamed.setdefault(other, renamed[kept])
    return renamed


def to_original(state: "Mapping[str, Tensor]", names: Iterable[str]) -> "dict[str, Tensor]":
    """A hub state dict under segment-anything's names; `names` are those of such a model."""
    original = {_rename(name): name for name in names}
    # A hub file may hold the tied positional matrix under either name, or under both.
    given = {_TIED[0] if name == _TIED[1] else name: value for name, value in state.items()}
    return {original.get(name, name): value for name, value in given.items()}


_TIED = (
    "prompt_encoder.shared_embedding.positional_embedding",
    "shared_image_embedding.positional_embedding",
)
_MLP = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}
_RULES: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
)
_HEADS = re.compile(r"\.(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.layers\.([012])\.")


def _rename(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return _HEADS.sub(lambda m: f".{m[1]}.{_MLP[m[2]]}.", name)
