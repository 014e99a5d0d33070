"""DINOv2 with registers: the paper's encoder (ViT-L/14; 336 px gives 24 x 24 x 1024).

Patches are `last_hidden_state[:, 1 + registers:]`, after the final LayerNorm: the original's
`x_norm_patchtokens`. Earlier layers pass the same LayerNorm (facebookresearch/dinov2
vision_transformer.py, `get_intermediate_layers(norm=True)`). Invariant: the original .pth, a 4.x
and a 5.x file of transformers give the same numbers.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..fetch.encoder_specs import ENCODERS, EncoderSpec
from ..weights.rehearsal import narrowed
from .backbone import Family
from .vit import Vit, any_multiple, split_qkv

if TYPE_CHECKING:
    from torch import Tensor, nn

PATCH, REGISTERS, TRAINED_SIZE = 14, 4, 518


def shape(name: str) -> tuple[int, int, int]:
    """Hidden size, blocks and heads of the model called `name`."""
    spec = narrowed(ENCODERS[name])
    return spec.hidden, spec.blocks, spec.heads


# An attention's parts in newer versions of transformers (5.23) and in older ones (5.17 and before).
_PARTS = {
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "o_proj": "output.dense",
}
_ATTENTION = r"^(encoder\.layer\.\d+\.attention\.)"
# Substitutions in order: the original's layout, then that of the older versions.
_RENAMES = (
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"^(encoder\.layer\.\d+\.)attn\.proj\.", r"\1attention.o_proj."),
    (r"^(encoder\.layer\.\d+\.)ls([12])\.gamma$", r"\1layer_scale\2.lambda1"),
    *((rf"{_ATTENTION}{re.escape(old)}\.", rf"\1{new}.") for new, old in _PARTS.items()),
)
_QKV = re.compile(r"^(encoder\.layer\.\d+\.)attn\.qkv\.(weight|bias)$")


class Dinov2(Vit):
    """Adapter of a `transformers.Dinov2WithRegistersModel`."""

    anchors: ClassVar[tuple[str, ...]] = ("embeddings.cls_token", "cls_token")
    norm: ClassVar[str] = "layernorm"

    def __init__(self, model: "nn.Module") -> None:
        config: Any = model.config
        super().__init__(model, prefix=1 + int(config.num_register_tokens))

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Names of the original .pth, or of any version of transformers, to those of the model.

        Unknown names pass through: the strict load names them.
        """
        own = self.model.state_dict()
        newest = split_qkv(state, _RENAMES, _QKV)
        return {name if name in own else _older(name): tensor for name, tensor in newest.items()}


def _older(name: str) -> str:
    """The older name of a newer one; others pass through."""
    for new, old in _PARTS.items():
        name = re.sub(rf"{_ATTENTION}{new}\.", rf"\1{old}.", name)
    return name


def build_dinov2(
    hidden: int,
    blocks: int,
    heads: int,
    *,
    patch: int = PATCH,
    registers: int = REGISTERS,
    trained_size: int = TRAINED_SIZE,
) -> "nn.Module":
    """An untrained `Dinov2WithRegistersModel`; random weights come from torch's generator.

    Patch and size are always given: the class defaults are another model's (16 and 224).
    """
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=hidden,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        mlp_ratio=4,
        layer_norm_eps=1e-6,
        patch_size=patch,
        image_size=trained_size,
        num_register_tokens=registers,
    )
    model: nn.Module = Dinov2WithRegistersModel(config)
    return model.eval()


def expected_config(name: str) -> dict[str, object]:
    """Expected values in config.json of the model `name`."""
    hidden, blocks, heads = shape(name)
    return {
        "model_type": "dinov2_with_registers",
        "hidden_size": hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "mlp_ratio": 4,
        "patch_size": PATCH,
        "image_size": TRAINED_SIZE,
        "num_register_tokens": REGISTERS,
        "use_swiglu_ffn": False,
        "hidden_act": "gelu",
    }


def family(spec: EncoderSpec, size: int) -> Family:
    """A published DINOv2 with registers; it takes any `size` that is a multiple of its patch."""
    hidden, blocks, heads = shape(spec.name)
    build = partial(build_dinov2, hidden, blocks, heads)
    return Family(
        build, Dinov2, expected_config(spec.name), shape=partial(any_multiple, PATCH, hidden)
    )
