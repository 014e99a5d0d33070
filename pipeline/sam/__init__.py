"""Segment Anything behind one interface: images -> features, features + points -> logits.

Adapters: `segment-anything` (any `modeling.Sam`), MobileSAM (timm TinyViT under the same class)
Hugging Face `SamModel`, and its later SAMs (`hub_models`). All grid prompting, filtering and storage works on this contract only.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..recipe import SuperpixelConfig
from ..records import LocalPaths

if TYPE_CHECKING:
    from torch import Tensor

    from ..weights.key_report import KeyReport
    from .mask_decoder import Wanted


class SamBackend(Protocol):
    """A loaded SAM in eval mode. All tensors it returns are float32 on its own device.

    image_size  S: longest side of the resized image in pixels, side of the padded square
    channels    C of the image embedding: the first channels of the features
    report      what the strict weight loader found, or None for random weights
    """

    @property
    def image_size(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def report(self) -> "KeyReport | None": ...

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """(h,w) pixels, from the upper left of the S x S input, that an image of (H,W) is resized to."""
        ...

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> "Tensor":
        """Images (H,W,3) uint8 RGB of any sizes -> (B,C+E,h,w); official SAM: C=256, h=w=64.

        E channels follow of what else a decoder reads: 0 for the official SAM.

        In `exact` mode each image passes the encoder alone, so its features never depend on which
        other images are in the batch.
        """
        ...

    def decode(
        self, features: "Tensor", points: "Tensor", wanted: "Wanted | None" = None
    ) -> "tuple[Tensor, Tensor]":
        """One foreground click per mask triple.

        features (C+E,h,w) of one image; points (P,2) float, x y in pixels of the RESIZED frame (keep
        float64: the published mask generator divides in float64 before it rounds to float32).
        wanted: predicted IoU (P,3) float32 of some of the points -> (P,) bool on the CPU, whether their
        logits are wanted; None: all. No other prompt's masks are made.
        Returns low-res logits (Q,3,4h,4w) of the Q wanted points, in order, and predicted IoU (P,3) of
        all; axis 1 is sub-part, part, whole.
        """
        ...


def build_backend(config: SuperpixelConfig, where: LocalPaths, device: str = "cpu") -> SamBackend:
    """The backend of a recipe, weights loaded and checked.

    Raises `MissingError` (no weights at `where.sam`), `WeightsError` (wrong digest, keys, shapes
    or an unsafe file), `ConfigError` (model and package do not go together) or
    `MissingPackageError`.
    """
    builder = BACKENDS.get((config.source if config.prompts_sam else BESIDE, config.package))
    if builder is None:
        known = ", ".join(f"{source} with {package}" for source, package in BACKENDS)
        raise ConfigError(
            f"superpixels.source={config.source}, package={config.package}: SAM backends are {known}"
        )
    return builder(config, where, device)


def _segment_anything(config: SuperpixelConfig, where: LocalPaths, device: str) -> SamBackend:
    from .load import load_sam
    from .segment_anything import SamPackage

    sam, report = load_sam(config, where)
    return SamPackage(sam, mode=config.mode, dtype=config.dtype, device=device, report=report)


def _transformers(config: SuperpixelConfig, where: LocalPaths, device: str) -> SamBackend:
    from .hub_models import HUB_SAMS, load_hub_sam
    from .huggingface import load_huggingface

    if config.model in HUB_SAMS:
        return load_hub_sam(config, where, device)
    return load_huggingface(config, where, device)


Builder = Callable[[SuperpixelConfig, LocalPaths, str], SamBackend]

BESIDE = "slic"  # superpixels of SLIC, a plug-in or a folder, and a SAM beside that is not prompted
BACKENDS: dict[tuple[str, str], Builder] = {
    ("sam", "segment-anything"): _segment_anything,
    ("mobile_sam", "segment-anything"): _segment_anything,
    ("sam", "transformers"): _transformers,
    (BESIDE, "segment-anything"): _segment_anything,  # for its embedding and its decoder only
    (BESIDE, "transformers"): _transformers,
}
