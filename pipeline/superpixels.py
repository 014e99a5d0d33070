"""One door to every superpixel source: a recipe in, something that turns images into superpixels.

SAM kinds prompt a backend on a grid; SLIC needs neither weights nor a device. Heavy packages are
imported only for the kind that is asked for.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .recipe import SuperpixelConfig
from .records import Superpixels, Where

Image = NDArray[np.uint8]
Embeddings = list[NDArray[np.float16]]


class SuperpixelSource(Protocol):
    """Turns images into superpixels; built once per worker, used for every shard."""

    def generate_batch(
        self, images: Sequence[Image], *, embeddings: bool = False
    ) -> tuple[list[Superpixels], Embeddings | None]:
        """Superpixels of each (H,W,3) uint8 RGB image; with `embeddings`, also the (C,h,w) float16
        SAM embedding of each whole image. Raises ConfigError if the source has none.
        """
        ...


class SamSource:
    """SAM or MobileSAM, prompted on a grid."""

    def __init__(self, config: SuperpixelConfig, where: Where, device: str) -> None:
        from .grid import GridPrompter
        from .sam import build_backend

        self._prompter = GridPrompter(
            build_backend(config, where, device),
            config=config.grid,
            mode=config.mode,
            points_per_batch=config.points_per_batch,
            max_superpixels=config.max_superpixels,
        )

    def generate_batch(
        self, images: Sequence[Image], *, embeddings: bool = False
    ) -> tuple[list[Superpixels], Embeddings | None]:
        """See `SuperpixelSource`."""
        return self._prompter.generate_batch(images, return_embeddings=embeddings)


class SlicSource:
    """scikit-image SLIC; has no embedding."""

    def __init__(self, config: SuperpixelConfig) -> None:
        self._config = config

    def generate_batch(
        self, images: Sequence[Image], *, embeddings: bool = False
    ) -> tuple[list[Superpixels], Embeddings | None]:
        """See `SuperpixelSource`."""
        from .slic import slic_superpixels

        if embeddings:
            raise ConfigError(
                "superpixels.source=slic has no SAM embedding: set store_sam_embeddings=false"
            )
        config = self._config
        return [
            slic_superpixels(image, config.slic, config.max_superpixels) for image in images
        ], None


def build_source(config: SuperpixelConfig, where: Where, device: str = "cpu") -> SuperpixelSource:
    """The source a recipe asks for, weights loaded.

    Raises what `sam.build_backend` raises, or MissingPackageError for SLIC without scikit-image.
    """
    if config.source == "slic":
        from .slic import require

        require()
        return SlicSource(config)
    return SamSource(config, where, device)
