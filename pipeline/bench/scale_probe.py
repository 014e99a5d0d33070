"""Measure the costs of a cache besides its arrays: opening, scanning, file count.

Opening is measured on caches of records alone (plan, index, mark): nothing else is read then.
Scanning is measured on a small real cache, because it looks at every file.
"""

import os
import subprocess
import sys
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
from ..cache.image_list import COLUMNS, IMAGES, Images
from ..cache.index import Rows, finish_layer
from ..cache.layers import SUPERPIXELS
from ..cache.layout import INDEX
from ..cache.plan import SHARD_SIZE
from ..cache.writer import write_shard
from ..display import counted, size
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
class Whole:
    """A cache of `images` opened in a fresh process: wall and CPU seconds, bytes of memory.

    resident  that the open cache adds     peak  of the process while it was opened
    """

    images: int
    wall_s: float
    cpu_s: float
    resident: float
    peak: float

    def line(self) -> str:
        """For people."""
        return (
            f"one cache of {counted(self.images, 'image')} opens in {self.wall_s:.2f} s "
            f"({self.cpu_s:.2f} s of CPU), {size(self.resident)} resident, the process at most "
            f"{size(self.peak)}"
        )


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
    plan = _records(folder, images, shard_size)
    index_bytes = sum((folder / layer.folder / INDEX).stat().st_size for layer in plan.layers)
    plan_bytes = sum(file.stat().st_size for file in (folder / IMAGES).rglob("*") if file.is_file())
    plan_bytes += len(plan.data)
    seconds = best(lambda: CacheReader(folder), reps)
    return Opening(images, plan.num_shards, plan_bytes, index_bytes, seconds)


def opening_whole(folder: Path, images: int) -> Whole:
    """Make the records of one cache of `images` and open it in a fresh process."""
    _records(folder, images, SHARD_SIZE)
    words = [sys.executable, "-c", _OPEN, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    wall, busy, before, after, peak = map(float, done.stdout.split())
    return Whole(images, wall, busy, after - before, peak)


# Opens a cache and prints wall and CPU seconds, resident bytes before and after, and their peak.
_OPEN = """
import sys, time
from svp.pipeline.cache.reader import CacheReader
def resident(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
before, wall, busy = resident("VmRSS"), time.perf_counter(), time.process_time()
reader = CacheReader(sys.argv[1])
print(time.perf_counter() - wall, time.process_time() - busy, before, resident("VmRSS"), resident("VmHWM"))
"""


def _records(folder: Path, images: int, shard_size: int) -> Plan:
    """The plan of a complete cache of `images` without shard files, its records written."""
    plan = small_plan(images, shard_size)
    create_cache(folder, plan)
    checks = tuple(f"{s:016x}" for s in range(plan.num_shards))
    for layer in plan.layers:
        k = np.full(images, layer.kind == SUPERPIXELS, np.uint16)
        rows = Rows(np.ones(images, np.uint8), k, complete=True, checks=checks)
        finish_layer(folder, layer, rows, {spec.name: 0 for spec in layer.arrays})
    return plan


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
    listed = _listed(images)
    return Plan(SMALL, listed, (1, 1), 4, (2, 2), 1024, shard_size=shard_size)


def _listed(images: int) -> Images:
    """SA-1B's names, 11,000 photographs a folder, with a hash each."""
    number = np.arange(images, dtype=np.int64)
    names = np.tile(np.frombuffer(b"sa_000000/sa_00000000.jpg\0", np.uint8), (images, 1))
    for first, width, value in ((3, 6, number // 11_000), (13, 8, number)):
        for digit in range(width):
            names[:, first + digit] += (value // 10 ** (width - 1 - digit) % 10).astype(np.uint8)
    columns = {
        "id": number,
        "hw": np.tile(np.array([[6, 5]]), (images, 1)),
        "bytes": np.full(images, 350_000),
        "xxh3": number + 1,
        "ends": names.shape[1] * (number + 1),
        "paths": names.reshape(-1),
    }
    return Images({name: columns[name].astype(dtype) for name, dtype in COLUMNS.items()})


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
