"""Commit protocol: what is on disk after a good write, a refused one and a killed one."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svp.pipeline.cache import (
    CacheReader,
    create_cache,
    verify,
    write_shard,
)
from svp.pipeline.errors import CacheError
from svp.pipeline.io import atomic
from svp.pipeline.io.atomic import remove_stale
from svp.pipeline.records import ImageRow, Quarantined

Tree = Callable[[Path], dict[str, bytes]]


def test_two_writes_are_byte_equal_and_hold_no_time(
    made: Any, maker: Callable[..., Any], tree_of: Tree
) -> None:
    made.write()
    first = tree_of(made.path)
    write_shard(made.path, made.plan, 1, made.shard_rows(1), {"seconds": 99, "host": "other"})
    assert tree_of(made.path) == first
    other = maker(bad=[2])
    other.write([2, 0, 1])
    other.finish()
    made.finish()
    made.finish()
    assert tree_of(other.path) == tree_of(made.path)
    assert json.loads((made.path / "logs/1.json").read_bytes())["host"] == "other"
    assert not list(made.path.rglob("*.partial/*"))


def test_plain_zarr_python_reads_what_was_written(cache: Any) -> None:
    import zarr

    pixels, cover, images = "superpixels/sam-tiny", "cover/sam-tiny-128", cache.plan.images.folder
    folders = {"dino": "features/tiny-128", "cover": cover, "sspe_masks": cover}
    folders |= dict.fromkeys(("area", "box", "iou", "k"), pixels) | {"id": images, "hw": images}
    array = {
        name: zarr.open_array(cache.path / folder / name, mode="r")
        for name, folder in folders.items()
    }
    assert np.asarray(array["id"]).tolist() == [image.image_id for image in cache.plan.images]
    for layer in cache.plan.layers:
        status = zarr.open_array(cache.path / layer.folder / "status", mode="r")
        assert np.asarray(status).tolist() == [1, 1, 2, 1, 1, 1, 1, 1, 1, 1]
    assert np.asarray(array["hw"]).tolist() == [[12, 10]] * 10
    for i, row in enumerate(cache.rows):
        if isinstance(row, Quarantined):
            assert not np.asarray(array["dino"][i]).any()
            continue
        n = len(row.superpixels)
        assert array["k"][i] == n
        np.testing.assert_array_equal(array["dino"][i], row.patches)
        for name, value in {
            "cover": row.cover,
            "sspe_masks": row.sspe_masks,
            "area": row.superpixels.area,
            "box": row.superpixels.box,
            "iou": row.superpixels.predicted_iou,
        }.items():
            got = np.asarray(array[name][i])
            np.testing.assert_array_equal(got[:n], value)
            assert not got[n:].any()


def broken(row: ImageRow, kind: str) -> ImageRow:
    patches = row.patches.copy()
    found = row.superpixels
    if kind == "nan":
        patches[1, 2] = np.nan
    elif kind == "inf":
        patches[3, 7] = -np.inf
    elif kind == "rle":
        long = (found.rles[0] * 1100)[:1025]
        found = dataclasses.replace(found, rles=(long, *found.rles[1:]))
    return dataclasses.replace(row, patches=patches, superpixels=found)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("nan", "nonfinite_features"), ("inf", "nonfinite_features"), ("rle", "rle_overflow")],
)
def test_a_row_that_cannot_be_stored_is_quarantined_not_cut(
    made: Any, kind: str, reason: str
) -> None:
    made.rows[5] = broken(made.rows[5], kind)
    made.write()
    reader = CacheReader(made.path)
    assert [(q.image_id, q.reason) for q in reader.quarantined] == [(15, "truncated"), (36, reason)]
    assert reader.status(5) == "quarantined"
    assert verify(made.path, full=True).ok
    np.testing.assert_array_equal(reader.features(6), made.rows[6].patches)


def test_more_superpixels_than_the_cap_are_quarantined(made: Any) -> None:
    small = made.plan.recipe.superpixels.model_copy(update={"max_superpixels": 1})
    recipe = made.plan.recipe.model_copy(update={"superpixels": small})
    made.plan = dataclasses.replace(made.plan, recipe=recipe)
    made.write()
    counts = [len(row.superpixels) if isinstance(row, ImageRow) else 0 for row in made.rows]
    over = {row for row, n in enumerate(counts) if n > 1}
    reader = CacheReader(made.path)
    index = reader.index_of
    assert over and over == {
        index[q.image_id] for q in reader.quarantined if q.reason == "too_many_superpixels"
    }


def test_features_at_the_edge_of_float16_are_kept(made: Any) -> None:
    edge = np.array([65504, -65504, 6e-8, -6e-8, 0, -0.0, 1, -1], np.float16)
    made.rows[0] = dataclasses.replace(made.rows[0], patches=np.tile(edge, (4, 1)))
    made.write()
    got = CacheReader(made.path).features(0)
    assert got.tobytes() == np.tile(edge, (4, 1)).tobytes()


def test_rows_of_another_shard_or_shape_are_refused(made: Any) -> None:
    create_cache(made.path, made.plan)
    row = made.rows[0]
    for rows, match in [
        (made.shard_rows(1), "image 1: got the row of image 29"),
        (made.shard_rows(0)[:3], "3 rows for 4 images"),
        ([dataclasses.replace(row, cover=row.cover[:, :3]), *made.shard_rows(0)[1:]], "cover is"),
        ([dataclasses.replace(row, cls=row.patches[0]), *made.shard_rows(0)[1:]], "cls does not"),
    ]:
        with pytest.raises(CacheError, match=match):
            write_shard(made.path, made.plan, 0, rows, {})
    assert made.missing() == [0, 1, 2]


@contextmanager
def tiny_files() -> Iterator[None]:
    """No file may grow beyond 600 bytes: the write fails with EFBIG, like a full disk.

    Only around the call: the test runner's own output may be a file, too.
    """
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_refused_write_commits_nothing_and_leaves_the_cache_usable(made: Any) -> None:
    made.write([0])
    before = CacheReader(made.path).features(0)
    rows = made.shard_rows(1)
    with pytest.raises(CacheError, match="not committed; free some space"), tiny_files():
        write_shard(made.path, made.plan, 1, rows, {})
    assert made.missing() == [1, 2]
    assert not list(made.path.rglob("*.partial/*"))
    np.testing.assert_array_equal(CacheReader(made.path).features(0), before)


def test_disk_full_while_encoding_and_while_syncing(
    made: Any, monkeypatch: pytest.MonkeyPatch, tree_of: Tree
) -> None:
    import errno

    create_cache(made.path, made.plan)
    for name in ("writev", "fsync", "replace", "link"):

        def full(*args: object, **kwargs: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(CacheError, match="No space left on device.*not committed"):
                write_shard(made.path, made.plan, 0, made.shard_rows(0), {})
        assert not list(made.path.rglob("*.partial/*"))
        assert made.missing() == [0, 1, 2]


KILLED = """
import pickle, sys
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("builder", sys.argv[1])
builder = importlib.util.module_from_spec(spec)
sys.modules["builder"] = builder
spec.loader.exec_module(builder)
plan = builder.make_plan()
made = builder.Made(Path(sys.argv[2]), plan, builder.make_rows(plan, bad=[2]))
made.write()
made.finish()
"""
POINTS = ["dino:after-temp@1", "manifest-cover:before-rename@1", "complete:before-rename"]
POINTS += ["images:after-rename", "plan:before-rename"]
SLOW_POINTS = ["rle:before-rename", "crop:after-rename@2", "manifest-superpixels:before-temp@1"]
SLOW_POINTS += ["manifest-superpixels:after-rename@1", "manifest-features:after-rename@1"]
SLOW_POINTS += ["manifest-features:before-temp@1", "log:after-temp@2", "plan:after-rename"]
SLOW_POINTS += ["images:after-temp", "metadata:after-rename", "index:after-rename"]
SLOW_POINTS += ["column:before-rename", "index:before-temp", "complete:after-rename"]


@pytest.mark.parametrize(
    "point", [*POINTS, *(pytest.param(point, marks=pytest.mark.slow) for point in SLOW_POINTS)]
)
def test_killed_anywhere_a_rerun_gives_the_same_bytes(
    cache: Any, tmp_path: Path, tree_of: Tree, point: str
) -> None:
    again = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).with_name("conftest.py"))]
    command.append(str(again))
    killed = subprocess.run(
        command, env={**os.environ, "SVP_CRASH_AT": point}, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    if (again / "plan.json").exists():
        reader = CacheReader(again)
        for i in range(10):
            if reader.status(i) == "ok":
                np.testing.assert_array_equal(reader.features(i), cache.rows[i].patches)
    dataclasses.replace(cache, path=again).resume()
    assert tree_of(again) == tree_of(cache.path)


def test_a_shard_is_written_in_one_order_its_manifests_last(
    made: Any, maker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels of `SVP_CRASH_AT`, as the writer passes them."""
    passed: list[str] = []
    point = atomic.crash_point

    def note(label: str, stage: str, shard: int | None) -> None:
        if stage == "before-temp" and shard is not None:
            passed.append(label)
        point(label, stage, shard)

    monkeypatch.setattr(atomic, "crash_point", note)
    for cache in (made, maker(layers=(1, 2), cls=True), maker(stored="int8")):
        passed.clear()
        cache.write([0])
        arrays = [spec.name for spec in cache.plan.arrays]
        manifests = [f"manifest-{layer.kind}" for layer in cache.plan.layers]
        # Those of arrays are written side by side.
        assert sorted(passed[: len(arrays)]) == sorted(arrays)
        assert passed[len(arrays) :] == ["log", *manifests]


def test_only_leftovers_of_dead_writers_are_removed(cache: Any) -> None:
    from svp.pipeline.io.atomic import machine

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = cache.path / "features/tiny-128/dino/c/0/0"
    dead = folder / f"0.{machine()[:8]}-{gone.pid}-3.partial"
    alive = folder / f"0.{machine()[:8]}-{os.getpid()}-3.partial"
    other = folder / "0.ffffffff-1-3.partial"
    old = folder / "0.eeeeeeee-1-3.partial"
    for path in (dead, alive, other, old):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    assert sorted(remove_stale(cache.path)) == sorted([dead, old])
    assert alive.exists() and other.exists()
    assert verify(cache.path, full=True).ok


def test_writes_never_follow_a_link_out_of_the_cache(made: Any, tmp_path: Path) -> None:
    create_cache(made.path, made.plan)
    (tmp_path / "outside").mkdir()
    cover = made.path / "cover/sam-tiny-128"
    (cover / "cover" / "c").symlink_to(tmp_path / "outside")
    with pytest.raises(CacheError, match="symbolic link inside the cache"):
        write_shard(made.path, made.plan, 0, made.shard_rows(0), {})
    assert not list((tmp_path / "outside").rglob("0"))
    cover.rename(tmp_path / "cover")  # a whole layer elsewhere, its manifests among them
    cover.symlink_to(tmp_path / "cover")
    for call in (
        lambda: write_shard(made.path, made.plan, 0, made.shard_rows(0), {}),
        lambda: create_cache(made.path, made.plan),
    ):
        with pytest.raises(CacheError, match="symbolic link inside the cache"):
            call()
    assert not list((tmp_path / "cover").rglob("manifest/*"))


def test_an_image_too_large_to_store_has_the_code_of_one_too_large_to_read(
    planner: Callable[..., Any], rows_of: Callable[..., Any]
) -> None:
    from svp.pipeline.cache.row_codec import row_arrays
    from svp.pipeline.errors import ImageError

    plan = planner(1)
    (row,) = rows_of(plan)
    image = plan.images[0]._replace(height=65_536, width=1)
    found = dataclasses.replace(row.superpixels, height=65_536, width=1)
    with pytest.raises(ImageError, match="at most 65535 a side") as caught:
        row_arrays(
            plan, plan.layer("superpixels"), image, dataclasses.replace(row, superpixels=found)
        )
    assert caught.value.reason == "too-large"
