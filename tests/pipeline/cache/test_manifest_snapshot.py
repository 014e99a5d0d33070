"""Copies of manifests: what a resume asks a store for, and copies that must not be believed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from numcodecs import zstd

from support.object_server import ObjectServer
from svp.pipeline.bench.scale_probe import small_plan
from svp.pipeline.cache import create_cache, write_shard
from svp.pipeline.cache import manifest as module
from svp.pipeline.cache.exchange import drop_layers
from svp.pipeline.cache.image_list import COLUMNS
from svp.pipeline.cache.layers import CLS, SUPERPIXELS, Layer
from svp.pipeline.cache.layout import (
    LOGS,
    PLAN,
    manifest_key,
    shard_key,
    snapshot_folder,
    snapshot_key,
)
from svp.pipeline.cache.made_by import note_code
from svp.pipeline.cache.manifest import (
    FileEntry,
    Manifest,
    missing_shards,
    read_committed,
    read_manifest,
)
from svp.pipeline.cache.manifest_snapshot import load_snapshot
from svp.pipeline.cache.plan import Plan, all_plans
from svp.pipeline.cache.verify import uncommit, uncommit_damaged
from svp.pipeline.store import MemoryStore, Store, open_store

SHARDS = 1100


def manifest_of(layer: Layer, shard: int) -> Manifest:
    """Of files of one byte each."""
    files = {spec.name: FileEntry(bytes=1, xxh3="0" * 16) for spec in layer.arrays}
    k = [1] * len(layer.rows(shard)) if layer.kind == SUPERPIXELS else []
    return Manifest(layer=layer.id, shard=shard, files=files, k=k).sealed()


def resume(place: Store, plan: Plan) -> list[int]:
    """What `svp precompute` asks of the store of a cache before it computes; missing shards."""
    assert all_plans(place)
    create_cache(place, plan)
    committed = read_committed(place, plan, snapshot=True)
    missing = missing_shards(place, plan, committed)
    uncommit_damaged(place, committed, missing)
    note_code(place, plan.layers)
    return [*missing]


def test_a_resume_lists_a_bucket_and_reads_little_more(bucket: ObjectServer) -> None:
    plan, place = small_plan(SHARDS, 1), open_store("s3://tests/c")
    create_cache(place, plan)
    bucket.put_many({
        f"tests/c/{manifest_key(layer.folder, s)}": manifest_of(layer, s).data().decode()
        for layer in plan.layers for s in range(SHARDS - 30)
    })  # fmt: skip
    bucket.put_many({
        f"tests/c/{shard_key(spec, s)}": "x" for spec in plan.arrays for s in range(SHARDS - 30)
    })  # fmt: skip
    left, layers = [*range(SHARDS - 30, SHARDS)], len(plan.layers)
    assert resume(place, plan) == left
    bucket.set()
    assert resume(place, plan) == left
    counts = bucket.counts()
    # Two pages of names for each array and for the manifests of each layer; views and image lists.
    assert counts["LIST"] <= 2 * (len(plan.arrays) + layers) + 3
    # The snapshot and layer.json of each layer; plan with its columns, twice; who made it
    once = 2 * layers + 2 * (1 + len(COLUMNS)) + 5
    assert counts["GET"] + counts["HEAD"] + counts["PUT"] <= once


@pytest.fixture
def place() -> Store:
    return MemoryStore(uuid4().hex)


@pytest.fixture
def made(place: Store, maker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cache of five shards, its manifests copied."""
    monkeypatch.setattr(module, "FEW", 2)
    made = maker(20, bad=[2], cls=True)
    create_cache(place, made.plan)
    for shard in range(5):
        write_shard(place, made.plan, shard, made.rows[4 * shard : 4 * shard + 4], {})
    read_committed(place, made.plan, snapshot=True)
    return made


def reads(monkeypatch: pytest.MonkeyPatch, place: Store, plan: Plan) -> list[str]:
    """Manifests that a resume reads; its outcome is that of a resume without copies."""
    found: list[str] = []
    whole = MemoryStore.read_many

    def read_many(self: MemoryStore, given: Any) -> None:
        found.extend(read.key for read in given)
        whole(self, given)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "read_many", read_many)
        with_copies = read_committed(place, plan, snapshot=True)
    assert with_copies == read_committed(place, plan)
    return sorted(found)


def test_a_manifest_that_was_made_anew_is_read(
    made: Any, place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reads(monkeypatch, place, made.plan) == []
    layer = made.plan.layers[0]
    uncommit(place, layer, [1])
    assert reads(monkeypatch, place, made.plan) == []
    write_shard(place, made.plan, 1, made.rows[4:8], {}, layers=[layer])
    assert read_manifest(place, layer, 1)
    read = reads(monkeypatch, place, made.plan)
    assert read in ([], [manifest_key(layer.folder, 1)]), "equal bytes may have an equal tag"


def test_another_manifest_of_the_name_is_not_answered_from_its_copy(
    made: Any, place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = made.plan.layers[0]
    key = manifest_key(layer.folder, 3)
    other = read_manifest(place, layer, 3).model_copy(update={"fallback": [1]}).sealed()
    place.replace(key, other.data())
    assert reads(monkeypatch, place, made.plan) == [key]
    assert read_committed(place, made.plan, snapshot=True).of(layer)[3].fallback == [1]
    place.replace(key, b"not a manifest")
    assert read_committed(place, made.plan, snapshot=True).damaged == {(layer.folder, 3)}


def test_without_tags_every_manifest_is_read(
    made: Any, place: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of an unknown version, beside a file of an unknown version, proves nothing."""
    whole = MemoryStore.stats

    def stats(self: MemoryStore, prefix: str = "") -> Any:
        return ((key, replace(found, tag="")) for key, found in whole(self, prefix))

    monkeypatch.setattr(MemoryStore, "stats", stats)
    every = sorted(manifest_key(layer.folder, s) for layer in made.plan.layers for s in range(5))
    assert reads(monkeypatch, place, made.plan) == every
    assert reads(monkeypatch, place, made.plan) == every
    assert not load_snapshot(place, made.plan.layers[0], 0)


def test_the_copies_of_a_dropped_layer_go_with_it(made: Any, place: Store) -> None:
    assert len(drop_layers(place, [CLS])) == 1
    held = {key.rsplit("/", 1)[0] for key, _ in place.sizes(f"{LOGS}/manifests")}
    assert held == {snapshot_folder(one.folder) for one in all_plans(place)[PLAN].layers}


@pytest.mark.parametrize("spoil", ["cut", "flipped", "no frame", "bomb", "other layer", "a copy"])
def test_a_damaged_snapshot_costs_reads_alone(
    made: Any, place: Store, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    layer = made.plan.layers[0]
    key = snapshot_key(layer.folder, 0)
    data = place.read(key, 1 << 20)
    text = zstd.decompress(data)
    half = len(data) // 2
    spoilt = {
        "cut": data[:half],
        "flipped": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
        "no frame": text,
        "bomb": zstd.compress(bytes(300 << 20), 1, checksum=True),
        "other layer": zstd.compress(
            text.replace(layer.id.encode(), b"0" * 64, 1), 1, checksum=True
        ),
        "a copy": zstd.compress(text.replace(b'"shard\\":3', b'"shard\\":2'), 1, checksum=True),
    }[spoil]
    assert spoilt != data
    place.replace(key, spoilt)
    few = 1 if spoil == "a copy" else 5
    own = [manifest_key(layer.folder, s) for s in ([3] if few == 1 else range(5))]
    assert reads(monkeypatch, place, made.plan) == own
    assert len(load_snapshot(place, layer, 0)) == 5
    # It is written anew where that spares reads.
    assert reads(monkeypatch, place, made.plan) == (own if few == 1 else [])
