"""DINOv3, ViT variants: patch 16, rotary positions, four registers; 384 px gives 24 x 24 patches.

Patches are `last_hidden_state[:, 1 + registers:]`, after the final LayerNorm, and earlier layers pass
the same LayerNorm (facebookresearch/dinov3, vision_transformer.py, `get_intermediate_layers`).
Positions are computed from the patch grid, so that every multiple of the patch is taken as it is.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..fetch.encoder_specs import EncoderSpec
from ..weights.rehearsal import narrowed
from .backbone import Family
from .vit import Vit, any_multiple, common_fields

if TYPE_CHECKING:
    from torch import Tensor, nn


class Dinov3(Vit):
    """Adapter of a `transformers.DINOv3ViTModel`."""

    norm: ClassVar[str] = "norm"

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """The hub's names, where blocks are `layer.N`, to those of the installed transformers."""
        own = self.model.state_dict()
        inner = {name: re.sub(r"^layer\.", "model.layer.", name) for name in state}
        return {
            name if name in own or inner[name] not in own else inner[name]: tensor
            for name, tensor in state.items()
        }


def build_dinov3(spec: EncoderSpec) -> "nn.Module":
    """An untrained `DINOv3ViTModel`; random weights come from torch's generator."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    model: nn.Module = DINOv3ViTModel(DINOv3ViTConfig(**_fields(spec)))
    return model.eval()


def _fields(spec: EncoderSpec) -> dict[str, Any]:
    """Fields of config.json that decide what the model of a row computes."""
    return {
        **common_fields(spec),
        "intermediate_size": spec.inner,
        "num_register_tokens": spec.prefix - 1,
        "use_gated_mlp": spec.swiglu,
        "hidden_act": "silu" if spec.swiglu else "gelu",
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "query_bias": spec.qkv_bias,
        "key_bias": False,
        "value_bias": spec.qkv_bias,
    }


def fill_buffers(model: "nn.Module") -> None:
    """Give a model that was built on the meta device its rotary frequencies, which no file holds."""
    import torch

    rope: Any = model.rope_embeddings
    rope.inv_freq = 1 / rope.base ** torch.arange(0, 1, 4 / rope.head_dim, dtype=torch.float32)


def family(spec: EncoderSpec, size: int) -> Family:
    """A published DINOv3; it takes any `size` that is a multiple of its patch."""
    spec = narrowed(spec)
    expected = {"model_type": "dinov3_vit", **_fields(spec)}
    known = partial(any_multiple, spec.patch, spec.hidden)
    adapt = partial(Dinov3, prefix=spec.prefix)
    return Family(partial(build_dinov3, spec), adapt, expected, finish=fill_buffers, shape=known)
