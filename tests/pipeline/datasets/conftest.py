"""Small datasets drawn and written by the tests: COCO, REFER and parquet forms of one world."""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 12, 16
Plan = Mapping[str, Sequence[int]]


def file_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


def polygon(ann_id: int) -> list[list[float]]:
    """Two overlapping squares, a different pair per object."""
    x, y = 1.0 + ann_id % 4, 1.0 + ann_id % 3
    square = [x, y, x + 5, y, x + 5, y + 5, x, y + 5]
    return [square, [value + 2.0 for value in square]]


def draw(folder: Path, image_id: int, name: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or file_name(image_id))
    pixels = np.full((HEIGHT, WIDTH, 3), image_id * 37 % 256, dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


@dataclass
class World:
    """`plan` says which images are in which split; every image has two refs of two sentences."""

    plan: Plan
    refs: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for split, ids in self.plan.items():
            for image_id in ids:
                self._add_image(split, image_id)

    def _add_image(self, split: str, image_id: int) -> None:
        if all(image["id"] != image_id for image in self.images):
            image = {"id": image_id, "file_name": file_name(image_id)}
            self.images.append({**image, "height": HEIGHT, "width": WIDTH})
        for _ in range(2):
            number = len(self.refs)
            ann_id = 1000 + number
            self.annotations.append(
                {"id": ann_id, "image_id": image_id, "segmentation": polygon(ann_id), "iscrowd": 0}
            )
            sentences = [
                {"sent_id": 2 * number + k, "sent": text, "raw": text, "tokens": text.split()}
                for k, text in enumerate((f"Thing {number} ", "the same thing"))
            ]
            self.refs.append(
                {
                    "ref_id": number,
                    "ann_id": ann_id,
                    "image_id": image_id,
                    "category_id": 1,
                    "split": split,
                    "sent_ids": [sentence["sent_id"] for sentence in sentences],
                    "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",
                    "sentences": sentences,
                }
            )

    def instances(self) -> dict[str, Any]:
        categories = [{"id": 1, "name": "thing"}]
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }

    def write_refer(self, folder: Path, split_by: str = "unc", photos: str = "images") -> Path:
        """The REFER folder, and drawn photographs in the sibling folder `photos` ('' for none)."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "instances.json").write_text(json.dumps(self.instances()))
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(self.refs, 2))
        if photos:
            self.draw(folder.parent / photos)
        return folder

    def draw(self, folder: Path) -> None:
        for image in self.images:
            draw(folder, image["id"])

    def write_hub(self, folder: Path) -> Path:
        """The same refs in the hub's layout: one parquet file per split, testA called test."""
        import pyarrow as arrow
        from pyarrow import parquet

        folder.mkdir(parents=True, exist_ok=True)
        images = {image["id"]: image for image in self.images}
        objects = {item["id"]: item for item in self.annotations}
        for split in self.plan:
            name = {"testA": "test"}.get(split, split)
            rows = [
                {
                    **{key: ref[key] for key in ("sent_ids", "ann_id", "ref_id", "image_id")},
                    "split": name,
                    "sentences": ref["sentences"],
                    "bbox": [0.0, 0.0, 5.0, 5.0],
                    "raw_anns": json.dumps(objects[ref["ann_id"]]),
                    "raw_image_info": json.dumps(images[ref["image_id"]]),
                }
                for ref in self.refs
                if ref["split"] == split
            ]
            parquet.write_table(arrow.Table.from_pylist(rows), folder / f"{name}-00000.parquet")
        return folder


@pytest.fixture
def world() -> World:
    """Images 1-3 train, 4 val, 5 testA."""
    return World({"train": [3, 1, 2], "val": [4], "testA": [5]})


@pytest.fixture
def worlds() -> type[World]:
    """The class itself, for tests that plan their own."""
    return World
