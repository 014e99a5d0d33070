"""Frozen vision encoders: DINOv2 with registers, DINOv3, CLIP, and tiny versions."""

from ..recipe import FeatureConfig
from ..records import LocalPaths
from .encoder import Encoder
from .pair import PairEncoder

__all__ = ["Encoder", "PairEncoder", "build_encoder"]


def build_encoder(
    config: FeatureConfig, where: LocalPaths, device: str, *, allow_download: bool = False
) -> Encoder:
    """The encoder of a recipe, or the two of them, weights loaded and checked against the recipe's digest.

    Weights: the shipped tiny file, `random:<seed>`, or `sha256:<hex>` with `where.encoder` (a model
    folder, the original .pth, or a .safetensors file); without it they are looked for in the usual
    folders, in the hub's cache and, with `allow_download`, on the hub. Raises MissingError,
    WeightsError, ConfigError.
    """
    from .registry import load_backbone

    first = Encoder(load_backbone(config, where.encoder, allow_download), config, device)
    if (beside := config.beside) is None:
        return first
    backbone = load_backbone(beside, where.second, allow_download)
    return PairEncoder(first, Encoder(backbone, beside, device))
