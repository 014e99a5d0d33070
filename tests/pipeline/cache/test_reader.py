"""The reader: exact round trips, damage by name, threads, forks and spawned children."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from svp.pipeline.cache import CacheReader
from svp.pipeline.cache.int4 import predicted, superpixel_means
from svp.pipeline.cache.shard_file import OpenFiles
from svp.pipeline.errors import CacheError, ConfigError, MissingError
from svp.pipeline.records import ImageRow


def assert_row(reader: CacheReader, i: int, row: ImageRow) -> None:
    np.testing.assert_array_equal(reader.features(i), row.patches)
    np.testing.assert_array_equal(reader.cover(i), row.cover)
    np.testing.assert_array_equal(reader.sspe_masks(i), row.sspe_masks)
    got, want = reader.superpixels(i), row.superpixels
    for name in ("height", "width", "rles", "fallback", "survivors"):
        assert getattr(got, name) == getattr(want, name), name
    for name in ("level", "predicted_iou", "stability", "area", "box", "point", "crop"):
        value = getattr(got, name)
        np.testing.assert_array_equal(value, getattr(want, name), strict=True)


@pytest.mark.parametrize("verify", ["first", "always", "off"])
def test_round_trip(cache: Any, verify: Literal["first", "always", "off"]) -> None:
    reader = CacheReader(cache.path, verify)
    assert len(reader) == 10 and reader.complete
    assert reader.ids.tolist() == [image.image_id for image in cache.plan.images]
    for i, row in enumerate(cache.rows):
        assert reader.index_of[row.image_id] == i
        if isinstance(row, ImageRow):
            assert_row(reader, i, row)
            assert_row(reader, i, row)
            assert reader.counts[i] == len(row.superpixels)
    assert reader.quarantined == (cache.rows[2],)


def test_optional_arrays(maker: Callable[..., Any]) -> None:
    made = maker(layers=(1, 2), cls=True)
    made.write()
    reader = CacheReader(made.path)
    for i, row in enumerate(made.rows):
        np.testing.assert_array_equal(reader.layers(i), row.layers)
        np.testing.assert_array_equal(reader.cls(i), row.cls)
        np.testing.assert_array_equal(reader.sam(i), row.sam)


def test_int8_features_are_near(maker: Callable[..., Any]) -> None:
    made = maker(stored="int8")
    made.write()
    reader = CacheReader(made.path)
    out = np.empty((4, 8), np.float16)
    for i, row in enumerate(made.rows):
        exact = row.patches.astype(np.float64)
        step = np.abs(exact).max(axis=1, keepdims=True) / 127
        assert (np.abs(reader.features(i) - exact) <= 0.55 * step).all()
        assert reader.features(i, out) is out
        np.testing.assert_array_equal(out, reader.features(i))


def test_features_beside_their_means_are_near(maker: Callable[..., Any]) -> None:
    made = maker(stored="mean+int4")
    made.write()
    reader = CacheReader(made.path)
    assert {spec.name for spec in made.plan.layer("features").arrays} == {"dino_q4", "dino_scale"}
    out = np.empty((4, 8), np.float16)
    for i, row in enumerate(made.rows):
        means = superpixel_means(row.cover, row.patches)
        np.testing.assert_array_equal(reader.pooled(i), means)
        rest = np.abs(row.patches - predicted(row.cover, means)).max(axis=1, keepdims=True)
        assert (np.abs(reader.features(i).astype(np.float64) - row.patches) <= rest / 13).all()
        assert reader.features(i, out) is out
        np.testing.assert_array_equal(out, reader.features(i))


def test_means_beside_float16_features(maker: Callable[..., Any]) -> None:
    made = maker(pooled=True)
    made.write()
    reader = CacheReader(made.path)
    for i, row in enumerate(made.rows):
        np.testing.assert_array_equal(reader.pooled(i), superpixel_means(row.cover, row.patches))
        np.testing.assert_array_equal(reader.features(i), row.patches)


def test_int8_sam_embeddings_are_near_and_of_no_other_size(maker: Callable[..., Any]) -> None:
    made = maker(sam_stored="int8")
    made.write()
    reader = CacheReader(made.path)
    assert {spec.name for spec in made.plan.layer("sam").arrays} == {"sam_q8", "sam_scale"}
    out = np.empty((2, 3, 3), np.float16)
    for i, row in enumerate(made.rows):
        exact = row.sam.astype(np.float64)
        step = np.abs(exact).max(axis=(1, 2), keepdims=True) / 127  # 9 pixels: a group a channel
        assert (np.abs(reader.sam(i) - exact) <= 0.55 * step).all()
        assert (reader.sam(i) != row.sam).any()
        assert reader.sam(i, out) is out
        np.testing.assert_array_equal(out, reader.sam(i))


def test_arrays_the_recipe_does_not_store_are_named(cache: Any) -> None:
    for read in (CacheReader(cache.path).sam, CacheReader(cache.path).cls):
        with pytest.raises(
            CacheError, match="stores no array .* has rle.* dino: add it with `svp cache add`"
        ):
            read(0)


def test_out_is_filled_in_place_and_checked(cache: Any) -> None:
    reader = CacheReader(cache.path)
    batch = np.zeros((3, 4, 8), np.float16)
    assert reader.features(0, batch[1]).base is batch
    np.testing.assert_array_equal(batch[1], cache.rows[0].patches)
    assert not batch[0].any() and not batch[2].any()
    for out in (np.zeros((4, 8)), np.zeros((8, 4), np.float16).T, np.zeros((4, 9), np.float16)):
        with pytest.raises(ConfigError, match="need float16"):
            reader.features(0, out)  # type: ignore[arg-type]


def test_only_committed_shards_are_read(made: Any) -> None:
    made.write([1])
    reader = CacheReader(made.path)
    assert [reader.status(i) for i in (0, 4, 9)] == ["missing", "ok", "missing"]
    assert_row(reader, 4, made.rows[4])
    assert not reader.complete
    with pytest.raises(CacheError, match=r"image 1 \(row 0\): not computed yet.*precompute"):
        reader.features(0)
    made.write([0])
    assert reader.status(0) == "missing", "a reader is a snapshot"
    assert CacheReader(made.path).status(0) == "ok"


def test_quarantined_images_say_why(cache: Any) -> None:
    reader = CacheReader(cache.path)
    for read in (reader.features, reader.cover, reader.superpixels):
        with pytest.raises(CacheError, match=r"image 15 .*truncated: file 2 ends early.*retry"):
            read(2)


@pytest.mark.parametrize("i", [-1, 10, 10**9])
def test_rows_out_of_range(cache: Any, i: int) -> None:
    with pytest.raises(CacheError, match="rows are 0 to 9"):
        CacheReader(cache.path).features(i)


def test_no_cache_and_bad_options(tmp_path: Path, cache: Any) -> None:
    with pytest.raises(MissingError, match="not a cache of svp"):
        CacheReader(tmp_path / "absent")
    with pytest.raises(ConfigError, match="verify=often: use first, always or off"):
        CacheReader(cache.path, "often")  # type: ignore[arg-type]


def test_a_foreign_manifest_and_a_foreign_plan_are_refused(
    made: Any, maker: Callable[..., Any]
) -> None:
    other = maker(9, bad=[2])
    made.write()
    other.write()
    for layer in other.plan.layers:
        path = f"{layer.folder}/manifest/0.json"
        mine = (made.path / path).read_bytes()
        shutil.copy(other.path / path, made.path / path)
        with pytest.raises(CacheError, match=f"belongs to layer {layer.id[:12]}"):
            CacheReader(made.path)
        (made.path / path).write_bytes(mine)
    CacheReader(made.path)
    other.finish()
    shutil.copy(made.path / "plan.json", other.path / "plan.json")
    with pytest.raises(CacheError, match="images/.*the image list is damaged"):
        CacheReader(other.path)
    shutil.copytree(made.path / "images", other.path / "images", dirs_exist_ok=True)
    with pytest.raises(CacheError, match="COMPLETE: belongs to layer"):
        CacheReader(other.path)


def test_a_damaged_row_names_image_and_file_each_time(cache: Any) -> None:
    path = cache.path / "features/tiny-128/dino/c/1/0/0"
    data = bytearray(path.read_bytes())
    data[70] ^= 1  # second row of the shard: row 5, image 36
    path.write_bytes(data)
    for verify in ("first", "always"):
        reader = CacheReader(cache.path, verify)
        for _ in range(2):
            with pytest.raises(CacheError, match=r"image 36 \(row 5\): .*dino/c/1/0/0.*checksum"):
                reader.features(5)
        np.testing.assert_array_equal(reader.features(4), cache.rows[4].patches)
    assert (CacheReader(cache.path, "off").features(5) != cache.rows[5].patches).sum() == 1


def test_first_checks_once_and_always_every_time(cache: Any) -> None:
    first, always = CacheReader(cache.path, "first"), CacheReader(cache.path, "always")
    first.features(5), always.features(5)
    path = cache.path / "features/tiny-128/dino/c/1/0/0"
    with path.open("r+b") as file:  # same inode: both readers see it
        file.seek(70)
        byte = file.read(1)
        file.seek(70)
        file.write(bytes([byte[0] ^ 1]))
    assert (first.features(5) != cache.rows[5].patches).sum() == 1
    with pytest.raises(CacheError, match="checksum"):
        always.features(5)


def test_a_link_inside_the_cache_is_refused_but_the_cache_may_be_linked(
    cache: Any, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(cache.path)
    assert_row(CacheReader(tmp_path / "link"), 0, cache.rows[0])
    shutil.move(cache.path / "features/tiny-128/dino/c/0/0/0", tmp_path / "stolen")
    (cache.path / "features/tiny-128/dino/c/0/0/0").symlink_to(tmp_path / "stolen")
    shutil.move(cache.path / "cover/sam-tiny-128/cover/c", tmp_path / "cover")
    (cache.path / "cover/sam-tiny-128/cover/c").symlink_to(tmp_path / "cover")
    reader = CacheReader(cache.path)
    for read in (reader.features, reader.cover):
        with pytest.raises(CacheError, match="symbolic link inside the cache"):
            read(0)


def test_a_hostile_zarr_json_is_refused_before_any_data_is_touched(cache: Any) -> None:
    path = cache.path / "features/tiny-128/dino/zarr.json"
    raw = json.loads(path.read_bytes())
    raw["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle"})
    path.write_text(json.dumps(raw))
    with pytest.raises(CacheError, match="image 1 .*not an array of this cache"):
        CacheReader(cache.path).features(0)


def test_a_recompressed_array_is_read_through_zarr_python(cache: Any) -> None:
    import zarr
    from zarr.codecs import BloscCodec, BytesCodec

    values = np.asarray(zarr.open_array(cache.path / "features/tiny-128/dino", mode="r"))
    shutil.rmtree(cache.path / "features/tiny-128/dino")
    array = zarr.create_array(
        cache.path / "features/tiny-128/dino",
        shape=values.shape,
        chunks=(1, 4, 8),
        shards=(4, 4, 8),
        dtype="float16",
        serializer=BytesCodec(),
        compressors=[BloscCodec(cname="zstd", clevel=1, typesize=2)],
        fill_value=0,
        dimension_names=["image", "patch", "channel"],
    )
    array[:] = values
    reader = CacheReader(cache.path)
    assert_row(reader, 0, cache.rows[0])
    assert_row(reader, 9, cache.rows[9])
    blob = cache.path / "features/tiny-128/dino/c/2/0/0"
    blob.write_bytes(blob.read_bytes()[:-9])
    with pytest.raises(CacheError, match=r"image 64 .*dino"):
        reader.features(9)


def test_a_moved_cache_still_reads(cache: Any, tmp_path: Path) -> None:
    target = tmp_path / "ein anderer Ort ü"
    shutil.move(cache.path, target)
    assert_row(CacheReader(target), 9, cache.rows[9])


def test_many_threads_share_a_reader_with_few_open_files(cache: Any) -> None:
    reader = CacheReader(cache.path, "always")
    reader._files = OpenFiles(limit=2)
    good = [i for i in range(10) if i != 2]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            list(pool.map(lambda i: assert_row(reader, i, cache.rows[i]), good * 4))


def test_evicted_files_are_closed(cache: Any) -> None:
    reader = CacheReader(cache.path)
    reader._files = OpenFiles(limit=3)
    before = len(os.listdir("/proc/self/fd"))
    for i in [0, 4, 8] * 3:
        reader.superpixels(i), reader.features(i)
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    del reader
    assert len(os.listdir("/proc/self/fd")) <= before


def check_all(reader: CacheReader, rows: list[Any]) -> None:
    for i, row in enumerate(rows):
        if isinstance(row, ImageRow):
            assert_row(reader, i, row)


@pytest.mark.timeout(60)
def test_pickled_readers_are_small_and_read_the_same(cache: Any) -> None:
    reader = CacheReader(cache.path, "always")
    reader.features(0)
    data = pickle.dumps(reader)
    assert len(data) < 500
    again = pickle.loads(data)
    assert again.verify == "always"
    check_all(again, cache.rows)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_read_after_the_parent_did(cache: Any, method: str) -> None:
    """T13: the parent's open files, locks and threads must not hang or mislead a child."""
    script = f"""
import faulthandler, multiprocessing, pickle, sys, threading, time
import numpy as np
from svp.pipeline.cache import CacheReader

def child(reader, want):
    assert [float(reader.features(i).sum()) for i in (0, 5, 9)] == want
    assert len(reader.superpixels(0)) == reader.counts[0]

if __name__ == "__main__":
    faulthandler.dump_traceback_later(40, exit=True)
    reader = CacheReader({str(cache.path)!r})
    want = [float(reader.features(i).sum()) for i in (0, 5, 9)]
    children = {3 if method == "fork" else 1}
    busy = True
    def loop():
        while busy:
            reader.superpixels(4)
            time.sleep(0.001)
    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context({method!r})
    codes = []
    for _ in range(children):
        process = context.Process(target=child, args=(reader, want))
        process.start()
        process.join(15)
        codes.append(process.exitcode)
    busy = False
    assert codes == [0] * children, codes
    check = [float(reader.features(i).sum()) for i in (0, 5, 9)]
    assert check == want
"""
    assert method in multiprocessing.get_all_start_methods()
    path = cache.path.parent / "child.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stderr


def test_opening_reads_no_manifest_of_a_complete_cache(
    cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svp.pipeline.cache import index

    def refuse(*args: object) -> None:
        raise AssertionError("opened a manifest")

    monkeypatch.setattr(index, "read_manifests", refuse)
    assert len(CacheReader(cache.path)) == 10
