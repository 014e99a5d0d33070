"""Tiny encoder: DINOv2 with registers at a size that a CPU trains in an hour.

Trained on the generated scenes to tell their attributes patch by patch, by
workflows/pretrain_tiny/train_encoder.py; a stand-in, of no use on photographs.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..fetch.encoder_specs import ENCODERS, EncoderSpec
from .backbone import Family
from .dinov2 import Dinov2
from .vit import any_multiple

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

_SPEC: Final = ENCODERS["tiny"]
VIEW: Final = _SPEC.size  # pixels of the square view
PATCH: Final = _SPEC.patch  # 16x16 patches
WIDTH: Final = _SPEC.hidden  # C
REGISTERS: Final = 4
# ImageNet's constants, as for the real encoder: pixels / 255, minus MEAN, over STD.
MEAN: Final = _SPEC.mean
STD: Final = _SPEC.std
WEIGHTS: Final = Path(__file__).parents[2] / _SPEC.shipped
PROBE: Final = WEIGHTS.parent / "attributes.safetensors"  # linear heads that read the attributes


def build_tiny_dinov2() -> "Dinov2WithRegistersModel":
    """An untrained tiny encoder in evaluation mode, on the CPU, about 0.9 M parameters.

    Patches are `last_hidden_state[:, 5:]`, (B,256,96), after the final LayerNorm.
    """
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    from .patch_stem import PatchStem

    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH,
        num_hidden_layers=_SPEC.blocks,
        num_attention_heads=_SPEC.heads,
        mlp_ratio=4,
        image_size=VIEW,
        patch_size=PATCH,
        num_register_tokens=REGISTERS,
        layerscale_value=1.0,
        layer_norm_eps=1e-6,
        qkv_bias=True,
    )
    model: Dinov2WithRegistersModel = Dinov2WithRegistersModel(config)
    patches: Any = model.embeddings.patch_embeddings
    patches.projection = PatchStem(patches.projection)
    model.train(False)
    return model


def family(spec: EncoderSpec, size: int) -> Family:
    """The tiny encoder, whose weights are in this package."""
    return Family(build_tiny_dinov2, Dinov2, {}, shape=partial(any_multiple, PATCH, WIDTH))
