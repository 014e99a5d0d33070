"""Backbone interface: patch tokens, CLS token and earlier layers of a vision transformer.

One adapter per family (`vit`, `clip`, `pe_spatial`) hides which of the transformer's outputs those are; the
choice is the method's, not the library's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Tokens:
    """Outputs for B images.

    patches  (B,P,C), raster order
    cls      (B,C) of the whole view, of the same layer as `patches`; None for a model without one
    layers   one (B,P,C) per layer asked for, in that order
    """

    patches: "Tensor"
    cls: "Tensor | None"
    layers: "tuple[Tensor, ...]"


class Backbone(Protocol):
    """A model and how to read it. Layers are 1-based block outputs, `depth` of them.

    anchors  names of which every file has one: what stands in front of it is a wrapper's
    """

    model: "nn.Module"
    patch: int
    dim: int
    depth: int
    anchors: ClassVar[tuple[str, ...]]

    def require_size(self, size: int) -> None:
        """ConfigError unless the model takes `size` x `size` pixels."""
        ...

    def tokens(self, pixels: "Tensor", layers: tuple[int, ...]) -> Tokens:
        """Normalised `pixels` (B,3,size,size) through the model."""
        ...

    def from_original(self, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """A published layout of the weights in the model's own names."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """Functions that build, fill and read the encoders of one family.

    build     the untrained model, on the current default device
    adapt     the model as a `Backbone`
    expected  what the config.json of a model folder must say
    part      sub-configuration of config.json to compare, "" for the whole
    finish    gives a model that was built on the meta device what no file holds
    shape     (patch, channels) for an input size, told without a model; raises what
              `Backbone.require_size` raises. None: the model is built to see
    unread    keys of config.json that name code, which is never run: transformers has the class
    """

    build: "Callable[[], nn.Module]"
    adapt: "Callable[[nn.Module], Backbone]"
    expected: dict[str, object]
    part: str = ""
    finish: "Callable[[nn.Module], None] | None" = None
    shape: "Callable[[int], tuple[int, int]] | None" = None
    unread: tuple[str, ...] = ()


def multiple_of(patch: int, size: int) -> str:
    """Error text for an unusable `size`, with the nearest sizes that fit; empty if it is usable."""
    if size >= patch and size % patch == 0:
        return ""
    below = max(size // patch, 1) * patch
    near = f"{below} or {below + patch}" if size > patch else f"{below}"
    return f"features.size={size}: need a multiple of the patch, {patch} (for example {near})"
