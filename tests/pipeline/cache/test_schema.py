"""The schema is a contract: a snapshot of every zarr.json, and its copy in zarr-python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svp.pipeline.cache import Plan, create_cache
from svp.pipeline.cache.schema import COLUMNS, ArraySpec
from svp.pipeline.cache.zarr_metadata import array_metadata, check_document, documents
from svp.pipeline.errors import CacheError

SNAPSHOT = Path(__file__).parents[2] / "fixtures" / "cache_v2" / "schema.json"


DINO = "features/tiny-128/dino/zarr.json"


def summary(raw: dict[str, Any]) -> list[Any]:
    """Type, row shape, axes and codec chain of one array: what other tools rely on."""
    if raw["node_type"] == "group":
        return sorted(raw["attributes"].get("svp", {}))
    inner = raw["codecs"][0].get("configuration", {}).get("codecs", raw["codecs"])
    return [raw["data_type"], raw["shape"], raw["dimension_names"], inner]


def test_snapshot(planner: Callable[..., Plan], tmp_path: Path) -> None:
    found: dict[str, dict[str, Any]] = {}
    recipes: dict[str, dict[str, Any]] = {
        "float16": {},
        "int8": {"stored": "int8"},
        "all": {"layers": (3, 4), "cls": True},
        "sam int8": {"sam_stored": "int8"},
        "mean+int4": {"stored": "mean+int4"},
    }
    for name, options in recipes.items():
        create_cache(tmp_path / name, planner(**options))
        found[name] = {
            str(path.parent.relative_to(tmp_path / name)): summary(json.loads(path.read_bytes()))
            for path in sorted((tmp_path / name).rglob("zarr.json"))
        }
        images = planner(**options).images.folder
        found[name] = {key.replace(images, "images/*"): value for key, value in found[name].items()}
    assert found == json.loads(SNAPSHOT.read_text())


@pytest.mark.parametrize(
    ("stored", "sam"), [("float16", "float16"), ("int8", "int8"), ("mean+int4", "int8")]
)
def test_an_axis_name_has_one_length(planner: Callable[..., Plan], stored: str, sam: str) -> None:
    """xarray opens a group only if it has: the whole cache is one data set of named axes."""
    import dataclasses

    plan = planner(layers=(3, 4, 5, 6), cls=True, stored=stored, sam_stored=sam)
    plan = dataclasses.replace(plan, sam=(256, 64, 64))
    lengths: dict[str, set[int]] = {}
    for spec in (*plan.arrays, *COLUMNS):
        assert len(spec.axes) == len(spec.row), spec.name
        for axis, length in zip(spec.axes, spec.row, strict=True):
            lengths.setdefault(axis, set()).add(length)
    assert {axis: found for axis, found in lengths.items() if len(found) > 1} == {}


def test_every_row_has_its_own_chunk_and_shard_files_hold_64(planner: Callable[..., Plan]) -> None:
    import dataclasses

    plan = dataclasses.replace(planner(70), shard_size=64)
    for spec in plan.arrays:
        raw = json.loads(array_metadata(spec, 70, 64))
        assert raw["chunk_grid"]["configuration"]["chunk_shape"] == [64, *spec.row]
        assert raw["codecs"][0]["configuration"]["chunk_shape"] == [1, *spec.row]


def hostile() -> dict[str, Callable[[dict[str, Any]], Any]]:
    def inner(codecs: list[Any]) -> Callable[[dict[str, Any]], Any]:
        def change(raw: dict[str, Any]) -> dict[str, Any]:
            raw["codecs"][0]["configuration"]["codecs"] = codecs
            return raw

        return change

    def put(**more: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda raw: {**raw, **more}

    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    return {
        "v2": put(zarr_format=2),
        "a group": put(node_type="group"),
        "shape 1e12": put(shape=[10**12, 4, 8]),
        "chunk 0": put(chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0, 4, 8]}}),
        "object": put(data_type="object"),
        "another type": put(data_type="float64"),
        "extension type": put(data_type={"name": "numpy.datetime64", "configuration": {}}),
        "NaN fill": put(fill_value="NaN"),
        "fill one": put(fill_value=1.0),
        "fill true": put(fill_value=False),
        "fill minus zero": put(fill_value=-0.0),
        "must understand": put(run_this={"must_understand": True}),
        "transformer": put(storage_transformers=[{"name": "chunk-manifest-json-v1"}]),
        "other axes": put(dimension_names=["image", "patch", "byte"]),
        "nameless axes": put(dimension_names=None),
        "attributes": put(attributes={"filters": [{"id": "pickle"}]}),
        "traversal": put(chunk_key_encoding={"name": "../../default"}),
        "v2 keys": put(chunk_key_encoding={"name": "v2", "configuration": {"separator": "/"}}),
        "pickle": inner([plain, {"name": "numcodecs.pickle", "configuration": {}}]),
        "pickle later": inner([plain, {"name": "zstd"}, {"name": "numcodecs.pickle"}]),
        "pickle alone": inner([{"name": "numcodecs.pickle"}]),
        "json2": inner([{"name": "numcodecs.json2"}]),
        "vlen": inner([{"name": "vlen-utf8"}]),
        "transpose": inner([{"name": "transpose", "configuration": {"order": [1, 0]}}, plain]),
        "big endian": inner([{"name": "bytes", "configuration": {"endian": "big"}}]),
        "nested shards": inner([{"name": "sharding_indexed", "configuration": {}}]),
        "no codec": inner([]),
        "ten codecs": inner([plain, *[{"name": "zstd"}] * 9]),
        "codec extra": inner([{**plain, "code": "import os"}]),
        "not sharded": put(codecs=[plain]),
        "codecs a dict": put(codecs={"name": "bytes"}),
        "a list": lambda raw: [raw],
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_metadata_is_refused_with_one_message(
    planner: Callable[..., Plan], tmp_path: Path, name: str
) -> None:
    plan = planner()
    create_cache(tmp_path / "c", plan)
    path = tmp_path / "c" / DINO
    document = documents(plan)[DINO]
    assert check_document(path.read_bytes(), str(path), document) == "same"
    path.write_text(json.dumps(hostile()[name](json.loads(path.read_bytes()))))
    with pytest.raises(CacheError, match=r"dino/zarr\.json: not an array of this cache"):
        check_document(path.read_bytes(), str(path), document)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 60_000, b'{"a":1,"a":2}', b'{"shape":[1e999]}', b"\xff"],
)
def test_what_is_no_metadata_is_refused(
    planner: Callable[..., Plan], tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "zarr.json"
    path.write_bytes(data)
    with pytest.raises(CacheError, match=r"zarr\.json"):
        check_document(path.read_bytes(), str(path), documents(planner())[DINO])


def test_columns_are_plain_arrays(planner: Callable[..., Plan], tmp_path: Path) -> None:
    create_cache(tmp_path / "c", planner())
    for layer in planner().layers:
        there = {path.parent.name for path in (tmp_path / "c" / layer.folder).glob("*/zarr.json")}
        columns = there - {spec.name for spec in layer.arrays}
        assert columns == {"status"} | ({"k"} if layer.kind == "superpixels" else set())
        for name in columns:
            path = tmp_path / "c" / layer.folder / name / "zarr.json"
            names = [codec["name"] for codec in json.loads(path.read_bytes())["codecs"]]
            assert names == ["bytes", "zstd"]
            assert json.loads(path.read_bytes())["shape"] == [10]
    images = {"id": [10], "hw": [10, 2], "bytes": [10], "xxh3": [10], "ends": [10]}
    images |= {"paths": [len("d/0.jpg") * 10 + 10]}
    for name, shape in images.items():
        path = tmp_path / "c" / planner().images.folder / name / "zarr.json"
        found = json.loads(path.read_bytes())
        assert [codec["name"] for codec in found["codecs"]] == ["bytes", "crc32c"]
        assert found["shape"] == found["chunk_grid"]["configuration"]["chunk_shape"] == shape


@pytest.mark.parametrize("images", [0, 10])
@pytest.mark.filterwarnings("ignore:Object at .* is not recognized:UserWarning")
def test_zarr_python_opens_the_whole_tree(
    maker: Callable[..., Any], tree_of: Callable[[Path], dict[str, bytes]], images: int
) -> None:
    """Each group and array has its place, and every chunk in the folder is one of an array."""
    import zarr

    made = maker(images, layers=(1, 2), cls=True)
    made.write()
    made.finish()
    root = zarr.open_group(made.path, mode="r")
    members = dict(root.members(max_depth=None))
    wanted = {str(Path(name).parent) for name in documents(made.plan)} - {"."}
    assert members.keys() == wanted and root.attrs["svp"] == {"schema": 2}
    for layer in made.plan.layers:
        assert members[layer.folder].attrs["svp"] == {"layer": layer.id}
    for name in tree_of(made.path):
        if "/c/" in name:
            assert isinstance(members[name.partition("/c/")[0]], zarr.Array)
    for name, member in members.items():
        if isinstance(member, zarr.Array):
            length = images if not name.endswith("/paths") else 8 * images
            assert np.asarray(member[:]).shape[0] == length
    for name, column in made.plan.images.columns.items():
        stored = members[f"{made.plan.images.folder}/{name}"]
        np.testing.assert_array_equal(np.asarray(stored[:]), column, strict=True)


def by_zarr_python(
    spec: ArraySpec, images: int, shard_size: int | None, first: str = "image"
) -> bytes:
    """The zarr.json that zarr-python writes for the same array."""
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
        dimension_names=[first, *spec.axes],
    )
    return bytes(store._store_dict["zarr.json"].to_bytes())


@pytest.mark.parametrize("images", [0, 10])
def test_each_document_has_the_bytes_of_zarr_python(
    planner: Callable[..., Plan], images: int
) -> None:
    for stored in ("float16", "int8"):
        plan = planner(images, layers=(3, 4), cls=True, stored=stored)
        wanted = {spec: plan.shard_size for spec in plan.arrays} | dict.fromkeys(COLUMNS)
        for spec, size in wanted.items():
            assert array_metadata(spec, images, size) == by_zarr_python(spec, images, size)
        for name, column in plan.images.columns.items():
            first, axes = ("byte" if name == "paths" else "image"), ("hw",) if name == "hw" else ()
            spec = ArraySpec(name, column.dtype.name, column.shape[1:], None, axes, "")
            theirs = by_zarr_python(spec, len(column), None, first)
            assert documents(plan)[f"{plan.images.folder}/{name}/zarr.json"] == theirs


def test_recompressed_arrays_and_other_settings_are_told_apart(
    planner: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = planner()
    document = documents(plan)["superpixels/sam-tiny/rle/zarr.json"]
    path = tmp_path / "rle" / "zarr.json"
    path.parent.mkdir()

    def stored(level: int, *names: str) -> str:
        raw = json.loads(document)
        inside = raw["codecs"][0]["configuration"]
        inside["codecs"][1]["configuration"]["level"] = level
        inside["codecs"][1:] = inside["codecs"][1:] if not names else [{"name": n} for n in names]
        path.write_text(json.dumps(raw))
        return check_document(path.read_bytes(), str(path), document)

    assert [stored(5), stored(9), stored(5, "gzip")] == ["same", "settings", "other"]
