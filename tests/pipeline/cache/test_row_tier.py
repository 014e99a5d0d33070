"""The row tier: rows that were fetched once are read from the disk, and never other bytes."""

import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from support import ROOT
from support.object_server import ObjectServer
from support.small_cache import Made, make_plan, make_rows
from svp.pipeline.cache import (
    Plan,
    create_cache,
    finalize,
    read_committed,
    tier_writer,
    write_shard,
)
from svp.pipeline.cache.exchange import copy_cache
from svp.pipeline.cache.layout import shard_key
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.cache.row_tier import ROWS, RowTier
from svp.pipeline.cache.tier_space import IN_USE, UNREAD, USED, TierSpace
from svp.pipeline.cache.verify import uncommit
from svp.pipeline.errors import CacheError, ConfigError
from svp.pipeline.records import ImageRow
from svp.pipeline.store import MemoryStore, Store, as_place, open_store

LARGE = 1 << 30
SMALL = ("area", "cover", "sspe_masks")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Ten images in three shards, row 2 quarantined, with every array."""
    plan = make_plan(layers=(1, 2), cls=True)
    made = Made(tmp_path_factory.mktemp("full") / "cache", plan, make_rows(plan, bad=[2]))
    made.write()
    made.finish()
    return made


@pytest.fixture
def stored(full: Made) -> Store:
    """The same in memory."""
    place, source = MemoryStore(uuid4().hex), open_store(full.path)
    for key, _ in source.sizes():
        place.create(key, [source.read(key, LARGE)])
    return place


def in_memory(plan: Plan) -> Store:
    """A complete cache of a plan."""
    place, rows = MemoryStore(uuid4().hex), make_rows(plan)
    create_cache(place, plan)
    for shard in range(plan.num_shards):
        own = rows[shard * plan.shard_size : (shard + 1) * plan.shard_size]
        write_shard(place, plan, shard, own, {})
    finalize(place, plan, read_committed(place, plan))
    return place


@pytest.fixture
def tier(tmp_path: Path) -> RowTier:
    return RowTier(tmp_path / "tier", LARGE)


def batch(reader: CacheReader) -> dict[str, np.ndarray[Any, Any]]:
    """The good rows of a cache, read as training reads them, and one by one."""
    rows = np.flatnonzero(reader.counts).tolist()
    plan = reader.plan
    assert plan.sam is not None
    out = {
        "features": np.full((len(rows), plan.patches, plan.channels), 9, np.float16),
        "sam": np.full((len(rows), *plan.sam), 9, np.float16),
    }
    reader.gather(rows, {name: [*values] for name, values in out.items()}, SMALL)
    alone = {"cls": reader.cls, "layers": reader.layers}
    out |= {name: np.stack([read(i) for i in rows]) for name, read in alone.items()}
    for name in ("areas", "cover", "sspe_masks"):
        out[name] = np.concatenate([getattr(reader, name)(i).ravel() for i in rows])
    return out


def same(a: dict[str, np.ndarray[Any, Any]], b: dict[str, np.ndarray[Any, Any]]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def files(tier: RowTier, array: str = "*") -> list[Path]:
    return sorted(tier.root.glob(f"*/{array}/*-*"))


def bytes_of(tier: RowTier) -> int:
    return sum(path.stat().st_blocks * 512 for path in files(tier))


def filled(place: Store, tier: RowTier) -> None:
    batch(CacheReader(place, tier=tier))
    tier.settle()


def test_what_was_fetched_once_is_read_without_a_request(
    full: Made, bucket: ObjectServer, tmp_path: Path
) -> None:
    place = as_place("s3://tests/c")
    copy_cache(full.path, place)
    first = RowTier(tmp_path / "tier", LARGE)
    reader, wanted = CacheReader(place, tier=first), batch(CacheReader(full.path))
    assert same(batch(reader), wanted)
    first.settle()
    assert first.counts.served == 0 and first.counts.fetched > 0
    bucket.set()
    assert same(batch(reader), wanted) and not bucket.counts()
    # Another process, as in the next run: of rows and files of rows nothing is asked.
    again = RowTier(tmp_path / "tier", LARGE)
    reader = CacheReader(place, "off", tier=again)
    opened = bucket.counts()
    assert same(batch(reader), wanted)
    asked = sum(bucket.counts().values()) - sum(opened.values())
    assert asked == 7, "the zarr.json of each array"
    assert again.counts.fetched == again.counts.damaged == 0


def test_the_tier_is_as_the_shard_files_are(full: Made, stored: Store, tier: RowTier) -> None:
    filled(stored, tier)
    for spec, path in ((s, p) for s in full.plan.arrays for p in files(tier, s.name)):
        shard, _, _ = path.name.partition("-")
        original = (full.path / shard_key(spec, int(shard))).read_bytes()
        kept = path.read_bytes()
        assert kept == original if spec.level is None else kept[:-16] == original
    assert len(files(tier, "dino")) == full.plan.num_shards
    assert 0 < bytes_of(tier) <= TierSpace(tier.root, LARGE).used()
    # What is there is not written once more.
    before = {path: path.stat().st_mtime_ns for path in files(tier)}
    other = RowTier(tier.folder, LARGE)
    for path in files(tier):
        other._keep(path, path.stat().st_size, path.read_bytes()[-20:], 0, [])
    other.settle()
    assert {path: path.stat().st_mtime_ns for path in files(tier)} == before


@pytest.mark.parametrize("array", ["dino", "sam", "cls", "layers", "area", "cover"])
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_flipped_bit_is_fetched_again_and_told_once(
    stored: Store, tier: RowTier, array: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(stored, tier)
    path = files(tier, array)[0]
    data = bytearray(path.read_bytes())
    data[{"start": 0, "middle": len(data) // 2, "end": -1}[place]] ^= 16
    path.write_bytes(data)
    wanted = batch(CacheReader(stored))
    counts = []
    with caplog.at_level(logging.WARNING, "svp"):
        for _ in range(2):
            again = RowTier(tier.folder, LARGE)
            assert same(batch(CacheReader(stored, tier=again)), wanted)
            again.settle()
            counts.append(again.counts)
    assert [one.damaged for one in counts] == [1, 0]
    assert [one.fetched for one in counts][1] == 0
    assert [line for line in caplog.messages if "fails its checksum" in line] == [
        line for line in caplog.messages if str(path) in line
    ]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("array", ["dino", "area"])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_a_file_that_was_cut_is_fetched_again(
    stored: Store, tier: RowTier, array: str, left: float
) -> None:
    filled(stored, tier)
    wanted = batch(CacheReader(stored))
    reader = CacheReader(stored, tier=RowTier(tier.folder, LARGE))
    batch(reader)  # its index is known to this one
    for path in files(tier, array):
        whole = path.read_bytes()
        os.truncate(path, int(len(whole) * left))
    assert same(batch(reader), wanted)
    reader._tier.settle()
    again = RowTier(tier.folder, LARGE)
    assert same(batch(CacheReader(stored, tier=again)), wanted)
    again.settle()
    last = RowTier(tier.folder, LARGE)
    assert same(batch(CacheReader(stored, tier=last)), wanted)
    assert last.counts.fetched == last.counts.damaged == 0


def test_rows_of_a_shard_that_was_made_again_are_never_served(
    full: Made, stored: Store, tier: RowTier
) -> None:
    filled(stored, tier)
    plan = full.plan
    for layer in plan.layers:
        uncommit(stored, layer, [1])
    rows = [
        replace(row, patches=row.patches + np.float16(1)) if isinstance(row, ImageRow) else row
        for row in full.shard_rows(1)
    ]
    write_shard(stored, plan, 1, rows, {})
    again = RowTier(tier.folder, LARGE)
    # While it is incomplete its manifests tell, later the index.
    for served in (True, False):
        reader = CacheReader(stored, tier=again)
        assert reader.complete is not served
        found = batch(reader)
        assert same(found, batch(CacheReader(stored)))
        again.settle()
        finalize(stored, plan, read_committed(stored, plan))
    assert again.counts.fetched and again.counts.damaged == 0
    assert {path.name[:2] for path in files(tier, "dino")} == {"0-", "1-", "2-"}
    assert len(files(tier, "dino")) == 4 and len(files(tier, "area")) == 3


def test_another_cache_has_files_of_its_own_and_a_copy_the_same(
    full: Made, stored: Store, tier: RowTier
) -> None:
    filled(stored, tier)
    copy = MemoryStore(uuid4().hex)
    copy_cache(full.path, copy)
    filled(copy, again := RowTier(tier.folder, LARGE))
    assert again.counts.fetched == 0
    other, another = in_memory(make_plan(9, layers=(1, 2), cls=True)), RowTier(tier.folder, LARGE)
    reader = CacheReader(other, tier=another)
    assert same(batch(reader), batch(CacheReader(other)))
    assert another.counts.served == 0


def test_the_files_of_a_folder_are_read_where_they_are(full: Made, tier: RowTier) -> None:
    filled(open_store(full.path), tier)
    assert not tier.folder.exists()


def test_a_row_that_is_wrong_in_the_store_is_refused_and_not_kept(
    stored: Store, tier: RowTier
) -> None:
    key = next(key for key, _ in stored.sizes() if "/dino/c/0/" in key)
    data = bytearray(stored.read(key, LARGE))
    data[3] ^= 1
    stored.replace(key, bytes(data))
    reader = CacheReader(stored, tier=tier)
    out = np.empty((reader.plan.patches, reader.plan.channels), np.float16)
    for _ in range(2):
        with pytest.raises(CacheError, match=r"image .* row 0 fails its checksum"):
            reader.gather([0], {"features": [out]})
        with pytest.raises(CacheError, match=r"image .* row 0 fails its checksum"):
            CacheReader(stored, "always", tier=tier).features(0)
        tier.settle()
    assert tier.counts.served == tier.counts.damaged == 0


def test_a_tier_travels_with_its_reader(stored: Store, tier: RowTier) -> None:
    filled(stored, tier)
    reader = CacheReader(stored, "always", tier=tier)
    ours, theirs = (pickle.loads(pickle.dumps(reader)) for _ in range(2))
    assert ours._tier is theirs._tier and ours._tier.counts.fetched == 0
    batch(ours)
    assert theirs._tier.counts.served > 0 and ours._tier.limit == tier.limit


# Space.


def sized(images: int) -> tuple[Store, int]:
    """A cache in memory with rows of 36 disk blocks, and the bytes of all its rows."""
    plan = replace(make_plan(images), grid=(96, 96))
    return in_memory(plan), images * plan.patches * plan.channels * 2


def read_all(place: Store, tier: RowTier) -> None:
    """Every feature row by itself, as training does in some order."""
    reader = CacheReader(place, tier=tier)
    for i in np.random.default_rng(0).permutation(len(reader)).tolist():
        reader.features(i)
        tier.settle()


def age(tier: RowTier, seconds: float, layer: str = "*") -> None:
    when = time.time() - seconds
    for path in (*tier.root.glob(f"{layer}/*/*"), *tier.root.glob(f"{layer}/{USED}")):
        os.utime(path, (when, when))


def test_a_tier_that_is_too_small_keeps_what_it_has(tmp_path: Path) -> None:
    place, total = sized(40)
    limit = total // 2
    for _ in range(2):
        tier = RowTier(tmp_path / "tier", limit)
        read_all(place, tier)
        assert 0 < bytes_of(tier) <= limit
        read_all(place, tier)
    # Half of the rows are served at every epoch: by least recent use it would be 15 %.
    assert 0.35 * 40 < tier.counts.served / 2 < 0.55 * 40
    assert tier.counts.served + tier.counts.fetched == 2 * 40


def test_rows_that_nobody_reads_make_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (old, total), (new, _) = sized(20), sized(24)
    limit = total * 13 // 10
    filled_by = RowTier(tmp_path / "tier", limit)
    read_all(old, filled_by)
    names = {path for path in files(filled_by)}
    # The other cache is being read: it stays, and what does not fit is told once.
    tier = RowTier(tmp_path / "tier", limit)
    with caplog.at_level(logging.INFO, "svp"):
        read_all(new, tier)
    assert names <= {*files(tier)} and bytes_of(tier) <= limit
    assert [line for line in caplog.messages if "are full" in line] == caplog.messages != []
    # Nobody reads it any more.
    age(tier, IN_USE + 1)
    tier = RowTier(tmp_path / "tier", limit)
    read_all(new, tier)
    read_all(new, again := RowTier(tmp_path / "tier", limit))
    assert again.counts.fetched == 0 and bytes_of(tier) <= limit


def test_the_longest_unused_goes_first_and_empty_folders_too(tmp_path: Path) -> None:
    root = tmp_path / "tier" / ROWS
    space = TierSpace(root, 10 * 4096)
    space.open()
    for layer, hours in (("a", 3), ("b", 2), ("c", 1)):
        path = root / layer / "dino" / "0-1"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 4096 * 3)
        when = time.time() - 3600 * hours
        os.utime(path, (when, when))
        assert space.take(3 * 4096)
    assert not space.take(3 * 4096)
    assert space.evict(3 * 4096, lambda *_: True) and space.take(3 * 4096)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["b", "c"]
    # One that is in use stays, unless no epoch has read it for a week.
    (root / "b" / USED).touch()
    assert space.evict(3 * 4096, lambda *_: True)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["b"]
    assert not space.evict(8 * 4096, lambda *_: True)
    when = time.time() - UNREAD - 1
    os.utime(root / "b" / "dino" / "0-1", (when, when))
    assert space.evict(7 * 4096, lambda *_: True)
    space.close()


def test_files_of_a_shard_that_is_no_more_make_place(stored: Store, tier: RowTier) -> None:
    filled(stored, tier)
    (layer,) = {path.parent.parent.name for path in files(tier, "dino")}
    stale = tier.root / layer / "dino" / f"1-{5:016x}"
    stale.write_bytes(b"x" * 9000)
    strange = stale.with_name("notes")
    strange.write_bytes(b"x")
    space = TierSpace(tier.root, bytes_of(tier))
    space.evict(1, tier._mine)
    assert not stale.exists() and not strange.exists()
    assert files(tier)


def test_a_process_that_is_alone_counts_again(stored: Store, tier: RowTier) -> None:
    filled(stored, tier)
    counted = bytes_of(tier)
    ours, theirs = TierSpace(tier.root, LARGE), TierSpace(tier.root, LARGE)
    tier._writer._space.close()
    (tier.root / "bytes").write_bytes((counted + 12345).to_bytes(8, "little"))
    ours.open()
    assert ours.used() == counted
    assert ours.take(500)
    theirs.open()  # what the first has taken and not written is not forgotten
    assert theirs.used() == counted + 500
    ours.close()
    theirs.close()


def test_the_folder_may_be_deleted_meanwhile(stored: Store, tier: RowTier) -> None:
    import shutil

    reader = CacheReader(stored, tier=tier)
    wanted = batch(reader)
    tier.settle()
    shutil.rmtree(tier.folder)
    assert same(batch(reader), wanted)
    tier.settle()
    before = tier.counts.fetched
    assert same(batch(reader), wanted) and tier.counts.fetched == before
    assert bytes_of(tier) <= TierSpace(tier.root, LARGE).used()


# Faults of the disk.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_told_once_and_tried_again(
    stored: Store, tier: RowTier, code: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    wanted, pwrite = batch(CacheReader(stored)), os.pwrite

    def refuse(fd: int, data: Any, offset: int) -> int:
        if len(data) == 8:
            return pwrite(fd, data, offset)
        if offset == 0:
            return pwrite(fd, data[: len(data) // 2], offset)
        raise OSError(code, os.strerror(code))

    reader = CacheReader(stored, tier=tier)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "svp"):
        patch.setattr(tier_writer.os, "pwrite", refuse)
        for _ in range(3):
            assert same(batch(reader), wanted)
            tier.settle()
            tier._writer._paused = 0.0
    assert [os.strerror(code) in line for line in caplog.messages] == [True]
    # The disk is well again.
    assert same(batch(reader), wanted)
    tier.settle()
    again = RowTier(tier.folder, LARGE)
    assert same(batch(CacheReader(stored, tier=again)), wanted)
    assert again.counts.damaged == 0


def test_a_disk_that_is_smaller_than_the_limit_loses_what_nobody_reads(
    stored: Store, tier: RowTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(
        in_memory(make_plan(4, sam_stored="float16", cls=True, layers=(1,))),
        other := RowTier(tier.folder, LARGE),
    )
    unread = files(other)
    age(other, IN_USE + 1)
    pwrite = os.pwrite

    def refuse(fd: int, data: Any, offset: int) -> int:
        if len(data) > 8 and any(path.exists() for path in unread):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    for _ in range(2):
        filled(stored, tier)
        tier._writer._paused = 0.0
    assert not any(path.exists() for path in unread)
    again = RowTier(tier.folder, LARGE)
    batch(CacheReader(stored, tier=again))
    assert again.counts.served > 0 and again.counts.damaged == 0


def test_a_folder_that_cannot_be_made_is_told_once(
    stored: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tier = RowTier(tmp_path / "in" / "tier", LARGE)
    (tmp_path / "in").write_text("a file by now")
    with caplog.at_level(logging.WARNING, "svp"):
        assert same(batch(CacheReader(stored, tier=tier)), batch(CacheReader(stored)))
        tier.settle()
    assert 1 <= len(caplog.messages) <= 2 and all("Not a directory" in x for x in caplog.messages)


def test_a_reader_is_not_slowed_by_a_disk_that_is(
    stored: Store, tier: RowTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier_writer, "WAITING", 0)
    filled(stored, tier)
    assert files(tier, "area") == [] and tier.counts.fetched


KILLED = """
import os, signal, sys
from svp.pipeline.cache import tier_writer
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.cache.row_tier import RowTier
place, folder, limit, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pwrite, done = os.pwrite, []
def write(fd, data, offset):
    done.append(1)
    if len(done) == number:
        pwrite(fd, data[: len(data) // 2], offset)
        os.kill(os.getpid(), signal.SIGKILL)
    return pwrite(fd, data, offset)
if number:
    tier_writer.os.pwrite = write
tier = RowTier(folder, limit)
reader = CacheReader(place, tier=tier)
for k in range(len(reader)):
    i = k if number != 0 else len(reader) - 1 - k
    reader.status(i) == "ok" and (reader.features(i), reader.areas(i))
    tier.settle()
print(tier.counts.fetched)
"""


def start(place: object, tier: RowTier, number: int) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", KILLED, str(place), str(tier.folder), str(tier.limit)]
    return subprocess.Popen([*words, str(number)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_nothing_half_written_is_served_after_a_kill(
    full: Made, bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    place = as_place("s3://tests/c")
    copy_cache(full.path, place)
    wanted = batch(CacheReader(full.path))
    moments = (2, 3, 5, 7, 8)  # a counter, an index, a row, a file, its seal
    record_property("tried", len(moments))
    for number in moments:
        tier = RowTier(tmp_path / f"tier{number}", LARGE)
        child = start("s3://tests/c", tier, number)
        assert child.wait(60) == -signal.SIGKILL
        assert same(batch(CacheReader(place, tier=tier)), wanted)
        tier.settle()
        assert tier.counts.damaged == 0
        again = RowTier(tier.folder, LARGE)
        assert same(batch(CacheReader(place, tier=again)), wanted)
        # No lock, no leftover: what the killed one began is complete now.
        assert again.counts.fetched == again.counts.damaged == 0
        assert bytes_of(tier) <= TierSpace(tier.root, LARGE).used()


def test_processes_share_a_tier_and_its_limit(bucket: ObjectServer, tmp_path: Path) -> None:
    held, total = sized(24)
    place = as_place("s3://tests/c")
    copy_cache(held, place)
    tier = RowTier(tmp_path / "tier", total * 2 // 3)
    both = [start("s3://tests/c", tier, number) for number in (-1, 0)]
    for child in both:
        assert child.wait(120) == 0
        child.communicate()
    assert total // 4 < bytes_of(tier) <= tier.limit
    reader = CacheReader(place, tier=tier)
    for i in range(len(reader)):
        assert np.array_equal(reader.features(i), CacheReader(held).features(i))
    assert tier.counts.damaged == 0 and tier.counts.served > 0


# What is refused.


def test_a_tier_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, why in (
        ("s3://bucket/tier", "give a folder of this machine"),
        (tmp_path / "file", "is no folder"),
        (tmp_path / "file" / "in" / "it", "is no folder"),
    ):
        with pytest.raises(ConfigError, match=why):
            RowTier(folder, LARGE)
    for limit in (0, -1, "0", "5 XB", "TB", "-3GB", "1e3", 400 * "9" + "TB"):
        with pytest.raises(ConfigError, match="give bytes, such as 500GB"):
            RowTier(tmp_path / "tier", limit)
    assert RowTier(tmp_path / "tier", "1.5TiB").limit == 3 << 39


def test_a_size_below_a_batch_is_refused(full: Made, tmp_path: Path) -> None:
    row = 2 * (4 * 8 + 2 * 3 * 3)
    RowTier(tmp_path, 5 * row).require_batch(full.plan, 5)
    with pytest.raises(ConfigError, match="--tier-size 499 B holds less than a batch: 5 images"):
        RowTier(tmp_path, 5 * row - 1).require_batch(full.plan, 5)


def test_a_file_that_another_process_just_makes_is_no_damaged_one(
    stored: Store, tier: RowTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = CacheReader(stored, tier=tier)
    wanted = reader.features(0)  # its index is known now
    tier.settle()
    (path,) = files(tier, "dino")
    length, pread = path.stat().st_size, os.pread
    os.truncate(path, 0)

    def grow(fd: int, count: int, offset: int) -> bytes:
        found = pread(fd, count, offset)
        os.truncate(path, length)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", grow)
        assert np.array_equal(reader.features(0), wanted)
    assert tier.counts.damaged == 0
