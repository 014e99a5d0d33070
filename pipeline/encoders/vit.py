"""Adapter of transformers' vision transformers: prefix tokens, then patches in raster order.

What families share: the tokens of the patches are the last hidden state without its prefix, earlier
blocks pass the same last LayerNorm. A family's own file names its classes, weights and exceptions.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ConfigError
from ..fetch.encoder_specs import EncoderSpec
from .backbone import Tokens, multiple_of

if TYPE_CHECKING:
    from torch import Tensor, nn


class Vit:
    """A transformers' model with `hidden_states`, of which the first `prefix` tokens are no patches."""

    anchors: ClassVar[tuple[str, ...]] = ("embeddings.cls_token",)
    norm: ClassVar[str] = ""  # name of the last LayerNorm, "" for a model without

    def __init__(self, model: "nn.Module", prefix: int) -> None:
        config: Any = model.config
        self.model = model
        self.patch = int(config.patch_size)
        self.dim = int(config.hidden_size)
        self.depth = int(config.num_hidden_layers)
        self._skip = prefix

    def require_size(self, size: int) -> None:
        """ConfigError unless `size` is a multiple of the patch; transformers would floor it."""
        require_multiple(self.patch, size)

    def tokens(self, pixels: "Tensor", layers: tuple[int, ...]) -> Tokens:
        """Normalised (B,3,S,S) to tokens. `hidden_states[i]` is block i before the LayerNorm."""
        out = self.model(pixel_values=pixels, output_hidden_states=bool(layers))
        last = out.last_hidden_state
        states = [out.hidden_states[i][:, self._skip :] for i in layers]
        if self.norm:
            norm: Any = getattr(self.model, self.norm)
            states = [norm(state) for state in states]
        return Tokens(last[:, self._skip :], self.whole(out), tuple(states))

    def whole(self, out: Any) -> "Tensor":
        """(B,C) of the whole view, from the model's output: the first token."""
        first: Tensor = out.last_hidden_state[:, 0]
        return first

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """A published layout of the weights in the model's own names."""
        return dict(state)


def common_fields(spec: EncoderSpec) -> dict[str, Any]:
    """Fields that every config.json of transformers' vision transformers has, of a row."""
    return {
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.blocks,
        "num_attention_heads": spec.heads,
        "patch_size": spec.patch,
    }


def split_qkv(
    state: "Mapping[str, Tensor]",
    renames: Sequence[tuple[str, str]],
    qkv: "re.Pattern[str]",
) -> "dict[str, Tensor]":
    """Weights under new names; a matrix of query, key and value becomes one each.

    renames  substitutions, in order
    qkv      of such a matrix, after `renames`: the name of its block, and weight or bias
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        if found := qkv.match(name):
            for part, rows in zip("qkv", tensor.chunk(3, dim=0), strict=True):
                renamed[f"{found[1]}attention.{part}_proj.{found[2]}"] = rows
        else:
            renamed[name] = tensor
    return renamed


def require_multiple(patch: int, size: int) -> None:
    """Raise ConfigError unless `size` is a multiple of the patch."""
    if fault := multiple_of(patch, size):
        raise ConfigError(fault)


def any_multiple(patch: int, hidden: int, size: int) -> tuple[int, int]:
    """(patch, channels) of a model that takes every multiple of its patch; see `Family.shape`."""
    require_multiple(patch, size)
    return patch, hidden


def require_only(title: str, trained: int, size: int) -> None:
    """Raise ConfigError unless `size` is the size the position table was trained for."""
    if size != trained:
        raise ConfigError(f"features.size={size}: this {title} model takes {trained} only")


def one_size(title: str, patch: int, hidden: int, trained: int, size: int) -> tuple[int, int]:
    """(patch, channels) of a model that takes one size; see `Family.shape`."""
    require_only(title, trained, size)
    return patch, hidden
