"""Build a superpixel generator from a recipe.

SAM kinds prompt a backend on a grid; SLIC needs neither weights nor a device, unless SAM embeddings
are to be stored with it (the mask decoder reads them whatever the superpixels are). Heavy packages
are imported only for the kind that is asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..cache.worth import Prior
from ..errors import ConfigError, MissingError
from ..recipe import MOST_SUPERPIXELS, SuperpixelConfig
from ..records import LocalPaths, Superpixels
from .cap import capped
from .point_grid import embedded

if TYPE_CHECKING:
    from ..sam import SamBackend

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


class Embedder:
    """SAM's image encoder alone: nothing is prompted."""

    def __init__(self, config: SuperpixelConfig, where: LocalPaths, device: str) -> None:
        from ..sam import build_backend

        self._sam = build_backend(config, where, device)

    def embed(self, images: Sequence[Image]) -> Embeddings:
        """(C,h,w) float16 SAM embedding of each image, as a `SuperpixelSource` gives it."""
        return embedded(self._sam, images)


class SamSource:
    """SAM or MobileSAM, prompted on a grid."""

    def __init__(self, config: SuperpixelConfig, where: LocalPaths, device: str) -> None:
        from ..sam import build_backend
        from .point_grid import GridPrompter
        from .windows import WindowPrompter

        backend = build_backend(config, where, device)
        options: dict[str, Any] = {
            "config": config.grid,
            "mode": config.mode,
            "points_per_batch": config.points_per_batch,
            "max_superpixels": config.max_superpixels,
        }
        self._prompter: GridPrompter | WindowPrompter
        if config.preset == "windows":
            self._prompter = WindowPrompter(backend, **options)
        else:
            hierarchical = config.preset == "hierarchical"
            self._prompter = GridPrompter(backend, **options, hierarchical=hierarchical)

    def generate_batch(
        self, images: Sequence[Image], *, embeddings: bool = False
    ) -> tuple[list[Superpixels], Embeddings | None]:
        """See `SuperpixelSource`."""
        return self._prompter.generate_batch(images, return_embeddings=embeddings)


class SlicSource:
    """scikit-image SLIC. `sam` gives the embeddings that are stored beside, None: there are none."""

    def __init__(self, config: SuperpixelConfig, sam: "SamBackend | None" = None) -> None:
        self._config, self._sam = config, sam

    def generate_batch(
        self, images: Sequence[Image], *, embeddings: bool = False
    ) -> tuple[list[Superpixels], Embeddings | None]:
        """See `SuperpixelSource`."""
        from .slic import slic_superpixels

        if embeddings and self._sam is None:
            raise ConfigError("this SLIC source was built without SAM: it has no embeddings")
        config = self._config
        found = [slic_superpixels(image, config.slic, config.max_superpixels) for image in images]
        return found, embedded(self._sam, images) if embeddings and self._sam else None


class CappedSource:
    """Another source, of which the most worthy superpixels stay (`SuperpixelConfig.cap`)."""

    def __init__(self, source: SuperpixelSource, prior: Prior, limit: int) -> None:
        self.source, self._prior, self._limit = source, prior, limit

    def generate_batch(
        self, images: Sequence[Image], *, embeddings: bool = False
    ) -> tuple[list[Superpixels], Embeddings | None]:
        """See `SuperpixelSource`."""
        found, seen = self.source.generate_batch(images, embeddings=embeddings)
        return self.cut(found), seen

    def cut(self, found: Sequence[Superpixels]) -> list[Superpixels]:
        """The superpixels of each image that stay."""
        return [capped(one, self._prior, self._limit) for one in found]


def generate(
    source: SuperpixelSource, images: Sequence[Image], names: Sequence[str], *, embeddings: bool
) -> tuple[list[Superpixels], Embeddings | None]:
    """`source.generate_batch`, with the photographs' paths for a source that goes by them."""
    from .external import OwnSource

    if isinstance(source, CappedSource):
        found, seen = generate(source.source, images, names, embeddings=embeddings)
        return source.cut(found), seen
    if isinstance(source, OwnSource):
        return source.generate_batch(images, embeddings=embeddings, names=names)
    return source.generate_batch(images, embeddings=embeddings)


def build_generator(
    config: SuperpixelConfig | None = None,
    where: LocalPaths | None = None,
    device: str = "cpu",
    *,
    embeddings: bool = False,
) -> SuperpixelSource:
    """Build the generator of a recipe and load its weights.

    config      None: the defaults, with the shipped tiny SAM
    where       where its weights or masks lie; None: only what is shipped
    embeddings  SAM embeddings will be asked for, also of SLIC

    Raises what `sam.build_backend` raises, or MissingPackageError for SLIC without scikit-image.
    """
    config, where = config or SuperpixelConfig(), where or LocalPaths(Path("."))
    if config.cap:
        every = config.model_copy(update={"cap": "", "max_superpixels": MOST_SUPERPIXELS})
        found = build_generator(every, where, device, embeddings=embeddings)
        return CappedSource(found, Prior.parse(config.cap), config.max_superpixels)
    if config.prompts_sam:
        return SamSource(config, where, device)
    sam = None
    if config.source == "slic":
        from .slic import require

        require()
    if embeddings:
        from ..sam import build_backend

        # Nothing is prompted: the embedding is the same whatever the superpixels are.
        sam = build_backend(config, where, device)
    return SlicSource(config, sam) if config.source == "slic" else _own(config, where, sam)


def _own(config: SuperpixelConfig, where: LocalPaths, sam: "SamBackend | None") -> SuperpixelSource:
    """Masks of a folder or of a plug-in, if they are those of the recipe."""
    from . import external as own

    if config.source == "masks":
        if where.masks is None:
            raise MissingError(
                "superpixels=masks: the masks of a folder are read by `svp precompute` only: use the "
                "cache without --live, and for `svp predict` one of another recipe, with --cache"
            )
        from .mask_folder import from_folder

        return own.OwnSource(from_folder(where.masks), config.max_superpixels, sam)
    kind = own.find_method(config.source)
    own.require_version(config.source, config.made, own.method_version(kind))
    return own.OwnSource(own.from_method(kind, config.source), config.max_superpixels, sam)
