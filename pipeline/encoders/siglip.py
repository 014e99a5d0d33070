"""SigLIP 2 of one input size: patch 16, no prefix tokens; 384 px gives 24 x 24 patches.

Patches are `last_hidden_state`, after the final LayerNorm, and earlier layers pass the same LayerNorm.
The vector of the whole view is the attention-pooled one that SigLIP compares with texts. Its files hold
the text model too, which is left out. NaFlex variants take no square views and are refused.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import WeightsError
from ..fetch.encoder_specs import EncoderSpec
from ..weights.rehearsal import narrowed
from .backbone import Family
from .vit import Vit, common_fields, one_size, require_only

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIX = "vision_model."
_DROPPED = ("text_model.", "logit_scale", "logit_bias")
_PATCHES = "embeddings.patch_embedding.weight"


class Siglip(Vit):
    """Adapter of a `transformers.SiglipVisionModel`."""

    anchors: ClassVar[tuple[str, ...]] = (f"{_PREFIX}{_PATCHES}", _PATCHES)
    norm: ClassVar[str] = "post_layernorm"

    def require_size(self, size: int) -> None:
        """ConfigError unless `size` is the size the position table was trained for."""
        config: Any = self.model.config
        require_only("SigLIP 2", int(config.image_size), size)

    def whole(self, out: Any) -> "Tensor":
        """(B,C) by the attention pooling head."""
        pooled: Tensor = out.pooler_output
        return pooled

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """The vision part of a whole SigLIP, or of a file with the `vision_model.` prefix.

        Raises WeightsError for a NaFlex model, whose patches are rows of a linear layer.
        """
        bare = {name.removeprefix(_PREFIX): t for name, t in state.items()}
        if _PATCHES in bare and bare[_PATCHES].ndim == 2:
            raise WeightsError(
                "these are weights of a NaFlex variant, which takes patches of any aspect ratio; a cache "
                "holds features of square views: take a variant of one size, such as "
                "google/siglip2-base-patch16-512"
            )
        return {name: t for name, t in bare.items() if not name.startswith(_DROPPED)}


def build_siglip(spec: EncoderSpec) -> "nn.Module":
    """An untrained `SiglipVisionModel`; random weights come from torch's generator."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    model: Any = SiglipVisionModel(SiglipVisionConfig(**_fields(spec)))
    inner: nn.Module = getattr(model, "vision_model", model)  # earlier versions wrap it once more
    return inner.eval()


def _fields(spec: EncoderSpec) -> dict[str, Any]:
    """Fields of (the vision part of) config.json that decide what the model of a row computes."""
    return {
        **common_fields(spec),
        "intermediate_size": spec.inner,
        "image_size": spec.size,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    }


def fill_buffers(model: "nn.Module") -> None:
    """Give a model that was built on the meta device the one buffer no file holds."""
    import torch

    embeddings: Any = model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions).expand((1, -1))


def family(spec: EncoderSpec, size: int) -> Family:
    """A published SigLIP 2 of one input size."""
    spec = narrowed(spec)
    known = partial(one_size, "SigLIP 2", spec.patch, spec.hidden, spec.size)
    return Family(
        partial(build_siglip, spec), partial(Siglip, prefix=spec.prefix), _fields(spec), "vision_config",
        finish=fill_buffers, shape=known,
    )  # fmt: skip
