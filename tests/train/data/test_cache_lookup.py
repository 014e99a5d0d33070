"""A cache belongs to photographs, not to ids or names: the same ones are found, others refused."""

import gc
import random
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.loader_world import make_row, make_source
from svp.pipeline.cache import (
    CacheReader,
    Plan,
    PlanImage,
    create_cache,
    finalize,
    read_committed,
    write_shard,
)
from svp.pipeline.cache.info import info
from svp.pipeline.cache.places import DataPlaces, write_places
from svp.pipeline.datasets import Source
from svp.pipeline.errors import CacheError, DataError
from svp.pipeline.precompute.planner import hash_image
from svp.pipeline.recipe import FeatureConfig, Recipe, SuperpixelConfig
from svp.pipeline.records import ImageRecord
from svp.pipeline.store import FolderStore
from svp.train.data import photo_identity as photos_module
from svp.train.data.build_table import open_table
from svp.train.data.cache_lookup import BEYOND, Finder, Place
from svp.train.data.photo_identity import same_name
from svp.train.evaluation.protocols import examples, gather

IDS = (1, 2, 3)


def draw(path: Path, seed: int) -> None:
    """A photograph of 12 x 10; all have one file size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)


def paint(root: Path, seed: int = 0, folder: str = "d") -> Path:
    for i in IDS:
        draw(root / folder / f"{i}.png", 10 * seed + i)
    return root


def cached(path: Path, root: Path, *, ids: tuple[int, ...] = IDS, folder: str = "d") -> CacheReader:
    """A cache of the photographs in `root`."""
    records = [ImageRecord(i, f"{folder}/{i}.png".removeprefix("/"), 12, 10) for i in ids]
    images = [PlanImage(r.image_id, r.path, 12, 10, *hash_image(root, r)) for r in records]
    plan = Plan(
        recipe=Recipe(
            superpixels=SuperpixelConfig(max_superpixels=6),
            features=FeatureConfig(cls=True, layers=(1, 2)),
            store_sam_embeddings=True,
        ),
        images=tuple(images), grid=(2, 3), channels=8, sspe=(4, 5), rle_bytes=1024, sam=(2, 3, 3),
        shard_size=4,
    )  # fmt: skip
    create_cache(path, plan)
    write_shard(path, plan, 0, [make_row(plan, image) for image in images], {})
    finalize(path, plan, read_committed(path, plan))
    return CacheReader(path)


def source_in(root: Path, ids: tuple[int, ...] = IDS):  # type: ignore[no-untyped-def]
    return replace(make_source("aa", ids), image_root=root)


@pytest.fixture
def cache(tmp_path: Path) -> CacheReader:
    return cached(tmp_path / "cache", paint(tmp_path / "photos"))


def join(tmp_path: Path, source, caches):  # type: ignore[no-untyped-def]
    """What training and evaluation both make of it."""
    table = open_table(tmp_path / "t", [source], caches, training=True)
    found = examples(source, caches)
    ours = [(table.entry(i).cache, table.entry(i).row) for i in range(len(table))]
    assert ours == [(item.entry.cache, item.entry.row) for item in found]
    return table


def refused(tmp_path: Path, source, caches, match: str) -> None:  # type: ignore[no-untyped-def]
    for attempt in (
        lambda: open_table(tmp_path / "t", [source], caches, training=True),
        lambda: examples(source, caches),
    ):
        with pytest.raises(DataError, match=match):
            attempt()


def test_the_photographs_of_the_cache(tmp_path: Path, cache: CacheReader) -> None:
    table = join(tmp_path, source_in(tmp_path / "photos"), [cache])
    assert not [note for note in table.notes if "not compared" in note]


def test_a_cache_of_a_rehearsal_is_told(tmp_path: Path) -> None:
    """In `svp cache info`, in training and in evaluation: its weights are none of their names."""
    photos = paint(tmp_path / "photos")
    cache, source = cached(tmp_path / "cache", photos), source_in(photos)
    for rehearsal in (False, True):
        write_places(cache.path, DataPlaces(dataset="d", images=photos, rehearsal=rehearsal))
        report = info(cache.path)
        assert report.to_json()["rehearsal"] is rehearsal
        said = ["\n".join(report.lines()), "\n".join(gather(source, [cache]).notes)]
        said += [
            "\n".join(open_table(tmp_path / f"{rehearsal}", [source], [cache], training=True).notes)
        ]
        found = ["made in a rehearsal, with stand-ins for the weights" in text for text in said]
        assert found == [rehearsal] * 3


def test_images_beyond_the_recorded_limit_need_no_partial(tmp_path: Path) -> None:
    """The user asked for the first images; any other hole in the cache is still refused."""
    photos = paint(tmp_path / "photos")
    limited = cached(tmp_path / "limited", photos, ids=(1, 2))
    source = source_in(photos)
    refused(tmp_path, source, [limited], "image")  # nothing says that it was meant
    write_places(limited.path, DataPlaces(dataset="d", images=photos, limit=2))
    table = join(tmp_path, source, [limited])
    line = f"2 of 3 images with expressions used: {limited.path} was made with --limit, and 1 other is beyond it"  # fmt: skip
    assert line in table.notes and table.left_out[BEYOND] == 1
    gathered = gather(source, [limited])
    assert line in gathered.notes and gathered.left_out == {BEYOND: 1}
    for ids, limit in (((1, 3), 2), ((1, 2), 5)):  # a hole before the last; a limit not reached
        cache = cached(tmp_path / f"other-{limit}", photos, ids=ids)
        write_places(cache.path, DataPlaces(dataset="d", images=photos, limit=limit))
        refused(tmp_path, source, [cache], "image")


def test_same_names_other_pictures(tmp_path: Path, cache: CacheReader) -> None:
    other = paint(tmp_path / "other", seed=1)
    sizes = {path.stat().st_size for path in tmp_path.glob("*/d/*.png")}
    assert len(sizes) == 1  # a size tells nothing here
    refused(
        tmp_path, source_in(other), [cache],
        r"3 of 3 photographs are not those of the cache: image 1, 'd/1.png' .*svp precompute",
    )  # fmt: skip


def test_one_was_edited_to_a_file_of_the_same_size(tmp_path: Path, cache: CacheReader) -> None:
    source = source_in(tmp_path / "photos")
    join(tmp_path, source, [cache])  # all hashes are remembered now
    draw(tmp_path / "photos/d/2.png", 99)
    refused(tmp_path, source, [cache], r"1 of 3 .* image 2, .* edited after it was cached")


def test_same_ids_other_names(tmp_path: Path, cache: CacheReader) -> None:
    source = source_in(paint(tmp_path / "other", seed=1, folder="e"))
    images = tuple(replace(r, path=f"e/{r.image_id}.png") for r in source.images)
    renamed = replace(source, images=images)
    refused(tmp_path, renamed, [cache], r"image 1, 'e/1.png' .* is not 'd/1.png'")
    gone = replace(renamed, image_root=tmp_path / "nowhere")
    refused(tmp_path, gone, [cache], r"image 1 is 'e/1.png' in the data and 'd/1.png'")


def test_a_moved_folder_and_other_names_of_one_photograph(
    tmp_path: Path, cache: CacheReader
) -> None:
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    join(tmp_path, source_in(tmp_path / "moved"), [cache])
    (tmp_path / "moved" / "train2014").mkdir()
    for i in IDS:
        shutil.move(tmp_path / f"moved/d/{i}.png", tmp_path / f"moved/train2014/COCO_{i}.png")
    source = source_in(tmp_path / "moved")
    images = tuple(replace(r, path=f"train2014/COCO_{r.image_id}.png") for r in source.images)
    join(tmp_path, replace(source, images=images), [cache])


def test_the_same_photographs_under_other_ids(tmp_path: Path, cache: CacheReader) -> None:
    """An id is a hash of the path in JSONL: another folder before the name, another id."""
    ids = (11, 12, 13)
    for i in ids:
        shutil.copy(tmp_path / f"photos/d/{i - 10}.png", tmp_path / f"photos/d/{i}.png")
    table = join(tmp_path, source_in(tmp_path / "photos", ids), [cache])
    assert [table.entry(i).row for i in range(3)] == [0, 1, 2]
    swapped = (1, 2)  # ids of each other
    shutil.copy(tmp_path / "photos/d/1.png", tmp_path / "keep.png")
    shutil.copy(tmp_path / "photos/d/2.png", tmp_path / "photos/d/1.png")
    shutil.copy(tmp_path / "keep.png", tmp_path / "photos/d/2.png")
    table = join(tmp_path, source_in(tmp_path / "photos", swapped), [cache])
    assert [table.entry(i).row for i in range(2)] == [1, 0]


def test_of_several_caches_the_one_with_the_photograph(tmp_path: Path, cache: CacheReader) -> None:
    other = cached(tmp_path / "second", paint(tmp_path / "other", seed=1))
    for caches in ([cache, other], [other, cache]):
        table = join(tmp_path, source_in(tmp_path / "other"), caches)
        assert {caches[table.entry(i).cache].path.name for i in range(3)} == {"second"}


def test_photographs_that_are_not_here_are_taken_by_name_and_said(
    tmp_path: Path, cache: CacheReader
) -> None:
    table = join(tmp_path, source_in(tmp_path / "gone"), [cache])
    assert any("3 of 3 photographs are not in" in note for note in table.notes)
    again = open_table(
        tmp_path / "t", [source_in(tmp_path / "photos")], [cache], training=True
    )  # the same table, now with the photographs
    assert again.digest == table.digest
    assert not [note for note in again.notes if "not compared" in note]


def test_photographs_at_an_address_are_taken_by_name_and_no_server_is_asked(
    tmp_path: Path, cache: CacheReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nobody listens
    source = source_in(Path("s3://photos/set"))
    table = join(tmp_path, source, [cache])
    (note,) = [note for note in table.notes if "not compared" in note]
    assert "3 of 3 photographs are in object storage, s3://photos/set: taken by name" in note
    images = tuple(replace(r, path=f"e/{Path(r.path).name}") for r in source.images)
    renamed = replace(source, images=images)
    refused(tmp_path, renamed, [cache], r"image 1 is 'e/1.png' in the data and 'd/1.png'")


def test_cocos_two_names_of_one_photograph(tmp_path: Path) -> None:
    names = {i: f"{i:012}.jpg" for i in IDS}
    for i, name in names.items():
        draw(tmp_path / "photos/d" / f"{i}.png", i)
        shutil.move(tmp_path / f"photos/d/{i}.png", tmp_path / "photos" / name)
    records = [ImageRecord(i, name, 12, 10) for i, name in names.items()]
    images = [PlanImage(r.image_id, r.path, 12, 10, 99, "ab" * 8) for r in records]
    photos = photos_module.Photos(tmp_path / "nowhere", tmp_path)
    for record, image in zip(records, images, strict=True):
        old = replace(record, path=f"COCO_train2014_{record.path}")
        assert photos.compare(old, image) == "unseen"
        assert photos.compare(replace(record, path="COCO_train2014_9.jpg"), image) == "other"


def test_a_file_is_hashed_once(
    tmp_path: Path, cache: CacheReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = photos_module.hash_image
    monkeypatch.setattr(
        photos_module, "hash_image", lambda root, r: read.append(r.path) or real(root, r)
    )
    source = source_in(tmp_path / "photos")
    for _ in range(3):
        finder = Finder([CacheReader(cache.path)], source)
        assert all(finder.find(record.image_id) for record in source.images)
        finder.check()
    assert sorted(read) == ["d/1.png", "d/2.png", "d/3.png"]
    (cache.path / "logs" / photos_module.SEEN).write_text('{"a": 1}')  # damaged: read again
    finder = Finder([cache], source)
    assert all(finder.find(record.image_id) for record in source.images) and len(read) == 6


def test_a_cache_that_cannot_be_written_only_forgets(
    tmp_path: Path, cache: CacheReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise CacheError("Read-only file system")

    monkeypatch.setattr(FolderStore, "replace", refuse)
    join(tmp_path, source_in(tmp_path / "photos"), [cache])


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ("x.jpg", "x.jpg", True),
        ("train2014/x.jpg", "x.jpg", True),
        ("images/train2014/x.jpg", "train2014/x.jpg", True),
        ("a/x.jpg", "b/x.jpg", False),
        ("ax.jpg", "x.jpg", False),
    ],
)
def test_names(a: str, b: str, alike: bool) -> None:
    assert same_name(a, b) is same_name(b, a) is alike


def test_a_finder_holds_columns_not_objects(tmp_path: Path) -> None:
    """Whatever order the images come in; 33 bytes of each, and 8 of its id."""
    n, size = 5000, (12, 10)
    images = [ImageRecord(i, f"d/{i}.png", *size) for i in range(1, n + 1)]
    planned = [PlanImage(i, f"d/{i}.png", *size, 99, "ab" * 8) for i in range(1, n + 1)]
    cache: Any = SimpleNamespace(
        path=tmp_path / "cache", plan=SimpleNamespace(images=planned), status=lambda row: "ok",
        index_of={i: i - 1 for i in range(1, n + 1)},
    )  # fmt: skip
    random.Random(0).shuffle(images)
    source = Source("x", "jsonl", "train", tmp_path, tuple(images), (), {})
    Finder([cache], source).find(1)  # what is made once
    gc.collect()
    tracemalloc.start()
    finder = Finder([cache], source)
    for image in source.images:
        place = finder.find(image.image_id)
        assert place == Place(0, image.image_id - 1, *size)
        assert finder.record(image.image_id) == image
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 90 * n and finder.unseen == finder.looked == n
    for absent in (0, n + 1):
        with pytest.raises(KeyError):
            finder.find(absent)
