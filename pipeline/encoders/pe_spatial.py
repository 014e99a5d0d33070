"""PE-Spatial, Perception Encoder for dense tasks, through timm: 32 x 32 patches of 16 or 14 px.

Patches are the last block's output without LayerNorm, as are earlier layers (facebookresearch/
perception_models, `use_ln_post` off). At other sizes than the trained one timm resizes the position table
(bicubic, antialiased) and scales the rotary positions to 32 x 32.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import MissingPackageError
from ..fetch.encoder_specs import EncoderSpec
from ..weights.rehearsal import narrowed
from .backbone import Family, Tokens
from .vit import any_multiple, require_multiple

if TYPE_CHECKING:
    from torch import Tensor, nn

# Names of the original .pt to timm's.
_RENAMES = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^positional_embedding$", "pos_embed"),
    (r"^class_embedding$", "cls_token"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"^(blocks\.\d+\.)ln_", r"\1norm"),
    (r"^(blocks\.\d+\.)ls_(\d)\.gamma$", r"\1gamma_\2"),
    (r"^(blocks\.\d+\.attn\.)in_proj_", r"\1qkv."),
    (r"^(blocks\.\d+\.attn\.)out_proj\.", r"\1proj."),
    (r"^(blocks\.\d+\.mlp\.)c_fc\.", r"\1fc1."),
    (r"^(blocks\.\d+\.mlp\.)c_proj\.", r"\1fc2."),
)
_ADDED = {"cls_token": 3, "pos_embed": 3}  # axes in timm, which puts ones in front


class PeSpatial:
    """Adapter of a timm `Eva`."""

    anchors: ClassVar[tuple[str, ...]] = ("patch_embed.proj.weight", "conv1.weight")

    def __init__(self, model: "nn.Module") -> None:
        vit: Any = model
        self.model = model
        self.patch = int(vit.patch_embed.patch_size[0])
        self.dim = int(vit.embed_dim)
        self.depth = len(vit.blocks)
        self._skip = int(vit.num_prefix_tokens)

    def require_size(self, size: int) -> None:
        """ConfigError unless `size` is a multiple of the patch."""
        require_multiple(self.patch, size)

    def tokens(self, pixels: "Tensor", layers: tuple[int, ...]) -> Tokens:
        """Normalised (B,3,S,S) to tokens."""
        vit: Any = self.model
        blocks = sorted({layer - 1 for layer in layers})
        if blocks:
            last, found = vit.forward_intermediates(pixels, indices=blocks, output_fmt="NLC")
        else:
            last, found = vit.forward_features(pixels), []
        by_block = dict(zip(blocks, found, strict=True))
        earlier = tuple(by_block[layer - 1] for layer in layers)
        return Tokens(last[:, self._skip :], last[:, 0] if self._skip else None, earlier)

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Names and shapes of the original .pt, or timm's own, in timm's. Unknown names pass through."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in state.items():
            for pattern, replacement in _RENAMES:
                name = re.sub(pattern, replacement, name)
            axes = _ADDED.get(name, tensor.ndim)
            renamed[name] = tensor.reshape((1,) * (axes - tensor.ndim) + tuple(tensor.shape))
        return renamed


def architecture(spec: EncoderSpec) -> str:
    """timm's name of the model of a row."""
    return spec.hub.removeprefix("timm/").removesuffix(".fb")


def build_pe_spatial(spec: EncoderSpec) -> "nn.Module":
    """An untrained timm model; random weights come from torch's generator.

    Raises MissingPackageError without timm.
    """
    try:
        from timm import create_model
    except ImportError:
        raise MissingPackageError("timm", "timm", "PE-Spatial") from None

    model: nn.Module = create_model(
        architecture(spec), pretrained=False, embed_dim=spec.hidden, depth=spec.blocks,
        num_heads=spec.heads, mlp_ratio=spec.inner / spec.hidden, dynamic_img_size=True,
        img_size=spec.size, num_classes=0,
    )  # fmt: skip
    return model.eval()


def fill_buffers(model: "nn.Module") -> None:
    """Give a model that was built on the meta device its rotary frequencies, which no file holds."""
    rope: Any = model.rope
    rope.to_empty(device="cpu")
    rope.reset_parameters()


def family(spec: EncoderSpec, size: int) -> Family:
    """A published PE-Spatial; it takes any `size` that is a multiple of its patch."""
    expected: dict[str, object] = {"architecture": architecture(spec)}
    spec = narrowed(spec)
    known = partial(any_multiple, spec.patch, spec.hidden)
    build = partial(build_pe_spatial, spec)
    return Family(build, PeSpatial, expected, finish=fill_buffers, shape=known)
