"""REFER folders: tables, splits, google, and every way the two files can disagree."""

import json
from pathlib import Path
from typing import Any

import pytest

from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.refer import find_sets, read_refer
from svp.pipeline.errors import ConfigError, DataError, MissingError


def test_tables_are_sorted_and_merged(world: Any, tmp_path: Path) -> None:
    made = read_refer(world.write_refer(tmp_path / "refcoco"))
    assert made.title == "refcoco/unc"
    assert [entry.image_id for entry in made.images] == [1, 2, 3, 4, 5]
    keys = [(row.image_id, row.ref_id, row.sent_id) for row in made.sentences]
    assert keys == sorted(keys) and len(keys) == 20
    assert made.sentences[0].sent == "thing 2"  # lowered and stripped, as the published loaders do
    assert set(made.files) == {"refcoco/instances.json", "refcoco/refs(unc).p"}
    assert {len(file.sha256) for file in made.files.values()} == {64}
    assert "sample: 5 of 19,994 images, 10 of 50,000 refs" in made.notices[0]


def test_split_is_the_union_of_its_images_each_once(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco")
    source = open_dataset(folder, split="train")
    assert [record.image_id for record in source.images] == [1, 2, 3]
    assert len(source.expressions) == 12 and {e.image_id for e in source.expressions} == {1, 2, 3}
    assert [e.text for e in source.expressions[:2]] == ["thing 2", "the same thing"]
    assert len(open_dataset(folder).images) == 5


def test_several_sets_give_the_union(worlds: Any, tmp_path: Path) -> None:
    worlds({"train": [1, 2], "val": [3]}).write_refer(tmp_path / "refcoco")
    worlds({"train": [2, 4], "val": [1]}).write_refer(tmp_path / "refcoco+")
    worlds({"train": [4, 3], "test": [9]}).write_refer(tmp_path / "refcocog", "umd")
    assert list(find_sets(tmp_path)) == ["refcoco", "refcoco+", "refcocog"]
    for where in (tmp_path, "refcocog,refcoco,refcoco+", "refcoco+/unc,refcocog/umd,refcoco"):
        source = open_dataset(where, root=tmp_path, split="train")
        assert [record.image_id for record in source.images] == [1, 2, 3, 4]
    sets = [row.dataset for row in source.sentences]
    assert sets == sorted(sets) and len(source.expressions) == len(sets) == 24
    source = open_dataset(tmp_path, split="test")
    assert [record.image_id for record in source.images] == [9]
    assert "refcoco/unc has no split test: it adds nothing" in source.notices


def test_sets_that_disagree_about_an_image_are_refused(worlds: Any, tmp_path: Path) -> None:
    worlds({"train": [1]}).write_refer(tmp_path / "refcoco")
    other = worlds({"train": [1]})
    other.images[0]["width"] = 99
    other.write_refer(tmp_path / "refcoco+")
    with pytest.raises(DataError, match="image 1 is .* 12x16 in one set and .* 12x99 in refcoco"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("value", ["testAB", "testA ", "TRAIN", "A", "test", ""])
def test_splits_match_exactly(value: str, world: Any, tmp_path: Path) -> None:
    world.refs[3]["split"] = value
    with pytest.raises(DataError, match="ref 3: split .* is not one of testA, testB, train, val"):
        read_refer(world.write_refer(tmp_path / "refcoco"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ann_id": -1},
        {"ann_id": None},
        {"image_id": True},
        {"sent_ids": [5]},
        {"sentences": "x"},
        {"split": None},
        {"split": "dev", "image_id": 77, "ann_id": 88},
    ],
)
def test_a_bad_ref_costs_itself(wrong: dict[str, Any], world: Any, tmp_path: Path) -> None:
    """Left out, named and counted once, however much is wrong with it."""
    for row in world.refs[:5]:
        row.update(wrong)
    folder = world.write_refer(tmp_path / "refcoco")
    made = read_refer(folder, max_failures=None)
    assert made.faults.found == 5 and len(made.sentences) == 10
    assert all("refs(unc).p: ref" in line for line in made.faults.lines)
    with pytest.raises(DataError, match="5 problems"):
        read_refer(folder)


def test_google_is_refused_unless_allowed(worlds: Any, tmp_path: Path) -> None:
    both = worlds({"train": [1, 2], "val": [2]})
    folder = both.write_refer(tmp_path / "refcocog", "google")
    with pytest.raises(ConfigError, match="--allow-google"):
        open_dataset(folder, split="train")
    source = open_dataset(folder, split="train", allow_google=True)
    assert len(source.images) == 2
    leak = "leak: refcocog/google train shares 1 image (2 refs) with refcocog/google val"
    assert leak in source.notices


def test_split_by_defaults_and_choices(worlds: Any, tmp_path: Path) -> None:
    folder = worlds({"train": [1]}).write_refer(tmp_path / "refcocog", "umd")
    worlds({"train": [1, 2]}).write_refer(folder, "google")
    assert read_refer(folder).split_by == "umd"
    assert read_refer(folder, "google", allow_google=True).split_by == "google"
    assert open_dataset(folder / "refs(umd).p").name == "refcocog/umd"
    with pytest.raises(MissingError, match="no refs.unc..p; splits found: google, umd"):
        read_refer(folder, "unc")
    own = worlds({"train": [1]}).write_refer(tmp_path / "mine", "own")
    assert read_refer(own).title == "mine/own"


def broken(world: Any, case: str) -> str:
    """Damage the world; returns what the error must say."""
    match case:
        case "image":
            world.refs[1]["image_id"] = 77
            return "ref 1: image_id 77 is not in instances.json"
        case "annotation":
            world.refs[1]["ann_id"] = 77
            return "ref 1: ann_id 77 is not in instances.json"
        case "other image":
            world.annotations[1]["image_id"] = 4
            return "ref 1: ann_id 1001 belongs to image 4, not 3"
        case "ref twice":
            world.refs[1]["ref_id"] = 0
            return "ref 0: ref_id 0 is used twice"
        case "sentence twice":
            world.refs[1]["sentences"][0]["sent_id"] = world.refs[1]["sent_ids"][0] = 0
            return "ref 1: sent_id 0 is used twice"
        case "no sentence":
            world.refs[1]["sentences"], world.refs[1]["sent_ids"] = [], []
            return "ref 1: has no sentence"
        case "object twice":
            world.annotations.append(dict(world.annotations[0]))
            return "annotation 1000 is given twice"
        case "image twice":
            world.images.append(dict(world.images[0]))
            return "id 3 is given twice"
        case "unknown image":
            world.annotations[0]["image_id"] = 78
            return "annotation 1000: image_id 78 is not among the images"
        case "no segmentation":
            del world.annotations[0]["segmentation"]
            return "annotation 1000: segmentation is missing"
        case "traversal":
            world.images[0]["file_name"] = "../../etc/passwd"
            return "id 3.: file name .* is refused: it holds a .. component"
        case "height":
            world.images[0]["height"] = "12"
            return "height '12' is not an integer in 1"
        case "zero":
            world.images[0]["width"] = 0
            return "width 0 is not an integer in 1"
        case "bool":
            world.images[0]["id"] = True
            return "id True is not an integer"
    raise AssertionError(case)


CASES = [
    "image",
    "annotation",
    "other image",
    "ref twice",
    "sentence twice",
    "no sentence",
    "object twice",
    "image twice",
    "unknown image",
    "no segmentation",
    "traversal",
    "height",
    "zero",
    "bool",
]


@pytest.mark.parametrize("case", CASES)
def test_disagreements_name_the_record(case: str, world: Any, tmp_path: Path) -> None:
    rule = broken(world, case)
    with pytest.raises(DataError, match=rule):
        read_refer(world.write_refer(tmp_path / "refcoco"))


def test_all_problems_of_a_file_are_listed_up_to_100(worlds: Any, tmp_path: Path) -> None:
    many = worlds({"train": list(range(1, 81))})
    for ref in many.refs:
        ref["split"] = "testAB"
    with pytest.raises(DataError, match=r"160 problems \(the first 100 shown\)") as caught:
        read_refer(many.write_refer(tmp_path / "refcoco", photos=""))
    assert len(caught.value.problems) == 100


def test_bad_polygons_are_errors_when_masks_are_used(world: Any, tmp_path: Path) -> None:
    world.annotations[0]["segmentation"] = [[1, 2, 3, 4]]
    world.annotations[1]["segmentation"] = []
    source = open_dataset(world.write_refer(tmp_path / "refcoco"), split="train")
    assert len(source.images) == 3  # superpixels need no mask
    with pytest.raises(DataError, match="refcoco annotation 1000, polygon 0: 4 numbers"):
        _ = source.expressions
    with pytest.raises(DataError, match="annotation 1000"):
        open_dataset(tmp_path / "refcoco", split="train", masks=True)
    world.annotations[0]["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    world.write_refer(tmp_path / "refcoco")
    source = open_dataset(tmp_path / "refcoco", split="train", masks=True)
    assert "1 object with an empty mask: trained with model.rejection only" in source.notices


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"images": [,]}', "not JSON at line 1, column 13"),
        ('{"images": []\n "annotations": []}', "not JSON at line 2, column 2"),
        ('{"images": [{"id": NaN}]}', "NaN is not allowed"),
        ('{"images": {}}', "needs an object with a list"),
        ("[]", "needs an object with a list"),
        ('{"images": [], "annotations": 3}', "`annotations` is not a list"),
        ('{"images": [7]}', "7 is not an object"),
        ("[" * 100_000, "nested too deeply"),
        ("", "not JSON at line 1, column 1"),
    ],
)
def test_malformed_instances(text: str, rule: str, world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco")
    (folder / "instances.json").write_text(text)
    with pytest.raises(DataError, match=rule) as caught:
        read_refer(folder)
    assert "instances.json" in str(caught.value)


def test_missing_files(world: Any, tmp_path: Path) -> None:
    folder = world.write_refer(tmp_path / "refcoco")
    (folder / "instances.json").unlink()
    with pytest.raises(MissingError, match="instances.json"):
        read_refer(folder)


def test_unused_annotations_and_images_are_not_looked_at(world: Any, tmp_path: Path) -> None:
    """The published files hold every object of their images, most of them never referred to."""
    extra = {"id": 5, "image_id": 999, "segmentation": None}
    world.annotations.append(extra)
    world.images.append({"id": 55, "file_name": "b.jpg", "height": 3, "width": 3})
    folder = world.write_refer(tmp_path / "refcoco", photos="")
    assert 5 not in read_refer(folder).annotations
    assert 55 not in {entry.image_id for entry in read_refer(folder).images}
    assert json.loads((folder / "instances.json").read_text())["annotations"][-1] == extra


def test_a_bad_record_costs_itself(world: Any, tmp_path: Path) -> None:
    """A ref of another split, an annotation without a segmentation: left out, named, counted."""
    world.refs[0]["split"] = "dev"
    lost = world.refs[1]["ann_id"]
    next(item for item in world.annotations if item["id"] == lost).pop("segmentation")
    folder = world.write_refer(tmp_path / "refcoco")
    with pytest.raises(DataError):
        read_refer(folder)
    made = read_refer(folder, max_failures=None)
    found = {row.ref_id for row in made.sentences}
    assert found == {ref["ref_id"] for ref in world.refs[2:]}
    said = "\n".join(made.faults.lines)
    assert made.faults.found == len(made.faults.lines) >= 2
    assert "refs(unc).p: ref 0: split 'dev' is not one of" in said
    assert f"instances.json: annotation {lost}: segmentation is missing" in said
    source = open_dataset(folder, max_failures=None)
    assert source.faults == made.faults
    with pytest.raises(DataError, match="more than --max-failures 1"):
        world.refs[2]["split"] = "dev"
        read_refer(world.write_refer(tmp_path / "refcoco"), max_failures=1)


def test_masks_that_are_not_used_are_not_looked_at(world: Any, tmp_path: Path) -> None:
    world.annotations[0]["segmentation"] = [[1, 2, 3, 4]]
    folder = world.write_refer(tmp_path / "refcoco")
    source = open_dataset(folder, split="train", max_failures=None)
    bad = world.annotations[0]["id"]
    assert list(source.bad_masks) == [("refcoco", bad)]
    assert "polygon 0: 4 numbers" in source.bad_masks["refcoco", bad]
    assert ("refcoco", bad) not in source.good_masks and len(source.good_masks) > 1
    told = open_dataset(folder, split="train", masks=True, max_failures=None)
    assert any("polygon 0: 4 numbers" in notice for notice in told.notices)
