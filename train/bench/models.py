"""Models of the speed comparison, initialised randomly on their device.

Both projectors stand before the same language model and share the L-P projector and the mask head,
so what differs between two timings is the projector and the number of its tokens.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...model.language.load import restore_buffers
from ...model.mask_head import MaskHead
from ...model.projectors import build_projector
from ...model.ris import RisModel
from ...pipeline.sam.build import build_sam
from .presets import Preset

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

STD = 0.02


def build_models(
    preset: Preset, projectors: Sequence[str], device: torch.device
) -> dict[str, RisModel]:
    """One model per projector on `device`, in evaluation mode, nothing training yet."""
    lm = build_llm(preset, device)
    sam = random_sam(preset, device)
    head = MaskHead(copy.deepcopy(sam.prompt_encoder), copy.deepcopy(sam.mask_decoder))
    models: dict[str, RisModel] = {}
    for name in projectors:
        projector = build_projector(
            name, in_dim=preset.channels, llm_dim=preset.hidden, grid=(preset.grid, preset.grid)
        )
        models[name] = RisModel(lm, projector, head)
        models[name].to_prompt = models[projectors[0]].to_prompt
        models[name].to(device).eval().requires_grad_(False)
    return models


def build_llm(preset: Preset, device: torch.device) -> "LlamaForCausalLM":
    """A LLaMA of the preset's shape and dtype."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=preset.vocab,
        hidden_size=preset.hidden,
        intermediate_size=preset.intermediate,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=0,
    )
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        lm: LlamaForCausalLM = LlamaForCausalLM(config).to(getattr(torch, preset.dtype))
    materialise(lm, device)
    restore_buffers(lm)
    lm.model.rotary_emb.to(device)
    return lm


def random_sam(preset: Preset, device: torch.device, *, encoder: bool = False) -> Any:
    """A `modeling.Sam`; its image encoder is initialised only on request."""
    sam = build_sam(preset.sam)
    for part in (sam.prompt_encoder, sam.mask_decoder, *([sam.image_encoder] if encoder else [])):
        materialise(part, device)
    return sam


@torch.no_grad()
def materialise(module: nn.Module, device: torch.device) -> None:
    """Give a module of the meta device values on `device`; others are moved as they are.

    Matrices are normal with a small deviation, biases 0, other vectors (norms, scales) 1.
    """
    if not any(value.is_meta for value in module.state_dict().values()):
        module.to(device)
        return
    module.to_empty(device=device)
    for name, value in module.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, STD)
        else:
            value.fill_(0.0 if name.endswith("bias") else 1.0)
