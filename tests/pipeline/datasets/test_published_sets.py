"""ReasonSeg, PhraseCut, RefCOCOm and GSEval in their published forms, each trap by name."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from support.published_sets import (
    OUTER,
    SMALL,
    H,
    W,
    gseval,
    line,
    part,
    phrasecut,
    reason,
    reasonseg,
    refcocom,
    task,
    text,
)
from svp.pipeline.datasets import check, convert, export_jsonl, open_dataset
from svp.pipeline.errors import DataError
from svp.pipeline.masks.outline_fill import fill_outlined
from svp.pipeline.masks.rle import area, decode

INNER = [[15, 10], [25, 10], [25, 20], [15, 20]]


# --- ReasonSeg


def by_opencv(shapes: list[tuple[str, list[list[float]]]]) -> Any:
    """The mask of LISA's program: 1 target, 255 ignored."""

    def draw(points: list[list[float]], value: int, mask: Any) -> Any:
        whole = np.array([points], dtype=np.int32)
        cv2.polylines(mask, whole, True, value, 1)
        cv2.fillPoly(mask, whole, value)
        return mask

    known = [(label, points) for label, points in shapes if label.lower() != "flag"]
    areas = [draw(points, 1, np.zeros((H, W), np.uint8)).sum() for _, points in known]
    mask = np.zeros((H, W), np.uint8)
    for index in np.argsort(areas)[::-1]:
        label, points = known[index]
        draw(points, 255 if "ignore" in label.lower() else 1, mask)
    return mask


LAYERS: list[tuple[str, list[list[float]]]] = [
    ("target", SMALL), ("Ignore", INNER), ("flag", [[0, 0], [49, 0], [49, 39]]), ("target", OUTER)
]  # fmt: skip


def test_reasonseg_draws_as_lisa_does(tmp_path: Path) -> None:
    """The smaller shape lies on top: a target in an ignored region in a target; a flag is no shape."""
    source = open_dataset(reasonseg(tmp_path, val_a=reason(*LAYERS)), split="val", masks=True)
    (said,) = source.expressions
    wanted = by_opencv(LAYERS)
    assert said.ignore is not None and (wanted == 255).any()
    np.testing.assert_array_equal(decode(said.mask), wanted == 1)
    np.testing.assert_array_equal(decode(said.ignore), wanted == 255)


def test_outlines_are_opencvs_pixel_for_pixel() -> None:
    """Random polygons, most of which cross themselves, up to the border."""
    rng = np.random.default_rng(5)
    for _ in range(300):
        height, width = rng.integers(5, 60, 2).tolist()
        corners = rng.uniform(0, 1, (rng.integers(3, 9), 2)) * [width - 0.1, height - 0.1]
        whole = np.trunc(corners).astype(np.int32)
        if (whole == np.roll(whole, 1, 0)).all(1).any():
            continue  # OpenCV draws the line between equal points differently from release to release
        mask = np.zeros((height, width), np.uint8)
        cv2.polylines(mask, whole[None], True, 1, 1)
        cv2.fillPoly(mask, whole[None], 1)
        np.testing.assert_array_equal(fill_outlined(corners.tolist(), height, width), mask)


def test_reasonseg_asks_the_first_text_outside_training(tmp_path: Path) -> None:
    shapes = ("target", OUTER)
    folder = reasonseg(
        tmp_path, train_a=reason(shapes), val_b=reason(shapes), test_c=reason(shapes)
    )
    counts = {split: len(open_dataset(folder, split=split).expressions) for split in
              ("train", "val", "test")}  # fmt: skip
    assert counts == {"train": 2, "val": 1, "test": 1}


def test_reasonseg_files_may_be_cp1252(tmp_path: Path) -> None:
    folder = reasonseg(tmp_path, val_a=reason(("target", OUTER)), val_b=reason(("target", OUTER)))
    raw = json.dumps(reason(("target", OUTER), text=["the man’s café"]), ensure_ascii=False)
    (folder / "val" / "a.json").write_bytes(raw.encode("cp1252"))
    (folder / "val" / "b.json").write_bytes(raw.encode("utf-8"))
    assert [one.text for one in open_dataset(folder, split="val").expressions] == [
        "the man’s café"
    ] * 2
    (folder / "val" / "a.json").write_bytes(raw.encode("cp1252") + b"\x81")
    with pytest.raises(DataError, match="val/a.json: byte .* is neither UTF-8 nor cp1252"):
        open_dataset(folder)


def test_false_premises_of_sesame_have_no_target(tmp_path: Path) -> None:
    value = reason(*LAYERS, false_premise_QA=[["the dog", False, "there is none"]])
    source = open_dataset(reasonseg(tmp_path, val_a=value), split="val")
    assert {one.text: area(one.mask) > 0 for one in source.expressions} == {
        "what could hold coffee": True, "the dog": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("[", "not JSON"),
        ("[]", "not an object"),
        (reason(text="cup"), "text 'cup' is not a list"),
        (reason(text=[]), "text is empty"),
        (reason(text=[3]), "text 3 is not a string"),
        (reason(shapes=[3]), r"shapes\[0\]: needs an object with a `label`"),
        (reason(("target", [[1, 2], [3, 4]])), r"shapes\[0\]: points .* are not three or more"),
        (reason(("target", [[1, 2], [3, "4"], [5, 6]])), r"shapes\[0\]: points"),
        (reason(("target", [[1, 2], [3, 1e300], [5, 6]])), r"shapes\[0\]: points"),
        (reason(("target", OUTER), false_premise_QA=["x"]), "false_premise_QA 'x' is not"),
    ],
)
def test_a_bad_file_of_reasonseg_is_named(value: object, rule: str, tmp_path: Path) -> None:
    good = reason(("target", OUTER))
    folder = reasonseg(tmp_path, val_a=good, val_b=good, val_c=good)
    text(folder / "val" / "b.json", value)
    with pytest.raises(DataError, match=f"ReasonSeg: 1 problem: val/b.json.*{rule}"):
        open_dataset(folder, split="val")
    assert len(open_dataset(folder, split="val", max_failures=1).expressions) == 2


def test_an_ignored_region_survives_conversion_and_no_export(tmp_path: Path) -> None:
    folder = reasonseg(tmp_path, val_a=reason(*LAYERS))
    report = check(folder)
    assert report.usable and report.groups["masks"]["with an ignored region"] == 1
    source = open_dataset(folder, split="val")
    convert(folder, tmp_path / "tables")
    again = open_dataset(tmp_path / "tables", split="val", images=folder)
    for one, other in zip(source.expressions, again.expressions, strict=True):
        assert (one.mask, one.ignore, one.text) == (other.mask, other.ignore, other.text)
    with pytest.raises(DataError, match="region that counts neither for nor against"):
        export_jsonl(source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


# --- PhraseCut


def test_phrasecut_unites_all_instances_as_pillow_draws(tmp_path: Path) -> None:
    odd = [[30, 32], [45, 38], [31, 38]]
    folder = phrasecut(
        tmp_path, val=[task(0, [[OUTER, SMALL], [odd]]), task(1, [[SMALL, [[3, 3]]]])]
    )
    source = open_dataset(folder, split="val", masks=True)
    wanted = np.zeros((H, W), bool)
    for points in (OUTER, SMALL, odd):
        canvas = Image.new("L", (W, H), 0)
        whole = [(int(x), int(y)) for x, y in points]
        ImageDraw.Draw(canvas).polygon(whole, outline=1, fill=1)
        wanted |= np.array(canvas) > 0
    first, second = source.expressions
    np.testing.assert_array_equal(decode(first.mask), wanted)
    assert area(second.mask) == 16  # with the outline; a single point encloses nothing


def test_phrasecut_val_is_without_miniv(tmp_path: Path) -> None:
    folder = phrasecut(tmp_path, val=[task(0, [[OUTER]])], miniv=[task(1, [[OUTER]])])
    for split, number in (("val", 0), ("miniv", 1)):
        (said,) = open_dataset(folder, split=split).expressions
        assert said.sent_id == 700_000 + number
    assert check(folder).usable


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (task(0, [[OUTER]]), "task 2: task_id is that of an earlier task"),
        (task(5, [[OUTER]], image_id=8), "task 2: image_id 8 is not in image_data_split3000"),
        (task(5, [[OUTER]], task_id="a__b"), "task 2: task_id 'a__b' is not IMAGE__NUMBER"),
        (task(5, [[[1, 2, 3, 4, 5, 6]]]), "task 2: polygon .* is not a list of "),
        (task(5, {}), "task 2: Polygons .* is not a list"),
        (task(5, [[OUTER]], phrase=None), "task 2: phrase None is not a string"),
    ],
)
def test_a_bad_task_is_named(wrong: dict[str, Any], rule: str, tmp_path: Path) -> None:
    folder = phrasecut(tmp_path, val=[task(0, [[OUTER]]), task(1, [[SMALL]]), wrong])
    with pytest.raises(DataError, match=f"refer_val.json: 1 problem: {rule}"):
        open_dataset(folder, split="val")
    assert len(open_dataset(folder, split="val", max_failures=1).expressions) == 2


# --- RefCOCOm


def test_refcocom_masks_are_files(tmp_path: Path) -> None:
    source = open_dataset(refcocom(tmp_path, part(1), part("2")), split="val")
    assert [one.text for one in source.expressions][:2] == [
        "left ear of the dog", "the dog's left ear",
    ]  # fmt: skip
    assert [area(one.mask) for one in source.expressions] == [30] * 4
    assert decode(source.expressions[2].mask)[10, 12] and len(source.images) == 1
    before = source.sha256["masks"]
    Image.fromarray(np.full((H, W), 255, np.uint8)).save(tmp_path / "RefCOCOm" / "masks" / "2.png")
    assert open_dataset(tmp_path / "RefCOCOm", split="val").sha256["masks"] != before


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (part(9), "record 2: masks/9.png"),
        (part(3), r"record 2: masks/3.png is 9x9, another of .*40x50"),
        (part("../1"), "record 2: file name .* is refused"),
        (part(None), "record 2: segment_id None is neither"),
        (part(1, sentences=[]), r"record 2: sentences \[\] is not a list of some"),
        (part(1, sentences=[{"raw": "x"}]), "record 2: sentence .* has no text `sent`"),
        (part(1, img_name="/a.jpg"), "record 2: file name '/a.jpg' is refused"),
    ],
)
def test_a_bad_part_is_named(wrong: dict[str, Any], rule: str, tmp_path: Path) -> None:
    folder = refcocom(tmp_path, part(1), part(2), wrong)
    with pytest.raises(DataError, match=f"val.json: 1 problem: {rule}"):
        open_dataset(folder, split="val")
    assert len(open_dataset(folder, split="val", max_failures=1).expressions) == 4


# --- GSEval


def test_gseval(tmp_path: Path) -> None:
    source = open_dataset(gseval(tmp_path, line(0), line(1)), split="val", masks=True)
    assert [area(one.mask) for one in source.expressions] == [50, 50]
    assert source.image_root.name == "unlabeled2017" and check(tmp_path / "GSEval").usable


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (line(0), "line 3: idx 0 is given twice"),
        (line("x"), "line 3: idx 'x' is not an integer"),
        (line(5, segmentation=[[1, 2, 3]]), "line 3: segmentation .* is not an RLE with a size"),
        (line(5, segmentation={"size": [9, 9], "counts": [81]}), "line 3: .* has another size"),
        (line(5, label=None), "line 3: label None is not a string"),
        (line(5, image_path="../x.jpg"), "line 3: file name .* is refused"),
    ],
)
def test_a_bad_line_is_named(wrong: dict[str, Any], rule: str, tmp_path: Path) -> None:
    folder = gseval(tmp_path, line(0), line(1), wrong)
    with pytest.raises(DataError, match=f"Eval.jsonl: 1 problem: {rule}"):
        open_dataset(folder, split="val")
    assert len(open_dataset(folder, split="val", max_failures=1).expressions) == 2


# --- all


@pytest.mark.parametrize("name", ["VGPhraseCut_v0", "RefCOCOm", "GSEval", "ReasonSeg"])
def test_convert_gives_the_same_targets(name: str, tmp_path: Path) -> None:
    phrasecut(tmp_path, val=[task(0, [[OUTER]])])
    refcocom(tmp_path, part(1))
    gseval(tmp_path, line(0))
    reasonseg(tmp_path, val_a=reason(("target", OUTER)))
    source = open_dataset(tmp_path / name, split="val")
    convert(tmp_path / name, tmp_path / "tables")
    again = open_dataset(tmp_path / "tables", split="val", images=source.image_root)
    assert [(e.text, e.mask) for e in again.expressions] == [
        (e.text, e.mask) for e in source.expressions
    ]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"GroundingSuite-Eval.jsonl": ""}, r"GroundingSuite-Eval\.jsonl"),
        ({"image_data_split3000.json": "[]", "refer_val.json": "[]"}, r"refer_val\.json"),
        ({"annotations/val.json": "[]", "masks/0.png": ""}, r"val\.json"),
    ],
    ids=["gseval", "phrasecut", "refcocom"],
)
def test_files_without_a_record_are_named(tmp_path: Path, files: dict[str, str], name: str) -> None:
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=rf"{name}.*: no record that can be used"):
        open_dataset(tmp_path, split="val")
