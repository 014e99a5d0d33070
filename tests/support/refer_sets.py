"""Small sets of the REFER family: one photograph of five objects."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svp.pipeline.masks.rle import encode

H, W = 20, 30
LEFT = [2, 3, 8, 3, 8, 9, 2, 9]  # 6 x 6 pixels
RIGHT = [15, 3, 20, 3, 20, 9, 15, 9]  # 5 x 6
Refs = list[dict[str, Any]]


def said(sent_id: int, text: str = "both cups", **flags: object) -> dict[str, Any]:
    return {"sent_id": sent_id, "sent": text, "raw": text, "tokens": text.split(), **flags}


def ref(number: int, ann_id: object, *sentences: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A ref as gRefCOCO's JSON has it: no `file_name`, no `sent_ids`."""
    made = {
        "ref_id": number,
        "image_id": 7,
        "split": "val",
        "ann_id": ann_id,
        "category_id": [1] if isinstance(ann_id, list) else 1,
        "sentences": list(sentences) or [said(number)],
    }
    return made | more


def refer_ref(number: int, ann_id: object, *sentences: dict[str, Any], **more: Any) -> Any:
    """The same with REFER's two further fields."""
    made = ref(number, ann_id, *sentences, **more)
    ids = [one["sent_id"] for one in made["sentences"]]
    return made | {"file_name": "COCO_train2014_000000000007_1.jpg", "sent_ids": ids}


def annotation(ann_id: int, segmentation: object, crowd: int = 0) -> dict[str, Any]:
    return {
        "id": ann_id, "image_id": 7, "category_id": 1, "iscrowd": crowd,
        "bbox": [0, 0, 5, 5], "segmentation": segmentation,
    }  # fmt: skip


def rle(y: int, x: int, *, text: bool = True) -> dict[str, Any]:
    """A 4 x 4 square as an RLE dict."""
    mask = np.zeros((H, W), bool)
    mask[y : y + 4, x : x + 4] = True
    counts = encode(mask).counts
    return {"size": [H, W], "counts": counts.decode() if text else counts}


OBJECTS = [
    annotation(1, [LEFT]),
    annotation(2, [RIGHT]),
    annotation(3, rle(12, 20)),
    annotation(4, rle(0, 0), crowd=1),
    annotation(5, [[1, 2, 3, 4], LEFT, [1, 2, 3, 4, 5, 6, 7]]),
]


def write(
    folder: Path, refs: Refs, objects: list[dict[str, Any]] | None = None, name: str = "refs(unc).p"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    image = {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": H, "width": W}
    world = {
        "images": [image],
        "annotations": OBJECTS if objects is None else objects,
        "categories": [{"id": 1, "name": "cup"}],
    }
    (folder / "instances.json").write_text(json.dumps(world))
    if name.endswith(".json"):
        (folder / name).write_text(json.dumps(refs))
    else:
        (folder / name).write_bytes(pickle.dumps(refs, 2))
    photos = folder.parent / "images" / "train2014"
    photos.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (W, H), (90, 80, 70)).save(photos / image["file_name"])
    return folder


def grefs(folder: Path, refs: Refs, objects: list[dict[str, Any]] | None = None) -> Path:
    return write(folder / "grefcoco", refs, objects, "grefs(unc).json")
