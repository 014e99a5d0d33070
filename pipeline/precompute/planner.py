"""Make a plan from a source and a recipe: array sizes, library versions, image hashes.

The plan binds a cache to its images' bytes. Hashing reads every file once, so an existing cache's
plan is consulted first: a file of unchanged size keeps its hash (a worker checks the bytes anyway
before it uses them). Files that cannot be read stay in the plan and are quarantined by the worker.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache.layers import library_names
from ..cache.plan import Images, Plan, PlanImage
from ..datasets.photo_files import known_size
from ..datasets.seen_photos import XXH3, SeenPhotos
from ..datasets.stored_photos import root_name
from ..display import counted, show
from ..errors import ConfigError, ImageError, MissingError
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS
from ..process import installed
from ..recipe import FeatureConfig, Recipe
from ..records import ImageRecord
from ..store import Stat, is_url
from ..weights.rehearsal import VARIABLE
from .source_images import hash_image, photo_size

if TYPE_CHECKING:
    from ..encoders.backbone import Family

HASH_THREADS = 4
CHUNK = 256  # images between two looks at `stop`


@dataclass(frozen=True, slots=True)
class Content:
    """Content of a cache: the images of a split, and the identity of their lists.

    images   each once, in the order of the cache
    split    name of the split, "" if there is none
    digests  sha256 of annotation files by name
    listed   sizes and tags of the images by path, where they lie in object storage
    """

    images: Sequence[ImageRecord]
    split: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    listed: Mapping[str, Stat] = field(default_factory=dict, repr=False)


def build_plan(
    content: Content,
    recipe: Recipe,
    root: Path,
    *,
    known: Plan | None = None,
    distrust: frozenset[int] = frozenset(),
    stop: Callable[[], None] = lambda: None,
) -> Plan:
    """The plan of a cache.

    known     plan of the cache that is there already: its hashes are reused
    distrust  image ids of `known` to hash again
    stop      called now and then; raises to end the work

    Raises MissingError if not one image can be read, ConfigError for an impossible recipe,
    CacheError if the service that holds the images fails.
    """
    # Hashing reads every byte of every photograph: threads share the disk, or the connections to
    # object storage, and what the plan of the cache says of a file of the same size is taken over.
    old = {image.image_id: image for image in known.images} if known else {}
    old = {image_id: image for image_id, image in old.items() if image_id not in distrust}
    images: list[PlanImage] = []
    if is_url(root):
        images += _examine_stored(root, old, content, distrust, stop)
    else:
        with ThreadPoolExecutor(HASH_THREADS) as threads:
            for start in range(0, len(content.images), CHUNK):
                stop()
                chunk = content.images[start : start + CHUNK]
                images += threads.map(partial(_examine, root, old), chunk)

    # One unreadable file is quarantined by its worker; all of them is a wrong folder.
    if images and not any(image.xxh3 for image in images):
        raise MissingError(
            f"none of the {counted(len(images), 'image')} can be read in {show(root_name(root), 300)}, "
            f"first: {show(images[0].path, 200)}: give the image folder with --images"
        )

    # The sizes of the arrays need the models' classes, whose import a rerun is spared.
    frame = _reuse(known, recipe, content) or sized_plan(recipe, content.split, content.digests)
    return replace(frame, images=Images.of(images))


def _reuse(known: Plan | None, recipe: Recipe, content: Content) -> Plan | None:
    """`known` if all but its images is as wanted: spares a second run the import of the models."""
    wanted = (with_libraries(recipe), content.split, dict(content.digests))
    found = known and (known.recipe, known.split, dict(known.digests))
    return known if found == wanted else None


def with_libraries(recipe: Recipe) -> Recipe:
    """`recipe` with the versions of the packages installed here."""
    return recipe.model_copy(update={"libraries": library_versions(recipe)})


def sized_plan(recipe: Recipe, split: str = "", digests: Mapping[str, str] | None = None) -> Plan:
    """A plan without images: everything else in it. Loads no weights."""
    from ..masks.encoder_view import View, sspe_grid

    recipe = with_libraries(recipe)
    grid, channels = feature_shape(recipe.features)
    return Plan(
        recipe=recipe,
        images=Images.of(()),
        grid=grid,
        channels=channels,
        sspe=sspe_grid(View(recipe.features.view, recipe.features.size), recipe.sspe.budget),
        sam=SAMS[recipe.superpixels.model].embedding if recipe.store_sam_embeddings else None,
        split=split,
        digests=dict(digests or {}),
    )


def feature_shape(config: FeatureConfig) -> tuple[tuple[int, int], int]:
    """((h,w) of the patch grid, C), from the encoder's architecture without its weights.

    Raises ConfigError for a size that an encoder does not take.
    """
    return _feature_shape(config, os.environ.get(VARIABLE))


@cache
def _feature_shape(config: FeatureConfig, rehearsal: str | None) -> tuple[tuple[int, int], int]:
    """`rehearsal` names the file of its settings, which narrow the encoders."""
    grid, channels = _shape(config)
    if (beside := config.beside) is not None:
        _second_shape(beside, config.size)
    return grid, channels


def _shape(config: FeatureConfig) -> tuple[tuple[int, int], int]:
    from ..encoders.registry import family

    kind = family(config)
    patch, channels = kind.shape(config.size) if kind.shape else _built_shape(kind, config.size)
    side = config.size // patch
    return (side, side), channels


def _second_shape(config: FeatureConfig, first: int) -> None:
    """ConfigError for a size that the second encoder does not take; `first` is the first one's."""
    try:
        _shape(config)
    except ConfigError as error:
        own = f"features.second.size={ENCODERS[config.encoder].size}"
        raise ConfigError(
            f"features.second: {config.encoder}: {error}: its own view is set with {own}; the first "
            f"encoder sees {first} px"
        ) from None


def _built_shape(kind: "Family", size: int) -> tuple[int, int]:
    """(patch, channels) of an encoder that tells them by its model alone."""
    import torch

    with torch.device("meta"):
        backbone = kind.adapt(kind.build())
    backbone.require_size(size)
    return backbone.patch, backbone.dim


def library_versions(recipe: Recipe) -> dict[str, str]:
    """Installed versions of the packages that decide stored bits under `recipe`."""
    return {name: installed(name) for name in library_names(recipe)}


def _examine(root: Path, old: Mapping[int, PlanImage], record: ImageRecord) -> PlanImage:
    """The plan's entry of one image; nothing about it is an error yet."""
    image = _blank(record)
    known = old.get(record.image_id)
    if known is not None and known[:4] == image[:4] and known.bytes == photo_size(root, record):
        return known
    try:
        count, digest = hash_image(root, record)
    except ImageError:
        return image
    return image._replace(bytes=count, xxh3=digest)


def _examine_stored(
    root: Path,
    old: Mapping[int, PlanImage],
    content: Content,
    distrust: frozenset[int],
    stop: Callable[[], None],
) -> Iterator[PlanImage]:
    """`_examine` of images in object storage: known by their versions, else read many at once."""
    records = {record.path: record for record in content.images}
    again = {record.path for record in content.images if record.image_id in distrust}
    listed = {p: content.listed[p] for p in records if p in content.listed and p not in again}

    def work(path: str) -> tuple[int, str]:
        record = records[path]
        known, whole = old.get(record.image_id), known_size(path, content.listed.get(path))
        if known is not None and known[:4] == _blank(record)[:4] and known.bytes == whole:
            return known.bytes, known.xxh3
        try:
            return hash_image(root, record, whole)
        except ImageError:
            return 0, ""

    hashes = SeenPhotos(root).through(
        XXH3, [record.path for record in content.images], listed, work, lambda found: found if found[1] else None,
        lambda value: (int(value[0]), str(value[1])), stop=stop,
    )  # fmt: skip
    for record, (_, (count, digest)) in zip(content.images, hashes, strict=True):
        yield _blank(record)._replace(bytes=count, xxh3=digest)


def _blank(record: ImageRecord) -> PlanImage:
    return PlanImage(record.image_id, record.path, record.height, record.width, 0, "")
