"""Synthetic data for `svp bench loader`: cache, expressions and targets of the paper's shapes.

Photographs of 480x640, 24x24 patches of 1,024 channels, a SAM embedding of 256x64x64, 40 irregular
superpixels with real RLEs. Feature values are noise: the cost of reading does not depend on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...pipeline.cache import (
    CacheReader,
    Images,
    Plan,
    PlanImage,
    create_cache,
    finalize,
    read_committed,
    write_shard,
)
from ...pipeline.datasets import Annotation, Sentence, Source
from ...pipeline.masks import runs
from ...pipeline.masks.encoder_view import View, derive
from ...pipeline.recipe import FeatureConfig, Recipe
from ...pipeline.records import ImageRecord, ImageRow, Rle, Superpixels

HEIGHT, WIDTH = 480, 640
GRID, CHANNELS, SAM, BUDGET = (24, 24), 1024, (256, 64, 64), 4096
SUPERPIXELS = 40
SENTENCES = 8  # per photograph, over OBJECTS objects; RefCOCO has 7.1 over 2.5
OBJECTS = 4
VIEW = View("squash", 336)
_MAPS = 8  # different superpixel maps; images take turns
_WORDS = ("man", "woman", "dog", "red", "blue", "left", "right", "near", "with", "the", "hat")


@dataclass(frozen=True)
class Layout:
    """Superpixels of one map and what the cache stores of them."""

    found: Superpixels
    cover: NDArray[np.float16]
    small: NDArray[np.uint8]


def write_paper_cache(path: Path, images: int) -> CacheReader:
    """A complete cache of `images` photographs; about 3.4 MB each."""
    plan = Plan(
        recipe=Recipe(
            features=FeatureConfig(encoder="dinov2-large", size=VIEW.size),
            store_sam_embeddings=True,
        ),
        images=Images.of(
            PlanImage(i + 1, f"train2014/{i:012d}.jpg", HEIGHT, WIDTH, 160_000, f"{i:016x}")
            for i in range(images)
        ),
        grid=GRID,
        channels=CHANNELS,
        sspe=(64, 64),
        sam=SAM,
    )
    create_cache(path, plan)
    layouts = [_layout(seed) for seed in range(_MAPS)]
    for shard in range(plan.num_shards):
        rows = [_row(image, layouts[image.image_id % _MAPS]) for image in plan.shard(shard)]
        write_shard(path, plan, shard, rows, {})
    finalize(path, plan, read_committed(path, plan))
    return CacheReader(path, "always")


def paper_source(cache: CacheReader) -> Source:
    """Expressions for every photograph of the cache; objects are unions of superpixels."""
    images = cache.plan.images
    annotations: dict[tuple[str, int], Annotation] = {}
    sentences: list[Sentence] = []
    unions = [list(_objects(seed)) for seed in range(_MAPS)]
    for image in images:
        for k, mask in enumerate(unions[image.image_id % _MAPS]):
            ann = image.image_id * OBJECTS + k
            annotations["bench", ann] = Annotation(
                "bench", ann, image.image_id, HEIGHT, WIDTH, mask.coco()
            )
        sentences += _sentences(image.image_id)
    records = tuple(ImageRecord(i.image_id, i.path, i.height, i.width) for i in images)
    return Source("bench", "refer", "train", Path(), records, tuple(sentences), annotations)


def _sentences(image_id: int) -> Iterator[Sentence]:
    for k in range(SENTENCES):
        ann, sent = image_id * OBJECTS + k % OBJECTS, image_id * SENTENCES + k
        words = np.random.default_rng(sent).choice(_WORDS, 4)
        yield Sentence("bench", "", "train", image_id, ann, ann, sent, " ".join(words))


def _objects(seed: int) -> Iterator[Rle]:
    labels = _labels(seed)
    for k in range(OBJECTS):
        parts = np.isin(labels, [k, k + 5, k + 11]).astype(np.uint8)
        [_, counts] = runs.encode(runs.from_labels(parts))
        yield Rle(HEIGHT, WIDTH, counts)


def _layout(seed: int) -> Layout:
    found = runs.from_labels(_labels(seed))
    n = found.count
    superpixels = Superpixels(
        height=HEIGHT,
        width=WIDTH,
        rles=runs.encode(found),
        level=np.zeros(n, np.uint8),
        predicted_iou=np.ones(n, np.float32),
        stability=np.ones(n, np.float32),
        area=runs.areas(found).astype(np.int32),
        box=runs.boxes(found).astype(np.int32),
        point=np.zeros((n, 2), np.float32),
        crop=np.tile(np.array([0, 0, WIDTH, HEIGHT], np.int32), (n, 1)),
    )
    return Layout(superpixels, *derive(superpixels, VIEW, GRID, BUDGET))


def _labels(seed: int) -> NDArray[np.int64]:
    """(H,W): cells around random centres, their borders made wavy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    waves = rng.uniform(0, 2 * np.pi, 4)
    bent = (y + 6 * np.sin(x / 23 + waves[0]) + 3 * np.sin(x / 7 + waves[1]),
            x + 6 * np.sin(y / 19 + waves[2]) + 3 * np.sin(y / 8 + waves[3]))  # fmt: skip
    centres = rng.uniform((0, 0), (HEIGHT, WIDTH), (SUPERPIXELS, 2))
    distance = [(bent[0] - cy) ** 2 + (bent[1] - cx) ** 2 for cy, cx in centres]
    nearest: NDArray[np.int64] = np.stack(distance).argmin(axis=0)
    return nearest


def _row(image: PlanImage, layout: Layout) -> ImageRow:
    rng = np.random.default_rng(image.image_id)
    patches = rng.standard_normal((GRID[0] * GRID[1], CHANNELS), np.float32).astype(np.float16)
    embedding = rng.standard_normal(SAM, np.float32).astype(np.float16)
    return ImageRow(
        image.image_id, layout.found, patches, layout.cover, layout.small, sam=embedding
    )
