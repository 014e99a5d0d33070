"""The hub's parquet layout gives the very tables of the REFER folder."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.datasets import convert, open_dataset
from svp.pipeline.datasets.parquet import dataset_name, read_hub
from svp.pipeline.datasets.refer import read_refer
from svp.pipeline.errors import DataError, MissingPackageError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize(
    ("folder", "name", "split_by"),
    [("refcoco", "refcoco", "unc"), ("refcocoplus", "refcoco+", "unc")],
)
def test_both_sources_give_identical_tables(
    folder: str, name: str, split_by: str, world: Any, tmp_path: Path
) -> None:
    theirs = read_refer(world.write_refer(tmp_path / "refer" / name, split_by))
    ours = read_hub(world.write_hub(tmp_path / "hub" / folder))
    assert ours.title == theirs.title and "testA" in ours.splits()
    same = replace(theirs, kind="hub", root=ours.root, files=ours.files)
    assert ours == same
    convert(tmp_path / "refer" / name, tmp_path / "a")
    convert(tmp_path / "hub" / folder, tmp_path / "b")
    for table in ("images", "masks", "sentences"):
        a, b = (tmp_path / side / f"{table}.jsonl" for side in "ab")
        assert a.read_bytes() == b.read_bytes() and a.stat().st_size


def test_refcocog_keeps_its_test_split(worlds: Any, tmp_path: Path) -> None:
    world = worlds({"train": [1], "test": [2]})
    ours = read_hub(world.write_hub(tmp_path / "jxu124_refcocog" / "data").parent)
    assert sorted(ours.splits()) == ["test", "train"] and ours.title == "refcocog/umd"


def test_opened_as_a_source(world: Any, tmp_path: Path) -> None:
    world.write_hub(tmp_path / "refcoco")
    world.draw(tmp_path / "train2014")
    source = open_dataset(tmp_path / "refcoco", split="train")
    assert [record.image_id for record in source.images] == [1, 2, 3]
    assert open_dataset(tmp_path, split="train").images == source.images  # a folder of sets
    assert source.kind == "hub" and len(source.expressions) == 12


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("datasets--jxu124--refcocoplus/snapshots", "refcoco+"),
        ("RefCOCO/data", "refcoco"),
        ("refcocog", "refcocog"),
        ("refcoco+", "refcoco+"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert dataset_name(Path("/data") / path) == name


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "train-00000.parquet"
    rows = parquet.read_table(path).to_pylist()
    rows[0].update(changes)
    parquet.write_table(arrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"split": "testAB"}, "split 'testAB' is not of"),
        ({"raw_anns": "{"}, "raw_anns: not JSON at line 1"),
        ({"raw_anns": "[]"}, "raw_anns .* is not an object"),
        ({"raw_anns": "{}"}, "has no segmentation"),
        ({"raw_anns": '{"id": 1}'}, "of another object"),
        ({"raw_image_info": None}, "raw_image_info is not a string"),
        ({"raw_image_info": '{"id": 9}'}, "is of image 9"),
        (
            {"raw_image_info": json.dumps({"file_name": "../x", "height": 3, "width": 3})},
            "is refused",
        ),
        ({"raw_image_info": json.dumps({"file_name": "x", "height": 0, "width": 3})}, "height 0"),
        ({"ref_id": 1}, "ref_id 1 is used twice"),
        ({"sentences": []}, "has no sentence"),
    ],
)
def test_wrong_rows_are_named(
    changes: dict[str, Any], rule: str, world: Any, tmp_path: Path
) -> None:
    folder = world.write_hub(tmp_path / "refcoco")
    rewrite(folder, **changes)
    with pytest.raises(DataError, match=f"train-00000.parquet row .*{rule}"):
        read_hub(folder)


def test_other_layouts_and_damage(world: Any, tmp_path: Path) -> None:
    folder = world.write_hub(tmp_path / "refcoco")
    parquet.write_table(arrow.table({"question": ["a"]}), folder / "val-00000.parquet")
    with pytest.raises(DataError, match="no column ref_id, .* not the jxu124 layout"):
        read_hub(folder)
    (folder / "val-00000.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DataError, match="not readable as parquet"):
        read_hub(folder)


def test_without_pyarrow(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.write_hub(tmp_path / "refcoco")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'svp\[parquet\]'"):
        read_hub(folder)
