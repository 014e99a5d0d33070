"""FiftyOne's own format on disk: `metadata.json` (fields) and `samples.json` (photographs).

`fiftyone.Dataset.from_dir(dataset_dir=OUT, dataset_type=fiftyone.types.FiftyOneDataset)` reads it.
Superpixels, answers and targets are `Detections` with a mask each; the fields are those of FiftyOne
1.0, which later versions bring up to date. Ids are functions of what they name.
"""

import base64
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
import xxhash

from ..pipeline.io.json_array import JsonArray
from ..pipeline.io.new_folder import new_folder
from ..pipeline.store import is_url
from .pictures import Picture, Pictures, Region, pixels

VERSION = "1.0.0"
SUPERPIXELS, PREDICTIONS, TARGETS = "superpixels", "predictions", "targets"
CORE = "fiftyone.core"
KINDS = {int: "Int", float: "Float", str: "String"}


def write_fiftyone(given: Pictures, out: Path) -> int:
    """Write the new folder `out`; returns the number of photographs.

    The photographs stay where they are: their paths are written. Raises DataError (`out` holds
    files, a mask is bad), CacheError.
    """
    # name of a field -> names and types of what its detections have beside label and mask
    fields: dict[str, dict[str, type]] = {}
    with new_folder(out) as folder:
        with JsonArray(folder / "samples.json", '{"samples": ') as samples:
            for name, pictures in groupby(given.each(), key=lambda picture: picture.name):
                samples.add(_sample(name, list(pictures), given.root, fields))
            samples.end("}")
        about = {
            "version": VERSION,
            "media_type": "image",
            "info": {"written_by": "svp"},
            "sample_fields": _schema(fields),
        }
        (folder / "metadata.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    return len(samples)


def _sample(
    name: str, pictures: list[Picture], root: Path | None, fields: dict[str, dict[str, type]]
) -> dict[str, object]:
    first, where = pictures[0], str(root / name) if root and not is_url(root) else name
    regions = {
        PREDICTIONS if first.expression else SUPERPIXELS: [r for p in pictures for r in p.regions],
        TARGETS: [r for p in pictures for r in p.targets],
    }
    found: dict[str, object] = {
        "_id": _id(name),
        "filepath": where,
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": first.width, "height": first.height},
        "_media_type": "image",
        "_rand": xxhash.xxh3_64_intdigest(name.encode()) / 2**64,
        "image_id": first.image_id,
    }
    for field, all_of_it in regions.items():
        if not all_of_it:
            continue
        known = fields.setdefault(field, {})
        for region in all_of_it:
            known.update({key: type(value) for key, value in region.more.items()})
        detections = [
            _detection(_id(f"{name}\0{field}\0{n}"), region, first)
            for n, region in enumerate(all_of_it)
        ]
        found[field] = {"_cls": "Detections", "detections": detections}
    return found


def _detection(id: object, region: Region, picture: Picture) -> dict[str, object]:
    part, (left, top, width, height) = pixels(region.mask) or (np.zeros((1, 1), np.bool_), (0,) * 4)
    across, down = picture.width, picture.height
    file = io.BytesIO()
    np.save(file, part, allow_pickle=False)
    packed = base64.b64encode(zlib.compress(file.getvalue())).decode("ascii")
    score = {} if region.score is None else {"confidence": region.score}
    return {
        "_id": id,
        "_cls": "Detection",
        "tags": [],
        "attributes": {},
        "label": region.label,
        "bounding_box": [left / across, top / down, width / across, height / down],
        "mask": {"$binary": {"base64": packed, "subType": "00"}},
        **score,
        **region.more,
    }


def _id(name: str) -> dict[str, str]:
    return {"$oid": xxhash.xxh3_128_hexdigest(name.encode())[:24]}


def _schema(fields: Mapping[str, Mapping[str, type]]) -> list[dict[str, object]]:
    """Fields of a sample, those of FiftyOne itself first."""
    size = [_field(name, "Int") for name in ("size_bytes", "width", "height", "num_channels")]
    metadata = [*size, _field("mime_type", "String")]
    return [
        _field("id", "ObjectId", db_field="_id"),
        _field("filepath", "String"),
        _field("tags", "List", subfield="String"),
        _field("metadata", "EmbeddedDocument", of="metadata.ImageMetadata", fields=metadata),
        _field("_media_type", "String"),
        _field("_rand", "Float"),
        _field("_dataset_id", "ObjectId"),
        _field("created_at", "DateTime"),
        _field("last_modified_at", "DateTime"),
        _field("image_id", "Int"),
        *(_detections(name, more) for name, more in fields.items()),
    ]


def _detections(name: str, more: Mapping[str, type]) -> dict[str, object]:
    own = [
        _field("id", "ObjectId", db_field="_id"),
        _field("tags", "List", subfield="String"),
        _field("attributes", "Dict", of="labels.Attribute", subfield="EmbeddedDocument"),
        _field("label", "String"),
        _field("bounding_box", "List", subfield="Float"),
        _field("mask", "Array"),
        _field("mask_path", "String"),
        _field("confidence", "Float"),
        _field("index", "Int"),
        *(_field(key, KINDS[kind]) for key, kind in more.items()),
    ]
    listed = _field(
        "detections", "List", of="labels.Detection", subfield="EmbeddedDocument", fields=own
    )
    return _field(name, "EmbeddedDocument", of="labels.Detections", fields=[listed])


def _field(
    name: str,
    kind: str,
    *,
    of: str = "",
    subfield: str = "",
    fields: Iterable[dict[str, object]] = (),
    db_field: str = "",
) -> dict[str, object]:
    return {
        "name": name,
        "ftype": f"{CORE}.fields.{kind}Field",
        "embedded_doc_type": f"{CORE}.{of}" if of else None,
        "subfield": f"{CORE}.fields.{subfield}Field" if subfield else None,
        "fields": list(fields),
        "db_field": db_field or name,
        "description": None,
        "info": None,
        "read_only": False,
    }
