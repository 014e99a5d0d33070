"""A cache that lies in a store: the same content, byte for byte, and the same answers."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from svp.pipeline.cache import create_cache, finalize, read_committed, write_shard
from svp.pipeline.cache import writer as writer_module
from svp.pipeline.cache.exchange import copy_cache, drop_layers
from svp.pipeline.cache.info import info
from svp.pipeline.cache.layout import shard_key
from svp.pipeline.cache.manifest import missing_shards
from svp.pipeline.cache.plan import Plan, all_plans
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.cache.shard_file import OpenFiles, ShardFile
from svp.pipeline.cache.stats import stats
from svp.pipeline.cache.verify import repair, uncommit, verify
from svp.pipeline.errors import CacheError, ConfigError, MissingError
from svp.pipeline.records import ImageRow
from svp.pipeline.store import MemoryStore, OtherBytesError, Store, open_folder

Files = dict[str, bytes]


def files_of(store: Store) -> Files:
    """Content of a cache; logs are none."""
    return {
        key: store.read(key, 1 << 30) for key, _ in store.sizes() if not key.startswith("logs/")
    }


@pytest.fixture
def place() -> Store:
    return MemoryStore(uuid4().hex)


def fill(place: Store, made: Any, shards: Any = None) -> None:
    plan = made.plan
    create_cache(place, plan)
    for shard in range(plan.num_shards) if shards is None else shards:
        rows = made.rows[shard * plan.shard_size : (shard + 1) * plan.shard_size]
        write_shard(place, plan, shard, rows, {})


def everything(reader: CacheReader, i: int) -> list[bytes]:
    arrays = [reader.features(i), reader.cover(i), reader.sspe_masks(i), reader.areas(i)]
    found = reader.superpixels(i)
    return [array.tobytes() for array in arrays] + [*found.rles, found.predicted_iou.tobytes()]


def test_a_cache_in_a_store_has_the_bytes_of_one_in_a_folder(cache: Any, place: Store) -> None:
    fill(place, cache)
    finalize(place, cache.plan, read_committed(place, cache.plan))
    assert files_of(place) == files_of(open_folder(cache.path))
    ours, theirs = CacheReader(place), CacheReader(cache.path)
    assert ours.complete and ours.plan == theirs.plan
    for i in range(len(theirs)):
        assert ours.status(i) == theirs.status(i)
        if theirs.status(i) == "ok":
            assert everything(ours, i) == everything(theirs, i)
    assert verify(place, full=True) == verify(cache.path, full=True)
    assert info(place) == info(cache.path) and stats(place) == stats(cache.path)


def test_many_rows_at_once_are_the_rows(cache: Any, place: Store) -> None:
    copy_cache(cache.path, place)
    for reader in (CacheReader(place), CacheReader(cache.path)):
        rows = [i for i in range(len(reader)) if reader.status(i) == "ok"][::-1]
        features = np.full((len(rows), reader.plan.patches, reader.plan.channels), 9, np.float16)
        reader.gather(rows, {"features": [*features]}, ["area", "cover", "sspe_masks"])
        for at, i in enumerate(rows):
            assert np.array_equal(features[at], CacheReader(cache.path).features(i))
            assert everything(reader, i) == everything(CacheReader(cache.path), i)


def test_a_row_of_a_store_that_is_damaged_is_refused(cache: Any, place: Store) -> None:
    copy_cache(cache.path, place)
    key = next(key for key, _ in place.sizes() if "/dino/c/0/" in key)
    data = bytearray(place.read(key, 1 << 30))
    data[3] ^= 1
    place.replace(key, bytes(data))
    reader = CacheReader(place)
    out = np.empty((reader.plan.patches, reader.plan.channels), np.float16)
    for _ in range(2):  # every time: what is fetched is never trusted
        with pytest.raises(CacheError, match=r"image .* row 0 fails its checksum"):
            reader.gather([0], {"features": [out]})
    (bad,) = {shard for shard in verify(place, full=True).bad_shards}
    assert repair(place) == [bad] == [0]
    assert CacheReader(place).status(0) == "missing"
    fill(place, cache)
    finalize(place, cache.plan, read_committed(place, cache.plan))
    assert files_of(place) == files_of(open_folder(cache.path))


def test_quarantined_and_missing_rows_are_told(cache: Any, place: Store) -> None:
    fill(place, cache, [0])
    reader = CacheReader(place)
    bad = next(i for i, row in enumerate(cache.rows) if not isinstance(row, ImageRow))
    out = np.empty((reader.plan.patches, reader.plan.channels), np.float16)
    last = len(reader) - 1
    for row, why in ((bad, "quarantined"), (last, "not computed yet in memory://")):
        with pytest.raises(CacheError, match=why):
            reader.gather([row], {"features": [out]})
    missing = missing_shards(place, cache.plan, read_committed(place, cache.plan))
    assert [*missing] == [*range(1, cache.plan.num_shards)]


def test_plans_are_added_and_dropped(cache: Any, place: Store) -> None:
    copy_cache(cache.path, place)
    before = files_of(place)
    features = cache.plan.recipe.features.model_copy(update={"view": "pad"})
    plan = replace(cache.plan, recipe=cache.plan.recipe.model_copy(update={"features": features}))
    view = create_cache(place, plan, view=True)
    assert view.startswith("views/0001-") and all_plans(place)[view] == plan
    added = {layer.folder for layer in plan.layers} - {x.folder for x in cache.plan.layers}
    assert drop_layers(place, sorted(added)) == sorted(added) != []
    assert files_of(place) == before
    uncommit(place, cache.plan.layer("cover"), [0])
    assert CacheReader(place).status(0) == "missing"


def test_there_is_no_cache_or_something_else(place: Store, cache: Any) -> None:
    with pytest.raises(MissingError, match="memory://.* not a cache of svp"):
        Plan.load(place)
    place.create("notes.txt", [b"mine"])
    with pytest.raises(CacheError, match="not empty and no cache of svp"):
        create_cache(place, cache.plan)


# Writers that do not agree.


@pytest.fixture(params=["folder", "memory"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_folder(tmp_path / "c") if request.param == "folder" else MemoryStore(uuid4().hex)


def other(rows: Any) -> Any:
    """The same images with other features, as another kind of GPU gives them."""
    return [
        replace(row, patches=row.patches + np.float16(1)) if isinstance(row, ImageRow) else row
        for row in rows
    ]


def test_what_is_committed_is_never_replaced(shared: Store, made: Any) -> None:
    create_cache(shared, made.plan)
    rows = made.rows[: made.plan.shard_size]
    write_shard(shared, made.plan, 0, rows, {}, who="node1, A100")
    before = files_of(shared)
    write_shard(shared, made.plan, 0, rows, {}, who="node2, A100")  # equal bytes agree
    with pytest.raises(OtherBytesError, match="by node1, A100, now .* by node3, H100"):
        write_shard(shared, made.plan, 0, other(rows), {}, who="node3, H100")
    assert files_of(shared) == before and verify(shared, full=True).ok


def stop_before_manifests(store: Store, plan: Plan, rows: Any, who: str) -> None:
    """What a writer leaves that is killed after its files and before the first manifest."""

    class Killed(BaseException):
        pass

    def killed(*args: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(writer_module, "_commit", killed)
        write_shard(store, plan, 0, rows, {}, who=who)


@pytest.mark.parametrize("how", ["dead", "old", "own", "living"])
def test_what_a_dead_writer_left_is_cleared_and_a_living_ones_is_not(
    shared: Store, made: Any, how: str, monkeypatch: pytest.MonkeyPatch, dead_writer: str
) -> None:
    create_cache(shared, made.plan)
    rows = made.rows[: made.plan.shard_size]
    who = {"dead": dead_writer, "own": "me"}.get(how, "elsewhere, process 12345678-1")
    stop_before_manifests(shared, made.plan, other(rows), who)
    if how == "old":
        later = time.time() + writer_module.LEASE_S + 1
        monkeypatch.setattr(time, "time", lambda: later)
    if how == "living":
        with pytest.raises(OtherBytesError, match="elsewhere, process 12345678-1"):
            write_shard(shared, made.plan, 0, rows, {}, who="me")
        # The remedy of the message: nobody is at work, what no manifest names goes.
        assert repair(shared) == []
    write_shard(shared, made.plan, 0, rows, {}, who="me")
    assert CacheReader(shared).status(0) == "ok" and verify(shared, full=True).ok


def test_two_may_clear_at_once_what_a_dead_writer_left(
    shared: Store, made: Any, monkeypatch: pytest.MonkeyPatch, dead_writer: str
) -> None:
    """The slower one is told of the faster one, which is at work, and takes nothing from it."""
    create_cache(shared, made.plan)
    rows = made.rows[: made.plan.shard_size]
    stop_before_manifests(shared, made.plan, other(rows), dead_writer)
    left = next(key for key, _ in shared.sizes() if "/dino/c/0/" in key)
    delete, faster = type(shared).delete, "elsewhere, process 12345678-1"

    def later(store: Store, key: str, if_match: str | None = None) -> bool:
        if key == left and store.stat(key).maker == dead_writer:
            delete(store, key)
            store.create(key, [b"of the faster one"], who=faster)
        return delete(store, key, if_match)

    with monkeypatch.context() as patch, pytest.raises(OtherBytesError, match=faster):
        patch.setattr(type(shared), "delete", later)
        write_shard(shared, made.plan, 0, rows, {}, who="me")
    assert shared.read(left, 100) == b"of the faster one"


def test_a_slow_writer_gives_up_before_its_files_may_be_cleared(
    shared: Store, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_cache(shared, made.plan)
    monkeypatch.setattr(writer_module, "LEASE_S", -1.0)
    with pytest.raises(CacheError, match="too slow"):
        write_shard(shared, made.plan, 0, made.rows[: made.plan.shard_size], {})
    assert not read_committed(shared, made.plan).of(made.plan.layers[0])


def test_files_of_the_loser_are_not_left_among_those_of_the_commit(
    shared: Store, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the commit is lost; another writer makes it anew with other bytes, and is refused."""
    create_cache(shared, made.plan)
    rows = made.rows[: made.plan.shard_size]
    write_shard(shared, made.plan, 0, rows, {})
    lost = next(key for key, _ in shared.sizes() if "/dino/c/0/" in key)
    shared.delete(lost)
    with pytest.raises(OtherBytesError, match=r"manifest/0\.json"):
        write_shard(shared, made.plan, 0, other(rows), {})
    assert not shared.sizes_of([lost]), "missing is seen, other bytes of one size are not"
    missing = missing_shards(shared, made.plan, read_committed(shared, made.plan))
    assert [layer.kind for layer in missing[0]] == ["features"]


@pytest.fixture
def dead_writer() -> str:
    """`who` of a process of this machine that has ended."""
    import subprocess
    import sys

    code = "from svp.pipeline.store import this_writer; print(this_writer())"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return made.stdout.strip()


def test_a_cache_made_by_two_at_once_has_one_plan(shared: Store, made: Any, planner: Any) -> None:
    """The slower one joins, or is refused as if it had come later."""
    create = type(shared).create
    calls: list[str] = []

    def first(store: Store, key: str, *args: Any, **names: Any) -> Any:
        if key == "plan.json" and not calls:
            calls.append(key)
            create_cache(store, made.plan)
        return create(store, key, *args, **names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(shared), "create", first)
        assert create_cache(shared, made.plan) == "plan.json"
    assert calls and Plan.load(shared) == made.plan


# What a reader of a store keeps.


def test_indices_of_a_store_are_all_kept_and_files_of_a_folder_are_not(
    cache: Any, place: Store
) -> None:
    """Of COCO's 1,849 shards a random batch needs another part each time."""
    copy_cache(cache.path, place)
    spec = next(spec for spec in cache.plan.arrays if spec.name == "dino")
    kept = {}
    for store in (place, open_folder(cache.path)):
        files = OpenFiles()
        opened = ShardFile(store, shard_key(spec, 0), spec, cache.plan.shard_size)
        for shard in range(4000):
            files.get(("dino", shard), lambda opened=opened: opened)
        kept[type(store)] = sum(("dino", shard) in files for shard in range(4000))
    assert [*kept.values()] == [4000, 128]


def test_a_batch_may_hold_a_row_twice_and_wrong_requests_are_told(cache: Any, place: Store) -> None:
    copy_cache(cache.path, place)
    for reader in (CacheReader(place), CacheReader(cache.path)):
        shape = (reader.plan.patches, reader.plan.channels)
        twice = [np.empty(shape, np.float16) for _ in range(2)]
        reader.gather([1, 1], {"features": twice})
        assert all(np.array_equal(out, reader.features(1)) for out in twice)
        for row in (-1, len(reader)):
            with pytest.raises(CacheError, match=f"row {row}: rows are 0 to"):
                reader.gather([row], {"features": twice[:1]})
        for out in (np.empty(shape[::-1], np.float16).T, np.empty(shape, np.float32)):
            with pytest.raises(ConfigError, match="out is"):
                reader.gather([0], {"features": [out]})
