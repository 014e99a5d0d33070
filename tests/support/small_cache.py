"""Small caches made on the spot: 2x2 patches of 8 channels, shards of 4 images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svp.pipeline.cache import (
    Plan,
    PlanImage,
    create_cache,
    finalize,
    missing_shards,
    read_committed,
    write_shard,
)
from svp.pipeline.masks.rle import encode
from svp.pipeline.recipe import Recipe, SuperpixelConfig
from svp.pipeline.records import ImageRow, Quarantined, Superpixels

SIZE = (12, 10)  # height, width of every image


@dataclass
class Made:
    """A cache and the rows it was made from."""

    path: Path
    plan: Plan
    rows: list[ImageRow | Quarantined]

    def shard_rows(self, shard: int) -> list[ImageRow | Quarantined]:
        size = self.plan.shard_size
        return self.rows[shard * size : (shard + 1) * size]

    def write(self, shards: Sequence[int] | None = None) -> None:
        create_cache(self.path, self.plan)
        for shard in range(self.plan.num_shards) if shards is None else shards:
            write_shard(self.path, self.plan, shard, self.shard_rows(shard), {"seconds": 1.5})

    def resume(self) -> list[int]:
        """What a rerun of the same command does; returns the shards it computed."""
        create_cache(self.path, self.plan)
        todo = self.missing()
        for shard in todo:
            write_shard(self.path, self.plan, shard, self.shard_rows(shard), {})
        self.finish()
        return todo

    def missing(self) -> list[int]:
        """The shards still to compute."""
        return [*missing_shards(self.path, self.plan, read_committed(self.path, self.plan))]

    def finish(self) -> None:
        """Write the index and COMPLETE."""
        finalize(self.path, self.plan, read_committed(self.path, self.plan))


def make_plan(images: int = 10, *, sam_stored: str = "", **features: object) -> Plan:
    """With layers or `sam_stored` the SAM embedding is stored, too."""
    sam = "layers" in features or bool(sam_stored)
    raw = {"store_sam_embeddings": sam, "sam_stored": sam_stored or "float16"}
    recipe = Recipe.model_validate(
        raw | {"superpixels": SuperpixelConfig(max_superpixels=6), "features": features}
    )
    return Plan(
        recipe=recipe,
        images=tuple(
            PlanImage(7 * i + 1, f"d/{i}.jpg", *SIZE, 99, "ab" * 8) for i in range(images)
        ),
        grid=(2, 2),
        channels=8,
        sspe=(4, 4),
        rle_bytes=1024,
        sam=(2, 3, 3) if sam else None,
        split="train",
        digests={"sam.safetensors": "0" * 64},
        shard_size=4,
    )


def make_row(plan: Plan, image: PlanImage, n: int | None = None) -> ImageRow:
    rng = np.random.default_rng(image.image_id)
    n = int(rng.integers(1, plan.k + 1)) if n is None else n
    masks = rng.random((n, image.height, image.width)) < 0.3
    masks[:, 0, 0] = True
    found = Superpixels(
        height=image.height,
        width=image.width,
        rles=tuple(encode(mask).counts for mask in masks),
        level=rng.integers(0, 3, n).astype(np.uint8),
        predicted_iou=rng.random(n, np.float32),
        stability=rng.random(n, np.float32),
        area=masks.sum(axis=(1, 2)).astype(np.int32),
        box=rng.integers(0, 8192, (n, 4)).astype(np.int32),
        point=rng.random((n, 2), np.float32) * 8192,
        crop=rng.integers(0, 8193, (n, 4)).astype(np.int32),
        fallback=n == 1,
        survivors={"score": 3 * n, "nms": n},
    )

    def floats(*shape: int) -> NDArray[np.float16]:
        return rng.standard_normal(shape).astype(np.float16)

    return ImageRow(
        image_id=image.image_id,
        superpixels=found,
        patches=floats(plan.patches, plan.channels),
        cover=rng.random((n, plan.patches)).astype(np.float16),
        sspe_masks=rng.integers(0, 256, (n, 2)).astype(np.uint8),
        cls=floats(plan.channels) if plan.cls else None,
        layers=floats(*plan.layers_shape) if plan.blocks else None,
        sam=floats(*plan.sam) if plan.sam else None,
    )


def make_rows(plan: Plan, bad: Sequence[int] = ()) -> list[ImageRow | Quarantined]:
    return [
        Quarantined(image.image_id, "truncated", f"file {row} ends early")
        if row in bad
        else make_row(plan, image)
        for row, image in enumerate(plan.images)
    ]
