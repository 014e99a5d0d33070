"""Synthetic caches for `svp bench store`: one with real-sized rows, one without features."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cache.create import create_cache
from ..cache.index import finalize
from ..cache.layers import SUPERPIXELS, Layer
from ..cache.layout import manifest_key, shard_key
from ..cache.manifest import FileEntry, Manifest, missing_shards, read_committed
from ..cache.plan import SHARD_SIZE, Images, Plan, PlanImage
from ..cache.reader import CacheReader
from ..cache.shard_file import encode_shard
from ..cache.writer import write_shard
from ..recipe import Recipe, SuperpixelConfig
from ..records import ImageRow, Superpixels
from ..store import Place

COUNT = 40  # superpixels: the mean of the paper's setting
RLE_LENGTH = 460  # bytes per superpixel: 18.5 kB per image, as measured on 480x640 maps


def bench_features(images: int, shape: tuple[int, int]) -> NDArray[np.float16]:
    """(images,P,C) float16 noise: the reader's cost does not depend on the values."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((8, *shape)).astype(np.float16)
    return np.concatenate([np.roll(block, i, axis=2) for i in range(-(-images // 8))])[:images]


def make_cache(path: Place, features: NDArray[np.float16]) -> tuple[float, float]:
    """Write a complete cache of `features`.

    Returns the best shard's images per second (fsync included) and CPU milliseconds per image.
    """
    plan = _plan(len(features), features.shape[1:], max_superpixels=256)
    create_cache(path, plan)
    rates: list[float] = []
    costs: list[float] = []
    for shard in range(plan.num_shards):
        images = plan.shard(shard)
        first = shard * plan.shard_size
        rows = [_row(plan, image, features[first + i]) for i, image in enumerate(images)]
        start, busy = time.perf_counter(), time.process_time()
        write_shard(path, plan, shard, rows, {})
        rates.append(len(images) / (time.perf_counter() - start))
        costs.append(1000 * (time.process_time() - busy) / len(images))
    finalize(path, plan, read_committed(path, plan))
    return max(rates), min(costs)


def write_npy(path: Path, features: NDArray[np.float16]) -> None:
    """The same features as one .npy file, written with write()."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f2", "fortran_order": False, "shape": features.shape}
        )
        for image in features:
            file.write(image.data)


def open_times(path: Path, shards: int) -> tuple[float, float]:
    """Seconds to open a complete cache of `shards` shards, and to find that nothing is missing.

    Its shard files are one empty file each, hard-linked: neither operation reads them.
    """
    plan = _plan(shards * SHARD_SIZE, (4, 8), max_superpixels=64)
    create_cache(path, plan)
    files: dict[str, FileEntry] = {}
    for spec in plan.arrays:
        data = b"".join(bytes(part) for part in encode_shard(spec, [], SHARD_SIZE))
        files[spec.name] = FileEntry(bytes=len(data), xxh3="0" * 16)
        for shard in range(shards):
            file = path / shard_key(spec, shard)
            file.parent.mkdir(parents=True, exist_ok=True)
            if shard == 0:
                file.write_bytes(data)
            else:
                file.hardlink_to(path / shard_key(spec, 0))
    for layer in plan.layers:
        for shard in range(shards):
            manifest = _manifest(layer, shard, files)
            record = path / manifest_key(layer.folder, shard)
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_bytes(manifest.data())
    finalize(path, plan, read_committed(path, plan))
    return (
        min(_timed(lambda: CacheReader(path)) for _ in range(5)),
        min(_timed(lambda: _missing(path)) for _ in range(2)),
    )


def _missing(path: Path) -> list[int]:
    plan = Plan.load(path)
    return [*missing_shards(path, plan, read_committed(path, plan, snapshot=True))]


def _plan(images: int, shape: tuple[int, ...], max_superpixels: int) -> Plan:
    side = int(shape[0] ** 0.5)
    return Plan(
        recipe=Recipe(superpixels=SuperpixelConfig(max_superpixels=max_superpixels)),
        images=Images.of(
            PlanImage(i, f"train2017/{i:012d}.jpg", 480, 640, 160_000, f"{i:016x}")
            for i in range(images)
        ),
        grid=(side, shape[0] // side),
        channels=shape[1],
        sspe=(64, 64),
    )


def _row(plan: Plan, image: PlanImage, features: NDArray[np.float16]) -> ImageRow:
    rng = np.random.default_rng(image.image_id)
    n = COUNT
    cover = np.where(rng.random((n, plan.patches)) < 0.045, rng.random((n, plan.patches)), 0)
    found = Superpixels(
        height=image.height,
        width=image.width,
        rles=tuple(rng.integers(48, 96, (n, RLE_LENGTH), np.uint8)[i].tobytes() for i in range(n)),
        level=rng.integers(0, 3, n).astype(np.uint8),
        predicted_iou=rng.random(n, np.float32),
        stability=rng.random(n, np.float32),
        area=rng.integers(100, 9000, n).astype(np.int32),
        box=rng.integers(0, 480, (n, 4)).astype(np.int32),
        point=rng.random((n, 2), np.float32),
        crop=np.tile(np.array([0, 0, 640, 480], np.int32), (n, 1)),
    )
    small = np.packbits(rng.random((n, 64, 64)) < 0.05, axis=None).reshape(n, 512)
    return ImageRow(image.image_id, found, features, cover.astype(np.float16), small)


def _manifest(layer: Layer, shard: int, files: dict[str, FileEntry]) -> Manifest:
    own = {spec.name: files[spec.name] for spec in layer.arrays}
    manifest = Manifest(layer=layer.id, shard=shard, files=own)
    if layer.kind == SUPERPIXELS:
        count = len(layer.rows(shard))
        survivors = {"candidates": [3072] * count, "kept": [COUNT] * count}
        manifest = manifest.model_copy(update={"k": [COUNT] * count, "survivors": survivors})
    return manifest.sealed()


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
