"""Fuzz of the files of a cache and of the training table: whoever made them, nothing crashes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from support.cache_model import build_golden
from support.fuzzing import FUZZ, holds, mutated, mutated_json, seeds
from svp.pipeline.cache.image_list import COLUMNS, Images, column_key
from svp.pipeline.cache.index import layer_rows, read_index
from svp.pipeline.cache.layers import Layer
from svp.pipeline.cache.layout import COMPLETE, INDEX, PLAN, manifest_key
from svp.pipeline.cache.manifest import Committed, read_manifest
from svp.pipeline.cache.plan import Plan
from svp.pipeline.cache.row_codec import unpack_rles
from svp.pipeline.cache.shard_file import ShardFile
from svp.pipeline.cache.zarr_metadata import check_document, documents
from svp.pipeline.io.binary import crc32c
from svp.pipeline.io.json_files import canonical
from svp.pipeline.store import open_folder

GOLDEN = build_golden()
SPECS = {spec.name: spec for spec in GOLDEN.plan.arrays}
DOCUMENTS = documents(GOLDEN.plan)


def any_json(kind: str) -> st.SearchStrategy[bytes]:
    """Mutated bytes, and mutated values in the canonical form that the readers insist on."""
    return mutated(seeds(kind)) | mutated_json(seeds(kind)).map(canonical)


@FUZZ
@given(mutated(seeds("plan")) | mutated_json(seeds("plan")).map(lambda value: sealed(value)))
def test_plan(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / PLAN
    GOLDEN.plan.images.save(tmp_path)
    path.write_bytes(data)
    if holds(lambda: Plan.load(tmp_path)):
        plan = Plan.load(tmp_path)
        assert plan.data == data and plan.num_shards <= len(plan.images)
        assert plan.images == GOLDEN.plan.images
        assert len({layer.folder for layer in plan.layers}) == len(plan.layers)


@FUZZ
@given(st.data())
def test_image_list(tmp_path: Path, data: st.DataObject) -> None:
    """Any columns, with every checksum right: refused, or a list that can be used."""
    columns: dict[str, bytes] = {}
    for name in COLUMNS:
        golden = GOLDEN.plan.images.columns[name].tobytes()
        mangled = mutated([golden]) | st.binary(max_size=len(golden) + 8)
        columns[name] = data.draw(st.just(golden) | mangled)
    count = data.draw(st.just(len(GOLDEN.rows)) | st.integers(0, 1 << 31))
    header = {"count": count, "columns": {name: described(raw) for name, raw in columns.items()}}
    digest = hashlib.sha256(canonical(header)).hexdigest()
    for name, raw in columns.items():
        path = tmp_path / column_key(f"images/{digest[:16]}", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw + crc32c(raw).to_bytes(4, "little"))
    if holds(lambda: Images.load(tmp_path, header)):
        found = Images.load(tmp_path, header)
        assert found.digest == digest and len(found) == count == len([*found])
        assert [found.row_of[image.image_id] for image in found] == [*range(count)]
        assert Images.of(found) == found
        for image in found:
            assert image.path and image.path[0] != "/" and "\0" not in image.path
            assert ".." not in image.path.split("/") and "\\" not in image.path


def described(raw: bytes) -> dict[str, object]:
    """A column as a header has it."""
    return {"bytes": len(raw), "xxh3_128": xxhash.xxh3_128_hexdigest(raw)}


@FUZZ
@pytest.mark.parametrize("kind", ["superpixels", "features"])
@given(
    mutated(seeds("manifest")) | mutated_json(seeds("manifest")).map(lambda value: sealed(value))
)
def test_manifest(tmp_path: Path, kind: str, data: bytes) -> None:
    layer = GOLDEN.plan.layer(kind)
    path = tmp_path / manifest_key(layer.folder, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if holds(lambda: read_manifest(tmp_path, layer, 0)):
        found = read_manifest(tmp_path, layer, 0)
        assert (found.layer, found.shard) == (layer.id, 0)
        assert set(found.files) == {spec.name for spec in layer.arrays}
        assert len(found.k) == (2 if kind == "superpixels" else 0)
        rows = layer_rows(tmp_path, layer, Committed({layer.folder: {0: found}}))
        assert len(rows.status) == len(rows.k) == len(GOLDEN.rows)


def sealed(value: object) -> bytes:
    """With a right checksum, as an attacker would write it."""
    if not isinstance(value, dict):
        return canonical(value)
    blank = canonical(value | {"check": ""})
    return canonical(value | {"check": xxhash.xxh3_64_hexdigest(blank)})


def test_the_helper_seals_as_svp_does() -> None:
    for name in (PLAN, *(f"{folder}/manifest/0.json" for folder in GOLDEN.folders)):
        assert sealed(json.loads(GOLDEN.files[name])) == GOLDEN.files[name]


@FUZZ
@pytest.mark.parametrize("kind", ["superpixels", "features"])
@given(any_json("index"), st.booleans())
def test_index(tmp_path: Path, kind: str, data: bytes, vouched: bool) -> None:
    layer = GOLDEN.plan.layer(kind)
    folder = restored(tmp_path, layer)
    mark = {"layer": layer.id, "index": hashlib.sha256(data).hexdigest()}
    if vouched:
        (folder / COMPLETE).write_bytes(canonical(mark))
    (folder / INDEX).write_bytes(data)
    if holds(lambda: read_index(tmp_path, layer)):
        rows = read_index(tmp_path, layer)
        assert len(rows.status) == len(rows.k) == len(GOLDEN.rows)
        assert len(rows.checks) == layer.num_shards and int(rows.k.max()) <= layer.k


@FUZZ
@pytest.mark.parametrize("kind", ["superpixels", "features"])
@given(any_json("complete"))
def test_complete(tmp_path: Path, kind: str, data: bytes) -> None:
    layer = GOLDEN.plan.layer(kind)
    folder = restored(tmp_path, layer)
    (folder / COMPLETE).write_bytes(data)
    if holds(lambda: read_index(tmp_path, layer)):
        assert data == GOLDEN.files[f"{layer.folder}/{COMPLETE}"]


@FUZZ
@given(mutated([GOLDEN.files["superpixels/sam-tiny/k/c/0"]]), st.booleans())
def test_counts(tmp_path: Path, data: bytes, vouched: bool) -> None:
    """The column from which a complete cache has its counts; the index may vouch for any."""
    layer = GOLDEN.plan.layer("superpixels")
    folder = restored(tmp_path, layer)
    (folder / "k/c/0").write_bytes(data)
    if vouched:
        index = json.loads((folder / INDEX).read_bytes())
        index["columns"]["k"] = xxhash.xxh3_64_hexdigest(data)
        (folder / INDEX).write_bytes(canonical(index))
        digest = hashlib.sha256(canonical(index)).hexdigest()
        (folder / COMPLETE).write_bytes(canonical({"layer": layer.id, "index": digest}))
    if holds(lambda: read_index(tmp_path, layer)):
        rows = read_index(tmp_path, layer)
        assert len(rows.k) == len(GOLDEN.rows) and int(rows.k.max()) <= layer.k


def restored(cache: Path, layer: Layer) -> Path:
    """The folder of a layer with its own files as they were."""
    folder = cache / layer.folder
    for name in (INDEX, COMPLETE, *(f"{c}/c/0" for c in ("k", "status"))):
        data = GOLDEN.files.get(f"{layer.folder}/{name}")
        if data is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


@FUZZ
@pytest.mark.parametrize("name", ["dino", "rle"])
@given(
    mutated(seeds("metadata"))
    | mutated_json(seeds("metadata")).map(lambda v: json.dumps(v).encode())
)
def test_metadata(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / "zarr.json"
    holds(lambda: check_document(data, str(path), DOCUMENTS[f"{SPECS[name].path}/zarr.json"]))


@FUZZ
@pytest.mark.parametrize("name", ["dino", "rle"])
@given(st.data())
def test_shard_file(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """A row of a mutated shard file is refused or the true one: each row has its checksum."""
    spec = SPECS[name]
    path = tmp_path / name
    path.write_bytes(data.draw(mutated(seeds(f"shard-{name}"))))
    true = tmp_path / "true"
    true.write_bytes(seeds(f"shard-{name}")[-1])

    def rows(file: Path) -> list[bytes]:
        opened = ShardFile(open_folder(tmp_path), file.name, spec, GOLDEN.plan.shard_size)
        found = []
        for slot in range(GOLDEN.plan.shard_size):
            out = np.full(spec.row, 7, spec.numpy)
            if opened.has(slot):
                opened.read(slot, out, verify=True)
                found.append(out.tobytes())
        return found

    read: list[bytes] = []
    if holds(lambda: read.extend(rows(path))):
        assert set(read) <= set(rows(true))


@FUZZ
@given(st.binary(max_size=64), st.integers(0, 1024))
def test_rle_rows(data: bytes, place: int) -> None:
    row = np.zeros(1024, np.uint8)
    row[: len(data)] = np.frombuffer(data, np.uint8)
    good = GOLDEN.rows[0]
    from svp.pipeline.cache.row_codec import pack_rles

    packed = pack_rles(good.superpixels.rles, 1024)  # type: ignore[union-attr]
    odd = np.zeros(1024, np.uint8)
    odd[: len(packed)] = packed
    odd[place % 1024] ^= 0x55
    for candidate in (row, odd):
        holds(lambda candidate=candidate: unpack_rles(candidate))
