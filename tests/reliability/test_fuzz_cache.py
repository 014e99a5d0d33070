"""Fuzz of the files of a cache and of the training table: whoever made them, nothing crashes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.cache_model import build_golden
from support.fuzzing import FUZZ, holds, mutated, mutated_json, seeds
from svp.pipeline.cache.index import read_index
from svp.pipeline.cache.layout import COMPLETE, INDEX, PLAN, manifest_path
from svp.pipeline.cache.manifest import Manifest, read_manifest
from svp.pipeline.cache.plan import Plan
from svp.pipeline.cache.row_codec import unpack_rles
from svp.pipeline.cache.shard_file import ShardFile
from svp.pipeline.cache.zarr_metadata import check_document, documents
from svp.pipeline.io.json_files import canonical

GOLDEN = build_golden()
SPECS = {spec.name: spec for spec in GOLDEN.plan.arrays}
DOCUMENTS = documents(GOLDEN.plan)


def any_json(kind: str) -> st.SearchStrategy[bytes]:
    """Mutated bytes, and mutated values in the canonical form that the readers insist on."""
    return mutated(seeds(kind)) | mutated_json(seeds(kind)).map(canonical)


@FUZZ
@given(any_json("plan"))
def test_plan(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / PLAN
    path.write_bytes(data)
    if holds(lambda: Plan.load(path)):
        plan = Plan.load(path)
        assert plan.data == data and plan.num_shards <= len(plan.images)


@FUZZ
@given(
    mutated(seeds("manifest")) | mutated_json(seeds("manifest")).map(lambda value: sealed(value))
)
def test_manifest(tmp_path: Path, data: bytes) -> None:
    path = manifest_path(tmp_path, 0)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    if holds(lambda: read_manifest(tmp_path, GOLDEN.plan, 0)):
        found = read_manifest(tmp_path, GOLDEN.plan, 0)
        assert [entry.id for entry in found.images] == [1, 2]
        assert set(found.files) == set(SPECS)


def sealed(value: object) -> bytes:
    """With a right checksum, as an attacker would write it."""
    try:
        return Manifest.model_validate(value).sealed().data()
    except ValueError:
        return canonical(value)


@FUZZ
@given(any_json("index"), st.booleans())
def test_index(tmp_path: Path, data: bytes, vouched: bool) -> None:
    import hashlib

    mark = {"cache": GOLDEN.plan.id, "index": hashlib.sha256(data).hexdigest()}
    (tmp_path / COMPLETE).write_bytes(canonical(mark) if vouched else GOLDEN.files[COMPLETE])
    (tmp_path / INDEX).write_bytes(data)
    if holds(lambda: read_index(tmp_path, GOLDEN.plan)):
        rows = read_index(tmp_path, GOLDEN.plan)
        assert len(rows.status) == len(rows.k) == len(GOLDEN.rows)


@FUZZ
@given(any_json("complete"))
def test_complete(tmp_path: Path, data: bytes) -> None:
    (tmp_path / COMPLETE).write_bytes(data)
    (tmp_path / INDEX).write_bytes(GOLDEN.files[INDEX])
    if holds(lambda: read_index(tmp_path, GOLDEN.plan)):
        assert data == GOLDEN.files[COMPLETE]


@FUZZ
@pytest.mark.parametrize("name", ["dino", "rle"])
@given(
    mutated(seeds("metadata"))
    | mutated_json(seeds("metadata")).map(lambda v: json.dumps(v).encode())
)
def test_metadata(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / "zarr.json"
    path.write_bytes(data)
    holds(lambda: check_document(path, DOCUMENTS[f"{name}/zarr.json"]))


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
        opened = ShardFile(file, spec, GOLDEN.plan.shard_size)
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
