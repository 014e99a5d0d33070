"""zarr.json metadata: written as zarr-python writes it, read through an allow-list.

A foreign zarr.json can name any codec, and some codecs run code. So ours are never handed to a Zarr
library before this module has accepted them: format 3, the name, type, shape and chunks the plan
says, fill value 0, and only codecs of the Zarr v3 core (plus zstd).
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..display import show
from ..errors import CacheError
from ..io.json_files import canonical, read_bounded
from .layout import META
from .plan import SCHEMA, Plan
from .schema import OLD_AXES, ArraySpec

MAX_META_BYTES = 65_536
CODECS = {"bytes", "crc32c", "zstd", "gzip", "blosc"}
INDEX_CODECS = ["bytes", "crc32c"]


@lru_cache(maxsize=256)
def array_metadata(spec: ArraySpec, images: int, shard_size: int | None) -> bytes:
    """The zarr.json of one array of `images` rows, as zarr-python writes it.

    `shard_size` None makes a plain array of one chunk (the columns that `finalize` writes).
    """
    from zarr import create_array
    from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    store = MemoryStore()
    last = Crc32cCodec() if spec.level is None else ZstdCodec(level=spec.level, checksum=True)
    create_array(
        store,
        shape=(images, *spec.row),
        chunks=(1 if shard_size else max(images, 1), *spec.row),
        shards=(shard_size, *spec.row) if shard_size else None,
        dtype=spec.dtype,
        filters=None,
        serializer=BytesCodec(),
        compressors=[last],
        fill_value=0,
        dimension_names=["image", *spec.axes],
    )
    return bytes(store._store_dict[META].to_bytes())


def group_metadata(plan: Plan) -> bytes:
    """The zarr.json of the cache folder: a Zarr group that names its cache."""
    attributes = {"svp": {"cache": plan.id, "schema": SCHEMA}}
    return canonical({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def check_array(path: Path, spec: ArraySpec, images: int, shard_size: int | None) -> list[str]:
    """Accept the zarr.json at `path` as array `spec`; returns the codec names of one row.

    The names equal `spec.codecs` in every cache we write; an allowed other chain (the array was
    recompressed) must be read with zarr-python. Raises CacheError naming the file otherwise.
    """
    raw = parse_meta(read_bounded(path, MAX_META_BYTES), path)
    chunk = [shard_size or max(images, 1), *spec.row]
    wanted = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [images, *spec.row],
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "storage_transformers": [],
        "attributes": {},
        "dimension_names": ["image", *spec.axes],
    }
    if raw.get("dimension_names") == ["image", *OLD_AXES.get(spec.name, spec.axes)]:
        wanted["dimension_names"] = raw["dimension_names"]
    wrong = [key for key, value in wanted.items() if not _same(raw.get(key), value)]
    wrong += sorted(set(raw) - {*wanted, "codecs"})
    if wrong:
        raise _refused(path, ", ".join(f"{show(key)}={show(raw.get(key))}" for key in wrong[:4]))
    codecs = raw.get("codecs")
    names = _sharded(codecs, [1, *spec.row]) if shard_size else _names(codecs)
    if names is None or names[0] != "bytes" or not set(names[1:]) <= CODECS - {"bytes"}:
        raise _refused(path, f"codecs={show(codecs, 200)}")
    return names


def check_ours(path: Path, spec: ArraySpec, images: int, shard_size: int | None) -> None:
    """Accept only what `array_metadata` writes, codec settings included; spacing may differ.

    Raises CacheError naming the file.
    """
    chain = check_array(path, spec, images, shard_size)
    if chain != list(spec.codecs):
        raise CacheError(f"codecs {chain} are not the plan's {list(spec.codecs)}")
    check_settings(path, spec, images, shard_size)


def check_settings(path: Path, spec: ArraySpec, images: int, shard_size: int | None) -> None:
    """Compare the codecs' settings of a zarr.json, whose codecs are the plan's, with ours."""
    found = parse_meta(read_bounded(path, MAX_META_BYTES), path)
    wanted = parse_meta(array_metadata(spec, images, shard_size), path)
    if found["codecs"] != wanted["codecs"]:
        raise _refused(path, f"codecs={show(found['codecs'], 200)}")


def parse_meta(data: bytes, path: Path) -> dict[str, Any]:
    """A zarr.json as a dict. Raises CacheError for anything but one plain JSON object."""
    import json

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


def _sharded(codecs: object, chunk: list[int]) -> list[str] | None:
    """Codec names inside a lone `sharding_indexed` with our layout, else None."""
    match codecs:
        case [{"name": "sharding_indexed", "configuration": dict(inside), **more}] if not more:
            fixed = set(inside) == {"chunk_shape", "codecs", "index_codecs", "index_location"}
            if fixed and _same(inside["chunk_shape"], chunk) and inside["index_location"] == "end":
                return _names(inside["codecs"]) if _index(inside["index_codecs"]) else None
    return None


def _index(codecs: object) -> bool:
    return _names(codecs) == INDEX_CODECS


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
    """Equality in which True is not 1 and NaN is nothing; 0.0 may stand for 0."""
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
    if isinstance(wanted, int):
        number = isinstance(found, int | float) and not isinstance(found, bool)
        return number and found == wanted and math.copysign(1, float(wanted)) == 1
    return type(found) is type(wanted) and found == wanted


def _refused(path: Path, what: str) -> CacheError:
    return CacheError(
        f"{show(str(path), 300)}: not an array of this cache: {what}: "
        "run `svp cache verify`, or get the cache again from where it came"
    )
