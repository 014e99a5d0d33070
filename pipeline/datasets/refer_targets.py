"""Targets of refs: one object, the union of several, or none.

The sentences table joins a sentence to one annotation. A target that is not one object of the file
becomes an annotation of its own, whose id is negative: it never meets an id of the file.
"""

from collections.abc import Mapping, Sequence

from ..errors import DataError
from ..masks.rle import from_segmentation
from .refer_records import Ref
from .tables import Annotation, ImageEntry


def target_of(
    ref: Ref, image: ImageEntry, objects: Mapping[int, Annotation], *, lenient: bool
) -> Annotation:
    """The target of a ref whose ids are all in `objects`.

    lenient  as gRefCOCO's loaders: crowds do not belong to a target of several, and polygons that
             enclose nothing (under 6 numbers, or an odd count) are passed over

    DataError if nothing of its objects is left, or a mask that must be united is bad.
    """
    found = [objects[ann_id] for ann_id in ref.ann_ids]
    if lenient:
        found = [item for item in found if not item.crowd]
        if ref.ann_ids and not found:
            raise DataError("all its objects are crowds")
    elif len(found) == 1:
        return found[0]
    if not found:
        return no_target(ref, image)
    parts = [_parts(item, lenient=lenient) for item in found]
    # A list holds polygons or RLEs, not both.
    if any(isinstance(part, dict) for several in parts for part in several):
        parts = [[_rle(item, several)] for item, several in zip(found, parts, strict=True)]
    return Annotation(
        image.dataset,
        -2 - 2 * ref.ref_id,
        image.image_id,
        image.height,
        image.width,
        [part for several in parts for part in several],
        f"{image.dataset} ref {ref.ref_id}",
    )


def no_target(ref: Ref, image: ImageEntry) -> Annotation:
    """The empty mask of what describes nothing in the image."""
    size = image.height, image.width
    label = f"{image.dataset} ref {ref.ref_id}"
    return Annotation(image.dataset, -1 - 2 * ref.ref_id, image.image_id, *size, [], label)


def _parts(item: Annotation, *, lenient: bool) -> Sequence[object]:
    value = item.segmentation
    if not isinstance(value, list) or (value and not isinstance(value[0], list | dict)):
        return [value]
    if not lenient:
        return value
    kept = [p for p in value if not isinstance(p, list) or (len(p) >= 6 and len(p) % 2 == 0)]
    if not kept:
        raise DataError(f"ann_id {item.ann_id} has no polygon of three points or more")
    return kept


def _rle(item: Annotation, parts: Sequence[object]) -> dict[str, object]:
    mask = from_segmentation(list(parts), item.height, item.width, f"ann_id {item.ann_id}")
    return mask.coco()
