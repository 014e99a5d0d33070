"""Features of uncached images for a published model: CLIP and SAM's encoder in the loop.

Such a model reads patches only, so no superpixels are looked for: each photograph is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.cache import create_cache
from ...pipeline.display import show
from ...pipeline.encoders import build_encoder
from ...pipeline.encoders.encoder import Encoder
from ...pipeline.encoders.pair import PairEncoder
from ...pipeline.errors import MissingError
from ...pipeline.fetch.encoder_specs import ENCODERS
from ...pipeline.io.yaml_files import Override
from ...pipeline.masks import runs as rl
from ...pipeline.precompute.options import Flags, resolve
from ...pipeline.precompute.planner import Content, build_plan
from ...pipeline.recipe import Recipe
from ...pipeline.records import LocalPaths, Superpixels
from ...pipeline.sam import SamBackend, build_backend
from ...pipeline.sam.segment_anything import SamPackage
from ...pipeline.superpixels.candidates import full_image, to_superpixels
from ...pipeline.superpixels.generator import Embeddings
from ...pipeline.superpixels.point_grid import embedded
from ...pipeline.weights.locate import how_to_get, search_weights
from ...pipeline.weights.reference import WeightsRef
from ..data.live_cache import LiveReader
from .published_models import Published, own_sam


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """Weights of the two encoders.

    own_sam  SAM's image encoder of the published folder instead of SAM's published file
    sam, encoder  weight files, or `random`; None: looked for in the usual folders
    """

    device: str
    own_sam: bool = False
    sam: Path | None = None
    encoder: Path | None = None


class WholeImage:
    """A `SuperpixelSource` that makes each photograph one superpixel, with SAM's embedding."""

    def __init__(self, sam: SamBackend) -> None:
        self._sam = sam

    def generate_batch(
        self, images: Sequence[NDArray[np.uint8]], *, embeddings: bool = False
    ) -> tuple[list[Superpixels], Embeddings | None]:
        """See `SuperpixelSource`."""
        found = [full_image(*image.shape[:2]) for image in images]
        whole = [to_superpixels(one, rl.encode(one.runs), {}, True) for one in found]
        return whole, embedded(self._sam, images) if embeddings else None


def live_recipe(found: Published, encoders: Encoders, images: Path) -> tuple[Recipe, LocalPaths]:
    """Precompute recipe equivalent to the inputs of `found`. Raises MissingError, WeightsError."""
    clip = found.vision.encoder
    if encoders.encoder is None and search_weights(clip) is None:
        raise MissingError(
            f"{show(str(found.folder / 'config.json'), 200)}: mm_vision_tower "
            f"{show(found.tower or ENCODERS[clip].hub)}: {show(found.name)} sees through this CLIP, "
            f"{clip}, which was not found: {how_to_get(clip, '--encoder-weights')}"
        )
    paths = {"sam_weights": encoders.sam, "encoder_weights": encoders.encoder}
    given: dict[str, Any] = {name: str(path) if path else None for name, path in paths.items()}
    if encoders.own_sam:
        given["sam_weights"] = "random"  # no file is read: the digest of the folder takes its place
    flags = Flags(
        superpixels="slic", sam_model="vit_h", encoder=clip,
        store_sam_embeddings=True, **given,
    )  # fmt: skip
    changes = (
        Override("features.view", found.vision.view),
        Override("superpixels.mode", "exact"),
    )
    recipe, where = resolve("paper", None, flags, changes, images)
    if encoders.own_sam:
        pixels = recipe.superpixels.model_copy(
            update={"weights": WeightsRef("sha256", found.digest)}
        )
        recipe = recipe.model_copy(update={"superpixels": pixels})
    return recipe, where


def live_readers(
    found: Published,
    splits: Mapping[str, tuple[Content, Path]],
    folder: Path,
    encoders: Encoders,
) -> dict[str, LiveReader]:
    """Photographs as if caches held them; the encoders are loaded once.

    splits  by name, the photographs and the folder they lie in
    folder  an empty one, for the plans; kept as long as the readers

    Raises MissingError, WeightsError, ConfigError.
    """
    roots = [images for _, images in splits.values()]
    recipe, where = live_recipe(found, encoders, roots[0])
    plans = {
        name: build_plan(content, recipe, images) for name, (content, images) in splits.items()
    }
    source, encoder = live_models(found, recipe, where, encoders)
    readers = {}
    for number, ((name, plan), images) in enumerate(zip(plans.items(), roots, strict=True)):
        create_cache(folder / str(number), plan)
        there = replace(where, images=images)
        readers[name] = LiveReader(folder / str(number), there, encoders.device, source, encoder)
    return readers


def live_models(
    found: Published, recipe: Recipe, where: LocalPaths, encoders: Encoders
) -> tuple[WholeImage, Encoder | PairEncoder]:
    """SAM's encoder and CLIP, loaded, by the recipe of `live_recipe`. Raises as `live_readers`."""
    if encoders.own_sam:
        backend: SamBackend = SamPackage(own_sam(found), device=encoders.device)
    else:
        backend = build_backend(recipe.superpixels, where, encoders.device)
    return WholeImage(backend), build_encoder(recipe.features, where, encoders.device)
