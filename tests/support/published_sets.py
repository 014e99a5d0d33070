"""Small ReasonSeg, PhraseCut, RefCOCOm, GSEval, Ref-L4 and Ref-Adv in the forms they are published in."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svp.pipeline.masks.rle import encode

H, W = 40, 50
OUTER = [[5.7, 4.2], [40.9, 4.2], [40.9, 30.8], [5.7, 30.8]]
SMALL = [[18, 12], [21, 12], [21, 15], [18, 15]]


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (W, H), (90, 80, 70)).save(path)


def text(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def reason(*shapes: tuple[str, list[list[float]]], **more: object) -> dict[str, Any]:
    made = {
        "text": ["what could hold coffee", "the cup"],
        "is_sentence": True,
        "shapes": [{"label": label, "points": points} for label, points in shapes],
    }
    return made | more


def reasonseg(root: Path, **files: dict[str, Any]) -> Path:
    """Files by `<split>_<name>`."""
    for key, value in files.items():
        split, _, name = key.partition("_")
        photo(root / "ReasonSeg" / split / f"{name}.jpg")
        text(root / "ReasonSeg" / split / f"{name}.json", value)
    return root / "ReasonSeg"


def task(number: int, polygons: object, **more: object) -> dict[str, Any]:
    made = {
        "task_id": f"7__{number}",
        "image_id": 7,
        "ann_ids": [1],
        "instance_boxes": [[0, 0, 5, 5]],
        "Polygons": polygons,
        "phrase": "wooden chairs",
        "phrase_structure": {"name": "chairs", "attributes": ["wooden"], "type": "attribute"},
    }
    return made | more


def phrasecut(root: Path, **splits: list[dict[str, Any]]) -> Path:
    folder = root / "VGPhraseCut_v0"
    photo(folder / "images" / "7.jpg")
    image = {"image_id": 7, "width": W, "height": H, "coco_id": None, "url": "", "split": "val"}
    text(folder / "image_data_split3000.json", [image])
    for split, tasks in splits.items():
        text(folder / f"refer_{split}.json", tasks)
    return folder


def part(segment: object, **more: object) -> dict[str, Any]:
    sentences = [{"sent": " Left ear of the Dog"}, {"sent": "the dog's left ear"}]
    made = {"img_name": "COCO_train2014_000000000007.jpg", "segment_id": segment}
    return made | {"sentences": sentences} | more


def refcocom(root: Path, *records: dict[str, Any]) -> Path:
    folder = root / "RefCOCOm"
    photo(root / "train2014" / "COCO_train2014_000000000007.jpg")
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for number, box in ((1, (2, 3)), (2, (10, 12))):
        mask = np.zeros((H, W), np.uint8)
        mask[box[0] : box[0] + 5, box[1] : box[1] + 6] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    Image.new("L", (9, 9)).save(folder / "masks" / "3.png")
    text(folder / "annotations" / "val.json", list(records))
    return folder


def line(number: object, **more: object) -> dict[str, Any]:
    mask = np.zeros((H, W), bool)
    mask[4:9, 6:16] = True
    made = {"idx": number, "image_path": "000000000007.jpg", "box": [6, 4, 16, 9], "class_id": 1}
    counts = encode(mask).counts.decode()
    return made | {"label": "The Roof", "segmentation": {"size": [H, W], "counts": counts}} | more


def gseval(root: Path, *lines: dict[str, Any]) -> Path:
    folder = root / "GSEval"
    photo(folder / "unlabeled2017" / "000000000007.jpg")
    text(folder / "GroundingSuite-Eval.jsonl", "".join(json.dumps(one) + "\n" for one in lines))
    return folder


def jpeg(value: int = 90) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (W, H), (value, value, value)).save(out, "JPEG")
    return out.getvalue()


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    from pyarrow import Table, parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(Table.from_pylist(rows), path)
    return path.parent


def l4(number: int, box: list[float], **more: Any) -> dict[str, Any]:
    made = {
        "id": f"{number:06d}", "file_name": "a.jpg", "caption": "The Roof on the left",
        "bbox": box, "height": H, "width": W, "ori_category_id": "o365_1",
    }  # fmt: skip
    return made | more


def ref_l4(root: Path, *rows: dict[str, Any]) -> Path:
    folder = root / "Ref-L4"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "a.jpg").write_bytes(jpeg())
    write_parquet(folder / "ref-l4-test.parquet", [l4(9, [1.0, 1.0, 4.0, 4.0])])
    return write_parquet(folder / "ref-l4-val.parquet", list(rows))


def adv(number: int, box: list[float], photo: bytes, **more: Any) -> dict[str, Any]:
    made = {
        "image": {"bytes": photo, "path": f"{number}.jpg"}, "file_name": "coco_7.jpg",
        "normal_caption": "the cup that is not red", "solution": box, "width": W, "height": H,
        "image_source": "coco", "use_negation": True, "distractors": "[1, 2]",
    }  # fmt: skip
    return made | more
