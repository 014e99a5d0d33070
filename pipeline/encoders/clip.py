"""CLIP ViT-L/14, layer -2: at 336 px GLaMM's encoder (24 x 24 x 1024), at 224 px LISA's (16 x 16).

Patches are `hidden_states[-2]` without CLS: the output of the last block but one, no LayerNorm
after it (mbzuai-oryx/groundingLMM, clip_encoder.py). The position table is never resized: published
weights know one input size.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..fetch.encoder_specs import ENCODERS, EncoderSpec
from ..weights.rehearsal import narrowed
from .backbone import Family, Tokens
from .vit import one_size, require_only

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIX = "vision_model."
_DROPPED = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")


class Clip:
    """Adapter of a `transformers.CLIPVisionModel`."""

    anchors: ClassVar[tuple[str, ...]] = (
        "vision_model.embeddings.class_embedding",
        "embeddings.class_embedding",
    )

    def __init__(self, model: "nn.Module") -> None:
        config: Any = model.config
        self.model = model
        self.patch = int(config.patch_size)
        self.dim = int(config.hidden_size)
        self.depth = int(config.num_hidden_layers)
        self._size = int(config.image_size)

    def require_size(self, size: int) -> None:
        """ConfigError unless `size` is the size the position table was trained for."""
        require_only("CLIP", self._size, size)

    def tokens(self, pixels: "Tensor", layers: tuple[int, ...]) -> Tokens:
        """Normalised (B,3,S,S) to tokens. `hidden_states[i]` is the output of block i."""
        states = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        earlier = tuple(states[i][:, 1:] for i in layers)
        return Tokens(states[-2][:, 1:], states[-2][:, 0], earlier)

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """The vision part of a whole CLIP, or of a file with the `vision_model.` prefix.

        Dropped: the text part, both projections and the `position_ids` buffer of old files.
        """
        bare = {name.removeprefix(_PREFIX): t for name, t in state.items()}
        return {
            name: tensor
            for name, tensor in bare.items()
            if not name.startswith(_DROPPED) and name != "embeddings.position_ids"
        }


def shape(name: str) -> dict[str, int]:
    """Arguments of `build_clip` for the model called `name`, at its usual size.

    In a rehearsal a published model has the width and heads of its stand-in.
    """
    spec = narrowed(ENCODERS[name])
    return {"hidden": spec.hidden, "blocks": spec.blocks, "heads": spec.heads, "patch": spec.patch,
            "size": spec.size}  # fmt: skip


def build_clip(hidden: int, blocks: int, heads: int, patch: int, size: int) -> "nn.Module":
    """An untrained `CLIPVisionModel`; random weights come from torch's generator."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        image_size=size,
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    model: Any = CLIPVisionModel(config)
    inner: nn.Module = getattr(model, "vision_model", model)  # earlier versions wrap it once more
    return inner.eval()


def fill_buffers(model: "nn.Module") -> None:
    """Give a model that was built on the meta device the one buffer no file holds."""
    import torch

    embeddings: Any = model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions).expand((1, -1))


def expected_config(name: str) -> dict[str, object]:
    """Expected values in (the vision part of) config.json of the model `name`."""
    size = shape(name)
    return {
        "hidden_size": size["hidden"],
        "intermediate_size": 4 * size["hidden"],
        "num_hidden_layers": size["blocks"],
        "num_attention_heads": size["heads"],
        "patch_size": size["patch"],
        "image_size": size["size"],
        "hidden_act": "quick_gelu",
    }


def family(spec: EncoderSpec, size: int) -> Family:
    """A CLIP of one input size; the stand-in has no published weights and takes any `size`."""
    sizes = shape(spec.name) | ({"size": size} if spec.stand_in else {})
    build = partial(build_clip, **sizes)
    known = partial(one_size, "CLIP", sizes["patch"], sizes["hidden"], sizes["size"])
    if spec.stand_in:
        return Family(build, Clip, {}, finish=fill_buffers, shape=known)
    expected = expected_config(spec.name)
    return Family(build, Clip, expected, "vision_config", fill_buffers, known)
