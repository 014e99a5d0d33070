"""COCO's files: `instances.json` of images and annotations, `results.json` of scored masks.

pycocotools reads both: `COCO("instances.json").loadRes("results.json")`. An expression is an image of
its own there, under the photograph's file name, as in the annotations that MDETR made of RefCOCO.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..pipeline.io.json_array import JsonArray
from ..pipeline.io.new_folder import new_folder
from .mask_text import as_json
from .pictures import Picture, Pictures, Region, pixels

INSTANCES, RESULTS = "instances.json", "results.json"


def write_coco(given: Pictures, out: Path) -> int:
    """Write the new folder `out`; returns the number of scored masks.

    Superpixels are annotations and results; of answers the targets are annotations, if they are
    known, and the answers results. Raises DataError (`out` holds files, a mask is bad), CacheError.
    """
    number = {label: place for place, label in enumerate(given.labels, 1)}
    listed: list[dict[str, object]] = []
    with new_folder(out) as folder, ExitStack() as files:
        annotations = files.enter_context(JsonArray(folder / INSTANCES, '{"annotations": '))
        results = files.enter_context(JsonArray(folder / RESULTS))
        for place, picture in enumerate(given.each(), 1):
            # Images keep their ids; of several expressions about one each has its own.
            image = place if picture.expression else picture.image_id
            listed.append(_image(image, picture))
            for region in picture.targets if picture.expression else picture.regions:
                known = _annotation(len(annotations) + 1, image, region)
                annotations.add({**known, "category_id": _category(number, region)})
            for region in picture.regions:
                mask = {"segmentation": as_json(region.mask), "score": region.score}
                ids = {"image_id": image, "category_id": _category(number, region)}
                results.add({**ids, **mask, **region.more})
        categories = [{"id": place, "name": label} for label, place in number.items()]
        rest = {"categories": categories, "images": listed, "info": {"description": "svp"}}
        results.end()
        annotations.end(f", {json.dumps(rest)[1:]}")
    return len(results)


def _category(number: Mapping[str, int], region: Region) -> int:
    """Of an answer, whose label is its expression, the only one there is."""
    return number.get(region.label, 1)


def _image(image: int, picture: Picture) -> dict[str, object]:
    size = {"height": picture.height, "width": picture.width}
    found = {"id": image, "file_name": picture.name, "original_id": picture.image_id, **size}
    said = {"expression": picture.expression} if picture.expression else {}
    return {**found, **said, **picture.more}


def _annotation(number: int, image: int, region: Region) -> dict[str, object]:
    part, box = pixels(region.mask) or (np.zeros((0, 0)), (0, 0, 0, 0))
    place = {"area": int(part.sum()), "bbox": list(box), "iscrowd": 0}
    mask = {"segmentation": as_json(region.mask)}
    return {"id": number, "image_id": image, **mask, **place, **region.more}
