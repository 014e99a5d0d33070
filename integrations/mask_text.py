"""Masks as text: how a model is asked for one, how its answer is read, and what it scores.

An answer is JSON with masks as COCO RLE, or polygons: whatever model prints them can be compared.
"""

import json
import re
from collections.abc import Sequence

import numpy as np

from ..pipeline.errors import DataError
from ..pipeline.masks.rle import decode, from_segmentation
from ..pipeline.records import Rle
from ..train.metrics import Counts

Pixels = tuple[int, int, int]  # intersection, union, target


def question(expression: str, height: int, width: int) -> str:
    """The prompt for models that read one."""
    return (
        f"Segment what this expression refers to: {expression}\n"
        'Answer with JSON alone: {"masks": [...]}, each mask a COCO RLE '
        f'{{"size": [{height}, {width}], "counts": "..."}}, and no mask if there is no such object.'
    )


def as_json(mask: Rle) -> dict[str, object]:
    """The mask as the JSON form of a COCO RLE."""
    return {"size": [mask.height, mask.width], "counts": mask.counts.decode("ascii")}


def answer_text(mask: Rle) -> str:
    """A mask as an answer."""
    return json.dumps({"masks": [as_json(mask)]})


def read_answer(text: str, height: int, width: int) -> Rle | None:
    """The union of an answer's masks at (height, width); None if it cannot be read.

    text  JSON, with or without words around it: `{"masks": [...]}`, or the masks themselves
    """
    found = re.search(r"[\[{].*[\]}]", text, re.DOTALL)
    try:
        given = json.loads(found[0]) if found else None
        masks = given["masks"] if isinstance(given, dict) and "masks" in given else given
        return from_segmentation(masks, height, width, "answer")
    except (ValueError, RecursionError, DataError):
        return None


def count_pixels(text: str, target: Rle, ignored: Rle | None) -> Pixels:
    """Pixels of an answer and its target, without those of `ignored`.

    An answer that cannot be read finds nothing, and is not the answer "no such object" either.
    """
    counted = np.ones((target.height, target.width), np.bool_)
    if ignored is not None:
        counted = ~decode(ignored).view(np.bool_)
    wanted = decode(target).view(np.bool_) & counted
    mask = read_answer(text, target.height, target.width)
    if mask is None:
        return 0, max(1, int(wanted.sum())), int(wanted.sum())
    found = decode(mask).view(np.bool_) & counted
    return int((found & wanted).sum()), int((found | wanted).sum()), int(wanted.sum())


def counts_of(items: Sequence[Pixels]) -> Counts:
    """Counts for `train.metrics`."""
    return Counts(*np.array(items, np.int64).reshape(-1, 3).T)
