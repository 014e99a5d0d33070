"""gRefCOCO, Ref-ZOM, FP-RefCOCO, R-RefCOCO and RefCLEF: no target, several, flags, RLE lists."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.refer_sets import (
    OBJECTS,
    H,
    W,
    annotation,
    grefs,
    ref,
    refer_ref,
    rle,
    said,
    write,
)
from svp.pipeline.datasets import check, convert, export_jsonl, open_dataset
from svp.pipeline.datasets.refer import find_sets
from svp.pipeline.datasets.tables import Source
from svp.pipeline.errors import DataError
from svp.pipeline.masks.rle import area, decode


def areas(source: Source) -> dict[int, int]:
    """Pixels of the target of each sentence."""
    return {one.sent_id: area(one.mask) for one in source.expressions}


def test_grefcoco_none_one_and_several(tmp_path: Path) -> None:
    refs = [ref(0, [-1], category_id=[-1]), ref(1, [1]), ref(2, [1, 2]), ref(3, [2, 3])]
    folder = grefs(tmp_path, refs)
    source = open_dataset(folder, split="val", masks=True)
    assert source.name == "grefcoco/unc"
    assert areas(source) == {0: 0, 1: 36, 2: 36 + 30, 3: 30 + 16}
    both = next(one for one in source.expressions if one.sent_id == 3)
    inside = decode(both.mask)
    assert inside[5, 17] and inside[13, 22] and not inside[5, 5]
    assert [n for n in source.notices if "1 object with an empty mask" in n]


def test_grefcoco_as_its_loaders_read_it(tmp_path: Path) -> None:
    """Crowds are no part of a target, polygons without an inside are passed over."""
    source = open_dataset(grefs(tmp_path, [ref(0, [1, 4]), ref(1, [5])]), split="val")
    assert areas(source) == {0: 36, 1: 36}


def test_the_pickle_is_preferred_to_the_json(tmp_path: Path) -> None:
    grefs(tmp_path, [ref(0, [1])])
    folder = write(tmp_path / "grefcoco", [ref(0, [1, 2])], name="grefs(unc).p")
    assert areas(open_dataset(folder, split="val")) == {0: 66}
    named = open_dataset(folder / "grefs(unc).json", split="val")
    assert areas(named) == {0: 66}, "one set, whichever of its files is named"


def test_sets_are_named_beside_each_other(tmp_path: Path) -> None:
    grefs(tmp_path, [ref(0, [1, 2])])
    write(tmp_path / "refcoco", [refer_ref(0, 1)])
    assert list(find_sets(tmp_path)) == ["grefcoco", "refcoco"]
    source = open_dataset("refcoco,grefcoco", root=tmp_path, split="val")
    assert len(source.images) == 1 and sorted(area(e.mask) for e in source.expressions) == [36, 66]


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (ref(9, [1, 99]), "ref 9: ann_id 99 is not in instances.json"),
        (ref(9, [1, 1]), r"ref_id 9: ann_id \[1, 1\] has an id twice"),
        (ref(9, [1, -1]), "ref_id 9: ann_id -1 is not an id"),
        (ref(9, [4]), "ref 9: all its objects are crowds"),
        (ref(9, [6]), "ref 9: ann_id 6 has no polygon of three points"),
        (ref(9, None), "ref_id 9: ann_id None is not an id"),
        (ref(9, [1], sent_ids=[5]), "ref_id 9: sent_ids do not match"),
        (ref(9, [1], said(9, exist=1)), "ref_id 9: exist 1 is not true or false"),
    ],
)
def test_a_bad_ref_is_named(wrong: dict[str, Any], rule: str, tmp_path: Path) -> None:
    objects = [*OBJECTS, annotation(6, [[1, 2, 3, 4]])]
    folder = grefs(tmp_path, [ref(0, [1]), ref(1, [2]), wrong], objects)
    with pytest.raises(DataError, match=rf"grefs\(unc\).json.*{rule}"):
        open_dataset(folder, split="val")
    source = open_dataset(folder, split="val", max_failures=1)
    assert areas(source) == {0: 36, 1: 30} and source.faults.found == 1


@pytest.mark.parametrize("text", ['{"refs": []}', "[", "[NaN]", "3"])
def test_a_file_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    folder = grefs(tmp_path, [])
    (folder / "grefs(unc).json").write_text(text)
    with pytest.raises(DataError, match=r"grefs\(unc\).json"):
        open_dataset(folder)


def test_ref_zom(tmp_path: Path) -> None:
    refs = [
        refer_ref(0, [], source="zero"),
        refer_ref(1, 1, source="one"),
        refer_ref(2, [2, 3], source="many"),
    ]
    folder = write(tmp_path / "ref-zom", refs, name="refs(final).p")
    assert areas(open_dataset(folder, split="val")) == {0: 0, 1: 36, 2: 46}
    for source, ids in (("zero", 1), ("one", [])):
        write(folder, [refer_ref(0, 1), refer_ref(1, ids, source=source)], name="refs(final).p")
        with pytest.raises(DataError, match=f"ref_id 1: source '{source}', yet ann_id is"):
            open_dataset(folder, split="val")


def falsely(sent_id: int, *, false: bool) -> dict[str, Any]:
    """A sentence of FP-RefCOCO."""
    return said(sent_id, is_false_premise=false, gt_sent="left cup")


def maybe(sent_id: int, *, false: bool) -> dict[str, Any]:
    """A sentence of R-RefCOCO."""
    return said(sent_id, exist=not false, gt_sent="left cup")


@pytest.mark.parametrize(
    ("folder", "file", "sentence"),
    [
        ("fprefcoco", "refs(berkeley_exclude_unified).p", falsely),
        ("fprefcocog", "refs(berkeley_exclude_unified).p", falsely),
        ("R-refcoco+", "refs(unc_exclude_unified).p", maybe),
    ],
)
def test_flags_empty_the_mask(
    folder: str, file: str, sentence: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A false sentence keeps the id of the object that is there."""
    refs = [refer_ref(0, 1, sentence(0, false=True), sentence(1, false=False))]
    source = open_dataset(write(tmp_path / folder, refs, name=file), split="val")
    assert areas(source) == {0: 0, 1: 36}
    assert len({one.ref_id for one in source.expressions}) == 1


def clef(folder: Path) -> Path:
    names = ("train", "testA", "testB", "testAB", "testBC", "test")
    refs = [refer_ref(n, 1 + n % 2, split=name) for n, name in enumerate(names)]
    objects = [annotation(1, [rle(0, 0), rle(2, 2)]), annotation(2, [rle(5, 5)])]
    return write(folder / "refclef", refs, objects)


def test_refclef_lists_of_rles_and_shared_tests(tmp_path: Path) -> None:
    folder = clef(tmp_path)
    source = open_dataset(folder)
    assert areas(source) == {0: 28, 1: 16, 2: 28, 3: 16, 4: 28, 5: 16}  # overlap counts once
    wanted = {
        "testA": {1, 3}, "testB": {2, 3, 4}, "testC": {4}, "testAB": {3}, "test": {1, 2, 3, 4, 5},
        "train": {0},
    }  # fmt: skip
    convert(folder, tmp_path / "tables")
    for split, ids in wanted.items():
        for place in (folder, tmp_path / "tables"):
            found = open_dataset(place, split=split, images=tmp_path / "images")
            assert set(areas(found)) == ids, (split, place)


def test_refclef_images_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    folder = clef(tmp_path)
    world = json.loads((folder / "instances.json").read_text())
    world["images"][0]["file_name"] = "19/images/19007.jpg"
    (folder / "instances.json").write_text(json.dumps(world))
    photos = tmp_path / "images" / "saiapr_tc-12" / "19" / "images"
    photos.mkdir(parents=True)
    Image.new("RGB", (W, H)).save(photos / "19007.jpg")
    source = open_dataset(folder, split="testA")
    assert source.image_root == tmp_path / "images" / "saiapr_tc-12"


def test_check_convert_and_export(tmp_path: Path) -> None:
    folder = grefs(tmp_path, [ref(0, [-1]), ref(1, [1, 2]), ref(2, [1, 3])])
    report = check(folder)
    assert report.usable and not report.left_out, report.lines()
    assert report.groups["masks"]["objects"] == 3 and report.groups["masks"]["empty"] == 1
    source = open_dataset(folder, split="val")
    convert(folder, tmp_path / "tables")
    assert areas(open_dataset(tmp_path / "tables", split="val", images=tmp_path)) == areas(source)
    assert export_jsonl(source, tmp_path / "val.jsonl") == 3
    again = open_dataset(tmp_path / "val.jsonl", images=source.image_root, split="val")
    assert sorted(area(one.mask) for one in again.expressions) == [0, 52, 66]
