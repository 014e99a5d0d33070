"""The zarr.json files of a cache: made from its plan, read by an allow-list.

A foreign zarr.json can name any codec, and some codecs run code. So no file is handed to a Zarr
library before this module has accepted it: format 3, the name, type, shape and chunks the plan
says, fill value 0, and only codecs of the Zarr v3 core (plus zstd).
"""

import json
import math
from typing import Any, Literal

from ..display import show
from ..errors import CacheError
from ..io.json_files import canonical
from .image_list import Images
from .index import columns_of
from .layers import SCHEMA
from .layout import META
from .plan import Plan
from .schema import ArraySpec

MAX_META_BYTES = 65_536
CODECS = {"crc32c", "zstd", "gzip", "blosc"}  # what may follow `bytes`
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CRC = {"name": "crc32c"}
Stored = Literal["same", "settings", "other"]


def documents(plan: Plan) -> dict[str, bytes]:
    """Every zarr.json of the plan's images and layers by its path in the cache folder.

    A layer's group names the layer; each array's has the bytes that zarr-python would write.
    """
    made = {META: _group(schema=SCHEMA)} | _image_documents(plan.images)
    for layer in plan.layers:
        made[f"{layer.kind}/{META}"] = _group()
        made[f"{layer.folder}/{META}"] = _group(layer=layer.id)
        images = len(layer.images)
        for spec in layer.arrays:
            made[f"{spec.path}/{META}"] = array_metadata(spec, images, layer.shard_size)
        for spec in columns_of(layer):
            made[f"{layer.folder}/{spec.name}/{META}"] = array_metadata(spec, images, None)
    return made


def _group(**attributes: object) -> bytes:
    about = {"svp": attributes} if attributes else {}
    return canonical({"zarr_format": 3, "node_type": "group", "attributes": about})


def _image_documents(images: Images) -> dict[str, bytes]:
    """zarr.json of the image list: plain arrays of one uncompressed chunk."""
    made = {f"images/{META}": _group(), f"{images.folder}/{META}": _group(images=images.digest)}
    for name, column in images.columns.items():
        axes = ("hw",) if name == "hw" else ()
        length = "byte" if name == "paths" else "image"
        spec = ArraySpec(name, column.dtype.name, column.shape[1:], None, axes, "")
        document = array_metadata(spec, len(column), None, first=length)
        made[f"{images.folder}/{name}/{META}"] = document
    return made


def array_metadata(
    spec: ArraySpec, images: int, shard_size: int | None, first: str = "image"
) -> bytes:
    """The zarr.json of one array of `images` rows, whose first axis is called `first`.

    `shard_size` None makes a plain array of one chunk (a column).
    """
    zstd = {"name": "zstd", "configuration": {"level": spec.level, "checksum": True}}
    order = LITTLE if spec.numpy.itemsize > 1 else {"name": "bytes"}
    codecs: list[dict[str, Any]] = [order, CRC if spec.level is None else zstd]
    if shard_size:
        inside = {
            "chunk_shape": [1, *spec.row],
            "codecs": codecs,
            "index_codecs": [LITTLE, CRC],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inside}]
    chunk = {"chunk_shape": [shard_size or max(images, 1), *spec.row]}
    document = {
        "shape": [images, *spec.row],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": chunk},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if spec.numpy.kind == "f" else 0,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": [first, *spec.axes],
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return json.dumps(document, indent=2).encode("ascii")


def check_document(found: bytes, path: str, data: bytes) -> Stored:
    """Accept the zarr.json `found` at `path` in place of `data`, one of `documents`.

    same      it says what `data` says, whatever its spacing
    settings  its codecs are the plan's with other settings, such as the level of zstd
    other     its codecs are others (the array was recompressed): zarr-python must read it

    Raises CacheError naming the file for anything else.
    """
    if found == data:
        return "same"
    raw, wanted = parse_meta(found, path), json.loads(data)
    if wanted["node_type"] == "group":
        raise _refused(path, "differs from what the plan says")
    codecs, ours = raw.get("codecs"), wanted.pop("codecs")
    wrong = [key for key, value in wanted.items() if not _same(raw.get(key), value)]
    wrong += sorted(set(raw) - {*wanted, "codecs"})
    if wrong:
        raise _refused(path, ", ".join(f"{show(key)}={show(raw.get(key))}" for key in wrong[:4]))
    if _same(codecs, ours):
        return "same"
    names = _row_codecs(codecs, ours)
    if names is None or names[0] != "bytes" or not set(names[1:]) <= CODECS:
        raise _refused(path, f"codecs={show(codecs, 200)}")
    return "settings" if names == _row_codecs(ours, ours) else "other"


def parse_meta(data: bytes, path: str) -> dict[str, Any]:
    """A zarr.json as a dict. Raises CacheError for anything but one plain JSON object."""

    def refuse(token: str) -> object:
        raise ValueError(f"{token} is not allowed")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        value = json.loads(data, parse_constant=refuse, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"not JSON: {show(str(error))}") from None
    if not isinstance(value, dict):
        raise _refused(path, "not a JSON object")
    return value


def _row_codecs(codecs: object, ours: list[Any]) -> list[str] | None:
    """Names of the codecs of one row, if the sharding around them, where we have it, is as ours."""
    if ours[0]["name"] != "sharding_indexed":
        return _names(codecs)
    wanted = ours[0]["configuration"]
    match codecs:
        case [{"name": "sharding_indexed", "configuration": dict(inside), **more}] if not more:
            if (
                inside.keys() == wanted.keys()
                and _same(inside["chunk_shape"], wanted["chunk_shape"])
                and inside["index_location"] == "end"
                and _names(inside["index_codecs"]) == ["bytes", "crc32c"]
            ):
                return _names(inside["codecs"])
    return None


def _names(codecs: object) -> list[str] | None:
    """Names of a codec list whose only `endian` is little; None if it is not such a list."""
    if not isinstance(codecs, list) or not 1 <= len(codecs) <= 4:
        return None
    names: list[str] = []
    for codec in codecs:
        if not isinstance(codec, dict) or not set(codec) <= {"name", "configuration"}:
            return None
        options = codec.get("configuration", {})
        if not isinstance(codec.get("name"), str) or not isinstance(options, dict):
            return None
        if options.get("endian", "little") != "little":
            return None
        names.append(codec["name"])
    return names


def _same(found: object, wanted: object) -> bool:
    """Equality in which True is not 1, NaN is nothing and -0.0 is not 0; 0.0 may stand for 0."""
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and found.keys() == wanted.keys()
            and all(_same(found[key], value) for key, value in wanted.items())
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list) and len(found) == len(wanted) and all(map(_same, found, wanted))
        )
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        number = isinstance(found, int | float) and not isinstance(found, bool)
        return number and found == wanted and math.copysign(1, found) == 1
    return type(found) is type(wanted) and found == wanted


def _refused(path: str, what: str) -> CacheError:
    return CacheError(
        f"{show(path, 300)}: not an array of this cache: {what}: "
        "run `svp cache verify`, or get the cache again from where it came"
    )
