"""Stand-ins for COCO train2014 and the three REFER sets, and a custom JSONL set.

Ten drawn photographs in sizes COCO has, one of them grey and three upright, each with three things
whose outlines are known. Invariant: the files are what the published archives hold (names, fields,
pickles of protocol 0), the sets share photographs as the published ones do, and there are
all eight validation and test splits.
"""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = (
    (640, 480), (480, 640), (640, 427), (500, 375), (640, 426),
    (427, 640), (612, 612), (640, 360), (333, 500), (640, 480),
)  # fmt: skip
GREY = 4
CATEGORIES = {1: "person", 18: "dog", 50: "spoon"}
# Photographs by split: val and the tests are RefCOCO's and RefCOCO+'s alike; RefCOCOg trains on
# some that they test on, and the other way round.
SETS: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    ("refcoco", "unc"): {"train": (0, 1, 2, 3), "val": (4, 5), "testA": (6,), "testB": (7, 8)},
    ("refcoco+", "unc"): {"train": (0, 1, 3), "val": (4,), "testA": (6,), "testB": (8,)},
    ("refcocog", "umd"): {"train": (2, 3, 6, 8), "val": (0, 5), "test": (9,)},
}
_NAMED = {1: ("left ellipse", "the {} oval"), 18: ("box in the middle", "a {} square thing"),
          50: ("right triangle", "the {} pointed one at the edge")}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One outlined object; `polygon` is x, y, x, y ... in pixels."""

    category: int
    polygon: tuple[float, ...]
    colour: tuple[int, int, int]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width, height."""
        xs, ys = self.polygon[::2], self.polygon[1::2]
        return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)

    @property
    def area(self) -> float:
        """Of the polygon, in pixels."""
        xs, ys = np.array(self.polygon[::2]), np.array(self.polygon[1::2])
        return float(abs(xs @ np.roll(ys, -1) - ys @ np.roll(xs, -1)) / 2)

    def expressions(self, index: int) -> tuple[str, str]:
        """Two ways to name it."""
        first, second = _NAMED[self.category]
        return first, second.format(("dark", "bright", "small", "large")[index % 4])


def image_id(index: int) -> int:
    """COCO's id of a photograph."""
    return 581_857 - 37_313 * index


def file_name(index: int) -> str:
    """COCO's name of a photograph."""
    return f"COCO_train2014_{image_id(index):012d}.jpg"


def things(index: int) -> list[Thing]:
    """Objects of an image."""
    width, height = SIZES[index]
    rng = np.random.default_rng(index)
    colours = [tuple(int(v) for v in rng.integers(20, 236, 3)) for _ in range(3)]
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rx, ry = width * rng.uniform(0.09, 0.14), height * rng.uniform(0.15, 0.3)
    oval = np.stack([width * 0.2 + rx * np.cos(turn), height * 0.5 + ry * np.sin(turn)], 1)
    x, y, side = width * 0.45, height * rng.uniform(0.3, 0.5), min(width, height) * 0.25
    box = np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)])
    tip = height * rng.uniform(0.1, 0.4)
    wedge = np.array(
        [(width * 0.95, tip), (width * 0.95, height * 0.9), (width * 0.8, height * 0.8)]
    )
    made = zip((1, 18, 50), (oval, box, wedge), colours, strict=True)
    return [
        Thing(kind, tuple(round(float(v), 2) for v in points.ravel()), (c[0], c[1], c[2]))
        for kind, points, c in made
    ]


def draw(index: int) -> Image.Image:
    """The photograph: a lit ground, its things, and grain."""
    width, height = SIZES[index]
    rng = np.random.default_rng(100 + index)
    light = np.linspace(0.6, 1.1, height)[:, None, None]
    ground: NDArray[Any] = rng.integers(70, 190, 3) * light + np.zeros((height, width, 3))
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for thing in things(index):
        pen.polygon(list(thing.polygon), fill=thing.colour)
    grain = np.asarray(picture, dtype=np.float32) + rng.normal(0, 4, (height, width, 1))
    picture = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    return picture.convert("L") if index == GREY else picture


def write_coco(root: Path) -> None:
    """`train2014/` and the three sets in `root`, which is made."""
    images = root / "train2014"
    images.mkdir(parents=True, exist_ok=True)
    for index in range(len(SIZES)):
        draw(index).save(images / file_name(index), quality=90)
    for (name, split_by), splits in SETS.items():
        _write_set(root / name, split_by, splits)


def _write_set(folder: Path, split_by: str, splits: dict[str, tuple[int, ...]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    used = sorted({index for group in splits.values() for index in group})
    annotations = [
        _annotation(index, number, thing)
        for index in used
        for number, thing in enumerate(things(index))
    ]
    instances = {
        "info": {"description": "stand-in of a rehearsal", "year": 2014, "version": "1.0"},
        "licenses": [{"id": 1, "name": "none", "url": "https://example.org"}],
        "images": [_image(index) for index in used],
        "annotations": annotations,
        "categories": [{"id": k, "name": v, "supercategory": v} for k, v in CATEGORIES.items()],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    refs: list[dict[str, object]] = []
    for split, indices in splits.items():
        for index in indices:
            for number, thing in enumerate(things(index)[: 2 if split == "train" else 1]):
                refs.append(_ref(len(refs), index, number, thing, split))
    with open(folder / f"refs({split_by}).p", "wb") as file:
        pickle.dump(refs, file, protocol=0)


def _image(index: int) -> dict[str, object]:
    width, height = SIZES[index]
    name = file_name(index)
    return {
        "license": 1, "file_name": name, "coco_url": f"http://example.org/{name}",
        "height": height, "width": width, "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://example.org/{name}", "id": image_id(index),
    }  # fmt: skip


def _annotation_id(index: int, number: int) -> int:
    return 1_719_310 + 10 * index + number


def _annotation(index: int, number: int, thing: Thing) -> dict[str, object]:
    return {
        "segmentation": [list(thing.polygon)], "area": thing.area, "iscrowd": 0,
        "image_id": image_id(index), "bbox": list(thing.box), "category_id": thing.category,
        "id": _annotation_id(index, number),
    }  # fmt: skip


def _ref(ref_id: int, index: int, number: int, thing: Thing, split: str) -> dict[str, object]:
    sent_ids = [2 * ref_id, 2 * ref_id + 1]
    sentences = [
        {"tokens": text.split(), "raw": text.capitalize(), "sent_id": key, "sent": text}
        for key, text in zip(sent_ids, thing.expressions(index), strict=True)
    ]
    stem = file_name(index).removesuffix(".jpg")
    return {
        "sent_ids": sent_ids, "file_name": f"{stem}_{ref_id}.jpg", "split": split,
        "ann_id": _annotation_id(index, number), "ref_id": ref_id, "image_id": image_id(index),
        "sentences": sentences, "category_id": thing.category,
    }  # fmt: skip


def write_own(root: Path) -> None:
    """`photos/` with `train.jsonl` and `val.jsonl` beside it: polygons and run lengths."""
    photos = root / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for name, indices in {"train": (0, 1, 3), "val": (7, 8)}.items():
        rows = []
        for index in indices:
            draw(index).save(photos / f"{index:04d}.jpg", quality=90)
            rows += [_row(index, number, thing) for number, thing in enumerate(things(index)[:2])]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (root / f"{name}.jsonl").write_text(text)


def _row(index: int, number: int, thing: Thing) -> dict[str, object]:
    text = thing.expressions(index)[0]
    mask: object = [list(thing.polygon)] if number else _run_lengths(index, thing)
    return {"image": f"photos/{index:04d}.jpg", "expression": text, "mask": mask}


def _run_lengths(index: int, thing: Thing) -> dict[str, object]:
    """COCO's uncompressed RLE: runs of 0 and 1 in column-major order."""
    width, height = SIZES[index]
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(list(thing.polygon), fill=1)
    flat = np.asarray(canvas).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": [height, width], "counts": counts}
