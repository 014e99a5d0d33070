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
from .backbone import Family
from .dinov2 import Dinov2, patches, shape

if TYPE_CHECKING:
    from torch import Tensor, nn


class Dinov3(Dinov2):
    """Adapter of a `transformers.DINOv3ViTModel`; normalisation is that of the LVD-1689M weights."""

    anchors: ClassVar[tuple[str, ...]] = ("embeddings.cls_token",)
    norm: ClassVar[str] = "norm"

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """The hub's names, where blocks are `layer.N`, to those of the installed transformers."""
        own = self.model.state_dict()
        inner = {name: re.sub(r"^layer\.", "model.layer.", name) for name in state}
        return {
            name if name in own or inner[name] not in own else inner[name]: tensor
            for name, tensor in state.items()
        }


def build_dinov3(hidden: int, blocks: int, heads: int, patch: int, prefix: int) -> "nn.Module":
    """An untrained `DINOv3ViTModel`; random weights come from torch's generator."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        patch_size=patch,
        num_register_tokens=prefix - 1,
    )
    model: nn.Module = DINOv3ViTModel(config)
    return model.eval()


def fill_buffers(model: "nn.Module") -> None:
    """Give a model that was built on the meta device its rotary frequencies, which no file holds."""
    import torch

    rope: Any = model.rope_embeddings
    rope.inv_freq = 1 / rope.base ** torch.arange(0, 1, 4 / rope.head_dim, dtype=torch.float32)


def expected_config(spec: EncoderSpec) -> dict[str, object]:
    """Expected values in config.json of the model of `spec`."""
    hidden, blocks, heads = shape(spec.name)
    return {
        "model_type": "dinov3_vit",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "patch_size": spec.patch,
        "num_register_tokens": spec.prefix - 1,
        "use_gated_mlp": False,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
    }


def family(spec: EncoderSpec, size: int) -> Family:
    """A published DINOv3; it takes any `size` that is a multiple of its patch."""
    hidden, blocks, heads = shape(spec.name)
    build = partial(build_dinov3, hidden, blocks, heads, spec.patch, spec.prefix)
    known = partial(patches, spec.patch, hidden)
    return Family(build, Dinov3, expected_config(spec), finish=fill_buffers, shape=known)
