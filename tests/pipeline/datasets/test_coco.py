"""COCO instances files: the conventional roots, which file a split means, image folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.datasets import open_dataset
from svp.pipeline.errors import DataError, MissingError


def write_coco(root: Path, worlds: Any, *names: str, annotations: str = "annotations") -> None:
    """One instances file and image folder per name (train2017...); ids continue over the names."""
    (root / annotations).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        made = worlds({"train": [10 * number + 1, 10 * number + 2]})
        path = root / annotations / f"instances_{name}.json"
        path.write_text(json.dumps(made.instances()))
        made.draw(root / name)


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_conventional_root(year: str, worlds: Any, tmp_path: Path) -> None:
    write_coco(tmp_path, worlds, f"train{year}", f"val{year}")
    source = open_dataset(tmp_path, split="train")
    assert source.kind == "coco" and source.name == f"train{year}"
    assert [record.image_id for record in source.images] == [1, 2]
    assert source.image_root == tmp_path / f"train{year}"
    assert source.expressions == ()
    assert [r.image_id for r in open_dataset(tmp_path, split=f"val{year}").images] == [11, 12]
    assert [r.image_id for r in open_dataset(tmp_path, split="val").images] == [11, 12]


def test_both_years_must_be_told_apart(worlds: Any, tmp_path: Path) -> None:
    write_coco(tmp_path, worlds, "train2014", "train2017")
    with pytest.raises(DataError, match=r"several instances files.*train2014, train2017.*--split"):
        open_dataset(tmp_path, split="train")
    assert open_dataset(tmp_path, split="train2017").images[0].image_id == 11
    with pytest.raises(DataError, match="several instances files"):
        open_dataset(tmp_path)
    with pytest.raises(MissingError, match="no instances file for val; found: instances_train2014"):
        open_dataset(tmp_path, split="val")


def test_a_file_by_itself_with_images_elsewhere(worlds: Any, tmp_path: Path) -> None:
    write_coco(tmp_path / "a", worlds, "train2017")
    photos = (tmp_path / "a" / "train2017").rename(tmp_path / "photos")
    path = tmp_path / "a" / "annotations" / "instances_train2017.json"
    with pytest.raises(MissingError, match="none of 2 images .*--images"):
        open_dataset(path)
    assert open_dataset(path, images=photos).image_root == photos


def test_other_segmentations_do_not_matter_to_images(worlds: Any, tmp_path: Path) -> None:
    write_coco(tmp_path, worlds, "train2017")
    path = tmp_path / "annotations" / "instances_train2017.json"
    raw = json.loads(path.read_text())
    raw["annotations"] = [{"id": 1, "image_id": 1, "segmentation": [[1]]}, {"id": "odd"}]
    path.write_text(json.dumps({**raw, "annotations": raw["annotations"][:1]}))
    assert len(open_dataset(tmp_path).images) == 2
