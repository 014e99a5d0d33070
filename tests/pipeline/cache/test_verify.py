"""Verification finds exactly what was damaged; repair gives back the same bytes."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from svp.pipeline.cache import CacheReader, repair, uncommit, verify, verify_shard
from svp.pipeline.errors import CacheError

Tree = Callable[[Path], dict[str, bytes]]
DINO = "features/tiny-128/dino/c/1/0/0"


def test_a_sound_cache_has_no_problem(cache: Any) -> None:
    for full in (False, True):
        report = verify(cache.path, full=full)
        assert report.ok and report.complete
        assert (report.shards, report.files, report.missing) == (3, 33, ())
    assert report.bytes == sum(
        path.stat().st_size
        for path in cache.path.glob("[!i]*/*/*/c/**/*")
        if path.is_file() and path.relative_to(cache.path).parts[2] not in ("k", "status")
    )
    assert repair(cache.path) == []


def is_column(name: str) -> bool:
    """Whether the file holds a part of the image list, without which nothing can be judged."""
    return name.startswith("images/") and "/c/" in name


@pytest.mark.parametrize("faults", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_byte_is_listed_by_file_and_nothing_else(
    cache: Any, tree_of: Tree, faults: int
) -> None:
    """Byte faults over all files: `verify` names the file, and only it."""
    files = {
        name: data
        for name, data in tree_of(cache.path).items()
        if name != "plan.json" and not is_column(name)
    }
    rng = random.Random(5)
    total = sum(map(len, files.values()))
    done = 0
    for name, data in files.items():
        path = cache.path / name
        for _ in range(max(1, faults * len(data) // total)):
            place = rng.randrange(len(data))
            path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
            report = verify(cache.path, full=True)
            assert not report.ok, f"{name} byte {place} overlooked"
            listed = {problem for problem, _ in report.problems}
            # COMPLETE holds the digest of the index: damage to either is reported as the index.
            assert listed == {name.replace("COMPLETE", "index.json")}
            done += 1
        path.write_bytes(data)
    assert verify(cache.path, full=True).ok
    assert done >= 0.9 * faults


@pytest.mark.parametrize("faults", [80, pytest.param(1000, marks=pytest.mark.slow)])
def test_reads_of_a_flipped_cache_raise_or_are_right(
    cache: Any, tree_of: Tree, faults: int
) -> None:
    """Byte faults over all files: no read ever gives a wrong value."""
    files = tree_of(cache.path)
    rng = random.Random(6)
    reader = CacheReader(cache.path)
    want = [everything(reader, i) for i in range(10) if i != 2]
    raised = 0
    for _ in range(faults):
        name = rng.choice(sorted(files))
        data = files[name]
        place = rng.randrange(len(data))
        mask = rng.randrange(1, 256)
        path = cache.path / name
        path.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
        try:
            reader = CacheReader(cache.path)
            assert [everything(reader, i) for i in range(10) if i != 2] == want
        except CacheError:
            raised += 1
        path.write_bytes(data)
    assert raised > 0.6 * faults, "most bytes of a cache matter to a full read"


def everything(reader: CacheReader, i: int) -> tuple[bytes, ...]:
    found = reader.superpixels(i)
    arrays: list[NDArray[Any]] = [reader.features(i), reader.cover(i), reader.sspe_masks(i)]
    arrays += [found.level, found.area, found.predicted_iou, found.stability]
    arrays += [found.box, found.point, found.crop]
    return (*(array.tobytes() for array in arrays), *found.rles)


def test_truncated_and_lost_files_are_found_without_reading_all(cache: Any) -> None:
    area, dino = "superpixels/sam-tiny/area/c/2/0", "features/tiny-128/dino/c/0/0/0"
    (cache.path / area).unlink()
    path = cache.path / dino
    path.write_bytes(path.read_bytes()[:-1])
    report = verify(cache.path)
    assert report.bad_shards == (0, 2)
    assert {name for name, _ in report.problems} == {dino, area}


@pytest.mark.parametrize(
    ("name", "redone"),
    [
        ("features/tiny-128/dino/c/1/0/0", [1]),
        ("superpixels/sam-tiny/level/c/2/0", [2]),
        ("cover/sam-tiny-128/manifest/0.json", [0]),
        ("cover/sam-tiny-128/cover/zarr.json", []),
        ("features/tiny-128/zarr.json", []),
        ("features/zarr.json", []),
        ("zarr.json", []),
        ("superpixels/sam-tiny/layer.json", []),
        ("superpixels/sam-tiny/index.json", []),
        ("superpixels/sam-tiny/COMPLETE", []),
        ("features/tiny-128/status/c/0", []),
        ("superpixels/sam-tiny/k/zarr.json", []),
    ],
)
def test_repair_makes_a_resume_redo_only_the_damage(
    cache: Any, tree_of: Tree, name: str, redone: list[int]
) -> None:
    before = tree_of(cache.path)
    data = bytearray(before[name])
    data[len(data) // 2] ^= 0xFF
    (cache.path / name).write_bytes(data)
    assert repair(cache.path) == redone
    report = verify(cache.path, full=True)
    assert report.ok and report.complete == (not redone) and list(report.missing) == redone
    lost = {name for name in before if not (cache.path / name).exists()}
    folder = "/".join(name.split("/")[:2])
    assert {"/".join(name.split("/")[:2]) for name in lost} == ({folder} if redone else set())
    assert cache.resume() == redone
    assert tree_of(cache.path) == before
    assert verify(cache.path, full=True).ok


def test_repair_of_a_cache_under_construction(made: Any) -> None:
    made.write([0, 1])
    path = made.path / "superpixels/sam-tiny/rle/c/0/0"
    path.write_bytes(bytes(path.stat().st_size))
    assert repair(made.path) == [0]
    assert made.missing() == [0, 2]
    assert made.resume() == [0, 2]
    assert CacheReader(made.path).complete


def test_a_damaged_plan_is_beyond_repair_and_says_so(cache: Any) -> None:
    path = cache.path / "plan.json"
    other = dataclasses.replace(cache.plan, rle_bytes=1025)
    path.write_bytes(other.data)
    report = verify(cache.path)
    assert report.bad_shards == (0, 1, 2)
    assert "belongs to layer" in report.problems[0][1]
    path.write_bytes(cache.plan.data.replace(b'"rle_bytes":1024', b'"rle_bytes":1025'))
    with pytest.raises(CacheError, match=r"plan\.json: damaged: fails its checksum"):
        repair(cache.path)
    path.write_bytes(b"{}")
    with pytest.raises(CacheError, match=r"plan\.json: damaged"):
        repair(cache.path)


def test_uncommit_takes_complete_first(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    unlink = Path.unlink

    def note(path: Path, missing_ok: bool = False) -> None:
        order.append(str(path.relative_to(cache.path)))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", note)
    uncommit(cache.path, cache.plan.layer("cover"), [1])
    assert [name.removeprefix("cover/sam-tiny-128/") for name in order] == [
        "COMPLETE",
        "index.json",
        "manifest/1.json",
        "cover/c/1/0/0",
        "sspe_masks/c/1/0/0",
    ]
    reader = CacheReader(cache.path)
    assert not reader.complete
    assert [reader.status(i) for i in (0, 4, 8)] == ["ok", "missing", "ok"]


def test_one_shard_can_be_checked_on_its_own_and_checks_can_be_mapped(cache: Any) -> None:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    path = cache.path / DINO
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\xff\xff" + data[42:])
    assert verify_shard(cache.path, 0).problems == ()
    assert [name for name, _ in verify_shard(cache.path, 1).problems] == [DINO]
    assert verify_shard(cache.path, 1, full=False).problems == ()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert verify(cache.path, full=True, run=pool.map).bad_shards == (1,)


def test_a_link_in_place_of_a_shard_is_reported(cache: Any, tmp_path: Path) -> None:
    path = cache.path / DINO
    path.rename(tmp_path / "stolen")
    path.symlink_to(tmp_path / "stolen")
    report = verify(cache.path, full=True)
    assert [name for name, _ in report.problems] == [DINO]
