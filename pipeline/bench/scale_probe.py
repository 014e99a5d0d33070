"""Measure the costs of a cache besides its arrays: opening, scanning, file count.

Opening is measured on caches of records alone (plan, index, mark): nothing else is read then.
Scanning is measured on a small real cache, because it looks at every file.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cache import (
    CacheReader,
    Plan,
    PlanImage,
    create_cache,
    finalize,
    missing_shards,
    read_committed,
    verify,
)
from ..cache.image_list import IMAGES, Images
from ..cache.index import Rows, finish_layer
from ..cache.layers import SUPERPIXELS
from ..cache.layout import INDEX
from ..cache.writer import write_shard
from ..io.atomic import remove_stale
from ..masks.rle import encode
from ..recipe import Recipe, SuperpixelConfig
from ..records import ImageRow, Superpixels

SMALL = Recipe(superpixels=SuperpixelConfig(max_superpixels=2))


@dataclass(frozen=True, slots=True)
class Opening:
    """One cache of records: what `CacheReader` takes to open it, and what it reads."""

    images: int
    shards: int
    plan_bytes: int
    index_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Scanning:
    """Seconds per shard of what a resume and a check do, and what a shard puts on the disk.

    resume   `read_committed`, `missing_shards`: reads every manifest, looks at every file's size
    check    `verify` without reading data       leftovers  the walk for files of dead writers
    files    files per shard                     folders    folders per shard
    """

    shards: int
    resume_s: float
    check_s: float
    leftovers_s: float
    files: float
    folders: float


def opening(folder: Path, images: int, shard_size: int, reps: int = 3) -> Opening:
    """Make the records of a complete cache of `images` in `folder` and open it `reps` times."""
    plan = small_plan(images, shard_size)
    create_cache(folder, plan)
    checks = tuple(f"{s:016x}" for s in range(plan.num_shards))
    for layer in plan.layers:
        k = np.full(images, layer.kind == SUPERPIXELS, np.uint16)
        rows = Rows(np.ones(images, np.uint8), k, complete=True, checks=checks)
        finish_layer(folder, layer, rows, {spec.name: 0 for spec in layer.arrays})
    index_bytes = sum((folder / layer.folder / INDEX).stat().st_size for layer in plan.layers)
    plan_bytes = sum(file.stat().st_size for file in (folder / IMAGES).rglob("*") if file.is_file())
    plan_bytes += len(plan.data)
    seconds = best(lambda: CacheReader(folder), reps)
    return Opening(images, plan.num_shards, plan_bytes, index_bytes, seconds)


def scanning(folder: Path, shards: int = 64, reps: int = 3) -> Scanning:
    """Make a small cache of one image per shard in `folder` and scan it `reps` times."""
    plan = small_plan(shards, 1)
    create_cache(folder, plan)
    before = inodes(folder)
    for shard, image in enumerate(plan.images):
        write_shard(folder, plan, shard, [_row(plan, image)], {})
    files, folders = (b - a for a, b in zip(before, inodes(folder), strict=True))
    finalize(folder, plan, read_committed(folder, plan))
    return Scanning(
        shards=shards,
        resume_s=best(lambda: missing_shards(folder, plan, read_committed(folder, plan)), reps)
        / shards,
        check_s=best(lambda: verify(folder), reps) / shards,
        leftovers_s=best(lambda: remove_stale(folder), reps) / shards,
        files=files / shards,
        folders=folders / shards,
    )


def small_plan(images: int, shard_size: int) -> Plan:
    """A plan whose paths and hashes are as long as those of real data sets."""
    listed = Images.of(
        PlanImage(i, f"sa_{i // 11_000:06d}/sa_{i:08d}.jpg", 6, 5, 350_000, f"{i:016x}")
        for i in range(images)
    )
    return Plan(SMALL, listed, (1, 1), 4, (2, 2), 1024, shard_size=shard_size)


def inodes(folder: Path) -> tuple[int, int]:
    """Files and folders below `folder`."""
    files = folders = 0
    for _, inner, names in os.walk(folder):
        files, folders = files + len(names), folders + len(inner)
    return files, folders


def best(call: Callable[[], object], reps: int) -> float:
    """CPU seconds of the cheapest of `reps` calls: other load of the machine does not count."""
    times = []
    for _ in range(reps):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def _row(plan: Plan, image: PlanImage) -> ImageRow:
    mask = np.ones((image.height, image.width), np.uint8)
    one = np.ones(1, np.float32)
    box = np.array([[0, 0, image.width - 1, image.height - 1]], np.int32)
    found = Superpixels(
        height=image.height,
        width=image.width,
        rles=(encode(mask).counts,),
        level=np.zeros(1, np.uint8),
        predicted_iou=one,
        stability=one,
        area=np.array([mask.size], np.int32),
        box=box,
        point=np.zeros((1, 2), np.float32),
        crop=box + np.array([0, 0, 1, 1], np.int32),
    )
    return ImageRow(
        image_id=image.image_id,
        superpixels=found,
        patches=np.ones((plan.patches, plan.channels), np.float16),
        cover=np.ones((1, plan.patches), np.float16),
        sspe_masks=np.ones((1, 1), np.uint8),
        cls=None,
        layers=None,
        sam=None,
    )
