"""C-RADIOv4: patch 16, three CLS tokens and seven registers; 384 px gives 24 x 24 patches.

The model normalises its input itself, by two tensors of its file. Patches are `features`, the last
block's output without LayerNorm, as are earlier layers; the vector of the whole view is the first CLS
token. The published folder names code of its own, which is never read: transformers has the class.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..fetch.encoder_specs import EncoderSpec
from ..weights.rehearsal import narrowed
from .backbone import Family
from .vit import Vit, any_multiple, common_fields, split_qkv

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 3  # CLS tokens, one per teacher with a summary; the other prefix tokens are registers
LARGEST = 2048  # pixels per side of the position table
_GENERATOR = r"^model\.patch_generator\."
# The hub's names, without `radio_model.`, to those of transformers' class.
_RENAMES = (
    (rf"{_GENERATOR}embedder\.", "embeddings.patch_projection."),
    (rf"{_GENERATOR}pos_embed$", "embeddings.position_embedding"),
    (rf"{_GENERATOR}cls_token\.token$", "embeddings.cls_register_token"),
    (r"^model\.blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.o_proj."),
    (r"^model\.blocks\.", "encoder.layer."),
)
_QKV = re.compile(r"^(encoder\.layer\.\d+\.)attn\.qkv\.(weight|bias)$")


class Radio(Vit):
    """Adapter of a `transformers.RadioModel`."""

    anchors: ClassVar[tuple[str, ...]] = (
        "model.patch_generator.pos_embed",
        "embeddings.position_embedding",
    )

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """The hub's names to those of transformers; its blocks have no layer scale, which is one."""
        import torch

        renamed = split_qkv(state, _RENAMES, _QKV)
        scales = [name for name in self.model.state_dict() if name.endswith(".lambda1")]
        if not any(name in renamed for name in scales):
            renamed |= {name: torch.ones(self.dim) for name in scales}
        return renamed


def build_radio(spec: EncoderSpec) -> "nn.Module":
    """An untrained `RadioModel`; random weights come from torch's generator."""
    from transformers import RadioConfig, RadioModel

    # The class rounds the product down: half a channel more keeps the width of the row.
    ratio = (spec.inner + 0.5) / spec.hidden
    config = RadioConfig(**_fields(spec), mlp_ratio=ratio, max_img_size=LARGEST)
    model: nn.Module = RadioModel(config)
    return model.eval()


def _fields(spec: EncoderSpec) -> dict[str, Any]:
    """Fields of config.json that decide what the model of a row computes."""
    return {
        **common_fields(spec),
        "num_cls_tokens": CLASSES,
        "num_registers": spec.prefix - CLASSES,
        "use_swiglu_ffn": spec.swiglu,
        "qkv_bias": spec.qkv_bias,
    }


def family(spec: EncoderSpec, size: int) -> Family:
    """A published C-RADIOv4; it takes any `size` that is a multiple of its patch."""
    spec = narrowed(spec)
    known = partial(any_multiple, spec.patch, spec.hidden)
    return Family(
        partial(build_radio, spec), partial(Radio, prefix=spec.prefix), _fields(spec),
        unread=("auto_map",), shape=known,
    )  # fmt: skip
