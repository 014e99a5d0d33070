"""Where photographs are found: the layouts of COCO, GLaMM and LISA, and one given folder."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from svp.pipeline.datasets import check, open_dataset
from svp.pipeline.datasets.image_roots import LAYOUTS
from svp.pipeline.datasets.images import read_record
from svp.pipeline.errors import MissingError

# annotations' folder, photographs' folder, what is opened: relative to one root
TREES = {
    "sample": ("refcoco", "images", "."),
    "beside": ("refcoco", "train2014", "refcoco"),
    "one above": ("annotations/refcoco", "train2014", "annotations"),
    "GLaMM": ("Refer_Segm/refcoco", "coco_2014/train2014", "."),
    "GLaMM, its set": ("Refer_Segm/refcoco", "coco_2014/train2014", "Refer_Segm/refcoco"),
    "GLaMM as its code resolves": (
        "Refer_Segm/refcoco",
        "Refer_Segm/coco_2014/train2014",
        "Refer_Segm",
    ),
    "LISA": ("refer_seg/refcoco", "refer_seg/images/mscoco/images/train2014", "."),
    "LISA, its set": (
        "refer_seg/refcoco",
        "refer_seg/images/mscoco/images/train2014",
        "refer_seg/refcoco",
    ),
    "in the set": ("refcoco", "refcoco", "refcoco"),
}


@pytest.mark.parametrize("tree", TREES)
def test_found_without_being_told(tree: str, world: Any, tmp_path: Path) -> None:
    annotations, photos, where = TREES[tree]
    world.write_refer(tmp_path / annotations, photos="")
    world.draw(tmp_path / photos)
    source = open_dataset(tmp_path / where, split="train")
    assert source.image_root.resolve() == (tmp_path / photos).resolve()
    layout = next(notice for notice in source.notices if notice.startswith("images: "))
    assert any(label in layout for label in LAYOUTS.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_given_folder_is_searched_in_every_layout(layout: str, world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "a" / "refcoco", photos="")
    world.draw(tmp_path / "b" / layout)
    source = open_dataset(folder, images=tmp_path / "b")
    assert source.image_root.resolve() == (tmp_path / "b" / layout).resolve()


def test_the_folder_with_most_of_the_images_wins(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco", photos="train2014")
    (tmp_path / "images").mkdir()
    name = f"{world.images[0]['file_name']}"
    (tmp_path / "images" / name).write_bytes(b"x")
    assert open_dataset(folder).image_root.name == "train2014"


def test_some_missing_images_are_listed(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco")
    for image in world.images[1:]:
        (tmp_path / "images" / image["file_name"]).unlink()
    assert len(open_dataset(folder).images) == 5


def test_no_image_at_all_says_where_it_looked(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco", photos="")
    with pytest.raises(MissingError, match=r"none of 5 images .*coco_2014/train2014.*--images"):
        open_dataset(folder)
    with pytest.raises(MissingError, match="no image folder"):
        open_dataset(folder, images=tmp_path / "none")


def test_photographs_under_the_names_of_2017(world: Any, tmp_path: Path) -> None:
    """COCO's photographs of 2014 are those of 2017, under their number alone."""
    world.write_refer(tmp_path / "refcoco", photos="")
    for image in world.images:
        draw(tmp_path / "train2017" / f"{image['id']:012d}.jpg")
    source = open_dataset(tmp_path, split="train")
    assert [record.path for record in source.images] == [f"{i:012d}.jpg" for i in (1, 2, 3)]
    assert [record.image_id for record in source.images] == [1, 2, 3]
    assert all(read_record(source.image_root, r).shape == (12, 16, 3) for r in source.images)
    assert any("under COCO's other names, such as 000000000001.jpg" in n for n in source.notices)
    report = check(tmp_path)
    assert report.usable and report.groups["images"]["good"] == 5


def test_photographs_under_the_names_of_2014(worlds: Any, tmp_path: Path) -> None:
    made = worlds({"train": [7]})
    made.images[0]["file_name"] = "000000000007.jpg"
    made.write_refer(tmp_path / "refcoco", photos="")
    draw(tmp_path / "train2014" / "COCO_train2014_000000000007.jpg")
    (record,) = open_dataset(tmp_path, split="train").images
    assert record.path == "COCO_train2014_000000000007.jpg"


def test_own_names_win_over_the_others(world: Any, tmp_path: Path) -> None:
    world.write_refer(tmp_path / "refcoco", photos="")
    draw(tmp_path / "train2014" / world.images[0]["file_name"])
    for image in world.images:
        draw(tmp_path / "train2017" / f"{image['id']:012d}.jpg")
    source = open_dataset(tmp_path, split="train")
    assert {record.path for record in source.images} == {
        image["file_name"] for image in world.images if image["id"] < 4
    }


def test_both_names_are_told_where_neither_is_found(world: Any, tmp_path: Path) -> None:
    world.write_refer(tmp_path / "refcoco", photos="")
    with pytest.raises(MissingError, match="such as COCO_train2014_0{11}1.jpg, also as 0{11}1.jpg"):
        open_dataset(tmp_path, split="train")


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12)).save(path)


def test_a_name_no_disk_can_hold_is_missing(world: Any, tmp_path: Path) -> None:
    world.images[0]["file_name"] = "9" * 300 + ".jpg"
    folder = world.write_refer(tmp_path / "refcoco", photos="")
    for image in world.images[1:]:
        draw(tmp_path / "images" / image["file_name"])
    report = check(folder)
    assert report.usable and len(report.quarantined) == 1
    with pytest.raises(MissingError, match="neither a path nor"):
        open_dataset("9" * 300)


def test_photographs_that_are_gone_stop_only_who_needs_them(world: Any, tmp_path: Path) -> None:
    """A cache holds what training needs: its sentences are read without a photograph."""
    folder = world.write_refer(tmp_path / "refcoco")
    whole = open_dataset(folder, split="train")
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(MissingError, match="none of 3 images"):
        open_dataset(folder, split="train")
    source = open_dataset(folder, split="train", photos=False)
    assert source.images == whole.images and source.expressions == whole.expressions
    assert any("none of them is here" in notice for notice in source.notices)
    gone = tmp_path / "images"  # what a cache remembers
    source = open_dataset(folder, split="train", photos=False, images=gone)
    assert source.images == whole.images and source.image_root == gone
